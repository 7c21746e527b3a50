"""Cut networks against their dense ones on the CPU: PyTorch and onnxruntime, wall and processor time."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rounds import quartiles, ratios, take_turns
from benchmarks.width_choices import choices
from dhp_sr.allocation.budget import BudgetError
from dhp_sr.archs import build
from dhp_sr.config import load_options
from dhp_sr.deploy import load_model
from dhp_sr.deploy.onnx_export import INPUT, OUTPUT, export_onnx
from dhp_sr.deploy.onnx_runner import open_session
from dhp_sr.hyper import convert
from dhp_sr.metrics import complexity
from dhp_sr.tasks import task_of
from dhp_sr.utils.devices import thread_count

KEY = ("network", "widths", "runtime", "threads", "input")
DENSE = "dense"
SIDES = {"sr": 64, "denoise": 128}
"""Task -> side of the input."""
SIZES = ("num_feat", "num_block", "num_layers", "num_levels")
"""Arguments that tell a saved model's network from that of the option files."""

Run = Callable[[Tensor], object]


@dataclass(frozen=True)
class Candidate:
    """One network to be timed."""

    network: nn.Module
    kept: Mapping[str, int]
    """Group -> channels, empty where they are not known."""


def measure_latency(
    option_file: Path, *, changes: Sequence[str] = (), side: int | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Return rows for the network of an option file, dense and with each choice of widths at half its cost.

    Weights are random: they do not change the time.

    Args:
        option_file: names the network.
        changes: `section.key=value` each.
        side: see `measure`.
        **settings: see `measure`.
    """
    options = load_options(option_file, changes)
    torch.manual_seed(options.manual_seed)
    dense = task_of(options).build_network(options)
    candidates = _candidates(dense, _image(dense, side))
    return measure(type(dense).__name__, candidates, side=side, **settings)


def measure_model(path: Path, **settings: Any) -> list[dict[str, Any]]:
    """Return rows for a saved model and the dense network that its arguments describe.

    Args:
        path: the model file; its run's name, or its own, is that of the widths.
        **settings: see `measure`.

    Raises:
        ModelFileError: the file cannot be loaded.
    """
    cut = load_model(path)
    dense = build(type(cut).__name__, **cut.arguments)
    sizes = ", ".join(f"{name} {cut.arguments[name]}" for name in SIZES if name in cut.arguments)
    label = f"{type(cut).__name__} ({sizes})"
    run = path.resolve().parent
    name = f"searched, {run.parent.name}" if run.name == "models" else path.stem
    return measure(label, {DENSE: Candidate(dense, {}), name: Candidate(cut, {})}, **settings)


def measure(
    label: str,
    candidates: Mapping[str, Candidate],
    *,
    runtimes: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    side: int | None = None,
) -> list[dict[str, Any]]:
    """Time networks in turns, for each runtime and number of threads.

    Args:
        label: name of the network in the rows.
        candidates: name of the widths -> network; DENSE is what the others are compared with.
        runtimes: of RUNTIMES.
        threads: numbers of threads.
        rounds: timed rounds.
        side: of the square input; default: SIDES.
    """
    dense = candidates[DENSE].network
    image = _image(dense, side)
    costs = {name: complexity(one.network, tuple(image.shape)) for name, one in candidates.items()}
    rows = []
    for runtime in runtimes:
        for count in threads:
            turns = _turns(candidates, runtime, count, rounds, image)
            for name, own in turns.items():
                rows.append(
                    {
                        "network": label,
                        "widths": name,
                        "kept": dict(candidates[name].kept),
                        "input": list(image.shape),
                        "macs": costs[name].macs,
                        "macs_ratio": costs[name].macs / costs[DENSE].macs,
                        "params_ratio": costs[name].params / costs[DENSE].params,
                        "runtime": runtime,
                        "threads": count,
                        "rounds": rounds,
                        "wall_ms": quartiles(own.wall_ms),
                        "cpu_ms": quartiles(own.cpu_ms),
                        "speedup": ratios(turns[DENSE].wall_ms, own.wall_ms),
                        "cpu_speedup": ratios(turns[DENSE].cpu_ms, own.cpu_ms),
                    }
                )
    return rows


def _image(network: nn.Module, side: int | None) -> Tensor:
    side = side or SIDES[network.task]
    return torch.rand(
        1, network.in_channels, side, side, generator=torch.Generator().manual_seed(0)
    )


def _candidates(dense: nn.Module, image: Tensor) -> dict[str, Candidate]:
    """Return the dense network and its cuts, without choices that it does not have or that equal an earlier one."""
    found = {DENSE: Candidate(dense.eval(), {})}
    hyper = convert(dense, image)
    for name, choice in choices(hyper.plan).items():
        try:
            choice.narrow(hyper)
            kept = {group: int(mask.sum()) for group, mask in hyper.masks.items()}
            if twins := [other for other, one in found.items() if one.kept == kept]:
                raise BudgetError(f"the same widths as {twins[0]}")
        except BudgetError as error:
            print(f"{type(dense).__name__}, {name}: not measured: {error}", file=sys.stderr)
        else:
            found[name] = Candidate(hyper.cut(check=False), kept)
    return found


def _turns(
    candidates: Mapping[str, Candidate], runtime: str, threads: int, rounds: int, image: Tensor
) -> dict:
    networks = {name: one.network for name, one in candidates.items()}
    with (
        torch.no_grad(),
        thread_count(threads),
        RUNTIMES[runtime](networks, threads, image) as runs,
    ):
        calls = {name: lambda run=run: run(image) for name, run in runs.items()}
        return take_turns(calls, rounds, torch.device("cpu"))


@contextmanager
def _eager(
    networks: Mapping[str, nn.Module], threads: int, image: Tensor
) -> Iterator[dict[str, Run]]:
    yield {name: network.eval() for name, network in networks.items()}


@contextmanager
def _onnx(
    networks: Mapping[str, nn.Module], threads: int, image: Tensor
) -> Iterator[dict[str, Run]]:
    array = image.numpy()
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for number, (name, network) in enumerate(networks.items()):
            path = Path(folder) / f"{number}.onnx"
            export_onnx(network, path, (1, *_small(network)), size_multiple=network.size_multiple)
            session = open_session(path, threads)
            runs[name] = lambda _, session=session: session.run([OUTPUT], {INPUT: array})
        yield runs


def _small(network: nn.Module) -> tuple[int, int, int]:
    side = 2 * network.size_multiple + 14 - 14 % network.size_multiple
    return network.in_channels, side, side


RUNTIMES = {"torch": _eager, "onnxruntime": _onnx}
"""Name -> context manager that makes networks ready to run."""
