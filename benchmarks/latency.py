"""Latency of pruned networks relative to their dense ones, on the CPU.

Runtimes are PyTorch and onnxruntime; wall and processor time are measured.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import Times, measure, quartiles, ratios
from benchmarks.width_choices import width_choices
from dhp_sr.allocation.budget import BudgetError
from dhp_sr.archs import build
from dhp_sr.config import load_options
from dhp_sr.deploy import load_model
from dhp_sr.deploy.onnx_export import export_onnx
from dhp_sr.deploy.onnx_graph import INPUT, OUTPUT
from dhp_sr.deploy.onnx_runner import open_session
from dhp_sr.hyper import convert
from dhp_sr.metrics import complexity
from dhp_sr.tasks import task_of
from dhp_sr.utils.devices import thread_count
from dhp_sr.utils.pixels import round_up

KEY = ("network", "widths", "runtime", "threads", "input")
"""Entries of a row that identify it."""
DENSE = "dense"
INPUT_SIZES = {"sr": 64, "denoise": 128}
"""Task -> height and width of the input."""
EXPORT_SIZE = 14
"""Height and width of the example that networks are exported with, at least."""
SIZE_ARGUMENTS = ("num_feat", "num_block", "num_layers", "num_levels")
"""Arguments that distinguish a saved model's network from that of the option files."""


@dataclass(frozen=True)
class Candidate:
    """A network to be timed."""

    network: nn.Module
    kept: Mapping[str, int]
    """Channel group -> kept channels; empty if unknown."""


def measure_network(
    option_file: Path, *, changes: Sequence[str] = (), size: int | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Measure the network of an option file, dense and with each choice of widths.

    Weights are random: they do not change the time.

    Args:
        option_file: names the network.
        changes: `section.key=value` each.
        size: see `measure_candidates`.
        **settings: see `measure_candidates`.
    """
    options = load_options(option_file, changes)
    torch.manual_seed(options.manual_seed)
    dense = task_of(options).build_network(options)
    candidates = _pruned_candidates(dense, _image(dense, size))
    return measure_candidates(type(dense).__name__, candidates, size=size, **settings)


def measure_model(path: Path, **settings: Any) -> list[dict[str, Any]]:
    """Measure a saved model and the dense network that its arguments describe.

    Args:
        path: model file; the name of its run, or its own, names the widths.
        **settings: see `measure_candidates`.

    Raises:
        ModelFileError: the file cannot be loaded.
    """
    pruned = load_model(path)
    dense = build(type(pruned).__name__, **pruned.arguments)
    arguments = [name for name in SIZE_ARGUMENTS if name in pruned.arguments]
    sizes = ", ".join(f"{name} {pruned.arguments[name]}" for name in arguments)
    label = f"{type(pruned).__name__} ({sizes})"
    widths = path.stem
    folder = path.resolve().parent
    if folder.name == "models":  # of a run
        widths = f"searched, {folder.parent.name}"
    candidates = {DENSE: Candidate(dense, {}), widths: Candidate(pruned, {})}
    return measure_candidates(label, candidates, **settings)


def measure_candidates(
    label: str,
    candidates: Mapping[str, Candidate],
    *,
    runtimes: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    size: int | None = None,
) -> list[dict[str, Any]]:
    """Time networks, interleaved, for each runtime and number of threads.

    Args:
        label: name of the network in the rows.
        candidates: name of the widths -> network; the others are compared with DENSE.
        runtimes: of RUNTIMES.
        threads: numbers of threads.
        rounds: timed rounds.
        size: height and width of the input; default: INPUT_SIZES.
    """
    image = _image(candidates[DENSE].network, size)
    costs = {}
    for name, candidate in candidates.items():
        costs[name] = complexity(candidate.network, tuple(image.shape))
    rows = []
    for runtime in runtimes:
        for count in threads:
            times = _measure_runtime(candidates, runtime, count, rounds, image)
            for name, candidate in candidates.items():
                rows.append(
                    {
                        "network": label,
                        "widths": name,
                        "kept": dict(candidate.kept),
                        "input": list(image.shape),
                        "macs": costs[name].macs,
                        "macs_ratio": costs[name].macs / costs[DENSE].macs,
                        "params_ratio": costs[name].params / costs[DENSE].params,
                        "runtime": runtime,
                        "threads": count,
                        "rounds": rounds,
                        "wall_ms": quartiles(times[name].wall_ms),
                        "cpu_ms": quartiles(times[name].cpu_ms),
                        "speedup": ratios(times[DENSE].wall_ms, times[name].wall_ms),
                        "cpu_speedup": ratios(times[DENSE].cpu_ms, times[name].cpu_ms),
                    }
                )
    return rows


def _image(network: nn.Module, size: int | None) -> Tensor:
    size = size or INPUT_SIZES[network.task]
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, network.in_channels, size, size, generator=generator)


def _pruned_candidates(dense: nn.Module, image: Tensor) -> dict[str, Candidate]:
    """The dense network and its pruned copies; choices that are not possible are reported."""
    candidates = {DENSE: Candidate(dense.eval(), {})}
    hyper = convert(dense, image)
    for name, choice in width_choices(hyper.plan).items():
        try:
            choice.apply(hyper)
        except BudgetError as error:
            print(f"{type(dense).__name__}, {name}: not measured: {error}", file=sys.stderr)
            continue
        kept = {group: int(mask.sum()) for group, mask in hyper.masks.items()}
        equal = [other for other, candidate in candidates.items() if candidate.kept == kept]
        if equal:
            reason = f"the same widths as {equal[0]}"
            print(f"{type(dense).__name__}, {name}: not measured: {reason}", file=sys.stderr)
            continue
        candidates[name] = Candidate(hyper.cut(check=False), kept)
    return candidates


def _measure_runtime(
    candidates: Mapping[str, Candidate], runtime: str, threads: int, rounds: int, image: Tensor
) -> dict[str, Times]:
    networks = {name: candidate.network for name, candidate in candidates.items()}
    with (
        torch.no_grad(),
        thread_count(threads),
        RUNTIMES[runtime](networks, threads, image) as runs,
    ):
        return measure(runs, rounds, torch.device("cpu"))


@contextmanager
def _torch_runs(
    networks: Mapping[str, nn.Module], threads: int, image: Tensor
) -> Iterator[dict[str, Callable[[], object]]]:
    yield {name: partial(network.eval(), image) for name, network in networks.items()}


@contextmanager
def _onnx_runs(
    networks: Mapping[str, nn.Module], threads: int, image: Tensor
) -> Iterator[dict[str, Callable[[], object]]]:
    inputs = {INPUT: image.numpy()}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for index, (name, network) in enumerate(networks.items()):
            path = Path(folder) / f"{index}.onnx"  # names of widths are not names of files
            size = round_up(EXPORT_SIZE, network.size_multiple)
            shape = (1, network.in_channels, size, size)
            export_onnx(network, path, shape, size_multiple=network.size_multiple)
            session = open_session(path, threads)
            runs[name] = partial(session.run, [OUTPUT], inputs)
        yield runs


RUNTIMES = {"torch": _torch_runs, "onnxruntime": _onnx_runs}
"""Name -> context manager that yields a function per network, which runs it once."""
