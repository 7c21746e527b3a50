"""Choice of the fastest installed runtime that agrees with the default, by a short trial."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.runner import Images, Runner
from dhp_sr.deploy.runtimes import (
    GRAPH_SUFFIXES,
    RUNTIMES,
    default_runtime,
    export_in_memory,
    open_runner,
)
from dhp_sr.deploy.verify import TOLERANCES, noise_image
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.timing import relative_speeds, time_interleaved

TRIAL_SIDE = 96
"""Height and width of the trial's image: long enough for the arithmetic to dominate."""

TRIAL_ROUNDS = 5
WORTHWHILE_SECONDS = 30.0
"""Work below this is done by the default: the trial exports the network, which takes as long as
another runtime could save."""

MIN_SPEEDUP = 1.1
"""A runtime that is faster by less than the noise of a short trial is not preferred."""

ALLOWED_DIFFERENCES = {**TOLERANCES, "int8": 0.05}
"""Precision -> largest difference of two runtimes for the same graph. In int8 they round alike but
for ties: measured are 0.0025, where that to PyTorch may be a hundred times as large."""


@dataclass(frozen=True)
class Choice:
    """A runtime that was chosen, and why."""

    runner: Runner
    reason: str
    """One line for the user; empty where nothing was tried."""


def open_fastest(
    path: str | Path,
    *,
    pixels: float,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    threads: int | None = None,
) -> Choice:
    """Open a model with the fastest installed runtime that gives the same results.

    Args:
        path: As for `open_runner`.
        pixels: Pixels of all inputs together, for which the choice is made.
        device: As for `open_runner`.
        precision: As for `open_runner`.
        threads: As for `open_runner`.

    Raises:
        UserError: As for `open_runner`, from the default runtime; another runtime that fails is
            not chosen.
    """
    path = Path(path)
    device = torch.device(device)
    default = open_runner(path, device=device, precision=precision, threads=threads)
    name = default.runtime
    candidates = candidate_runtimes(path, device)
    if not candidates or not default.info.restores_images:
        return Choice(default, "")
    image = trial_image(default)
    default(image)
    milliseconds = time_interleaved({name: partial(default, image)}, device, 1, warm_up=1)[name][0]
    seconds = milliseconds / 1000 * pixels / image[0, 0].size
    if seconds < WORTHWHILE_SECONDS:
        return Choice(default, "")
    graph = Graph(path)
    if path.suffix.lower() not in GRAPH_SUFFIXES:
        try:
            graph = export_in_memory(path, precision)
        except UserError as error:
            return Choice(default, f"runtime: {name}; others need an export: {error}")
    runners = {name: default}
    remarks = []
    graph_precision = precision_of(graph, precision)
    for candidate in candidates:
        try:
            runner = RUNTIMES[candidate].open(graph, device, precision, threads)
            check_agreement(runner, default, image, graph_precision)
            runners[candidate] = runner
        except UserError as error:
            remarks.append(f"{candidate}: {error}")
    return _fastest(runners, image, device, remarks)


def candidate_runtimes(path: Path, device: torch.device) -> list[str]:
    """Return the installed runtimes that could run a file beside its default."""
    suffix = path.suffix.lower()
    default = default_runtime(path)
    names = []
    for name, runtime in RUNTIMES.items():
        # A file of ours reaches every runtime as an export, a graph file only those that read it.
        reads = suffix in runtime.suffixes or suffix not in GRAPH_SUFFIXES
        usable = runtime.is_candidate and runtime.is_installed and device.type in runtime.devices
        if name != default and reads and usable:
            names.append(name)
    # Exporting needs ONNX's packages, whatever runs the result.
    if suffix not in GRAPH_SUFFIXES and not RUNTIMES["onnxruntime"].is_installed:
        return []
    return names


def precision_of(graph: Graph, precision: str | None) -> str:
    """Return the coarsest precision that a graph is computed in.

    Args:
        graph: A file, or an export in memory.
        precision: Named by the user, of an export; None: fp32. A file has its own.
    """
    if graph.content is not None or graph.path.suffix.lower() != ".onnx":
        return precision or "fp32"
    # Imported only when asked for, as in `runtimes`.
    from dhp_sr.deploy.onnx_check import parse_onnx
    from dhp_sr.deploy.onnx_runner import coarsest_precision

    return coarsest_precision(parse_onnx(graph.path.read_bytes()))


def check_agreement(runner: Runner, default: Runner, image: Images, precision: str) -> None:
    """Check that a runtime gives the default runtime's result for an image.

    Args:
        runner: The runtime.
        default: The default runtime.
        image: Input of both.
        precision: Key of `ALLOWED_DIFFERENCES`.

    Raises:
        UserError: It fails, or differs by more than the precision explains.
    """
    expected = np.asarray(default(image))
    result = np.asarray(runner(image))
    tolerance = ALLOWED_DIFFERENCES[precision]
    scale = max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(result - expected).max()) / scale
    # "not <=" refuses NaN, too.
    if result.shape != expected.shape or not difference <= tolerance:
        raise UserError(
            f"expected the output of {default.runtime} within {tolerance:g}, "
            f"got a difference of {difference:g}"
        )


def trial_image(runner: Runner) -> Images:
    """Return an image for a trial, of a size that the network accepts."""
    side = runner.info.sizes.round_up(TRIAL_SIDE)
    return noise_image((1, runner.in_channels, side, side)).numpy()


def _fastest(
    runners: dict[str, Runner], image: Images, device: torch.device, remarks: list[str]
) -> Choice:
    """Time runners in turns; the first is the default."""
    calls = {name: partial(runner, image) for name, runner in runners.items()}
    times = time_interleaved(calls, device, TRIAL_ROUNDS)
    default = next(iter(runners))
    speeds = relative_speeds(times, default)
    best = max(speeds, key=speeds.__getitem__)
    if speeds[best] < MIN_SPEEDUP:
        best = default
    speedups = [f"{name} {speed:.2f}x" for name, speed in speeds.items() if name != default]
    details = "; ".join([", ".join(speedups), *remarks]).removeprefix("; ")
    side = image.shape[2]
    reason = f"runtime: {best}, by a trial at {side} x {side} against {default}: {details}"
    return Choice(runners[best], reason)
