"""Time of a network, dense and compressed, in every runtime and precision.

    $ DHP_SR_DATA=FOLDER python benchmarks/runtimes.py    # results/runtimes.json

All take turns in one process on the same input, and are compared by the medians of the ratios
within a round: processor time with one thread, else wall time. int8 files are calibrated on
photographs of BSDS500, and their loss is the difference to fp32 on Set5 (PSNR on Y). The dense
network has random weights, which do not change the time; it has no loss.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows  # noqa: E402
from benchmarks.timing import Times, measure, quartiles, ratios  # noqa: E402
from dhp_sr.archs import build  # noqa: E402
from dhp_sr.cli.export import export_model  # noqa: E402
from dhp_sr.cli.export_formats import ExportOptions  # noqa: E402
from dhp_sr.deploy import load_model, save_model  # noqa: E402
from dhp_sr.deploy.runner import RunnerModule  # noqa: E402
from dhp_sr.deploy.runtimes import open_runner  # noqa: E402
from dhp_sr.metrics import complexity  # noqa: E402
from dhp_sr.tasks import task_named  # noqa: E402
from dhp_sr.tasks.base import Task  # noqa: E402
from dhp_sr.utils.devices import thread_count  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.zoo.model_zoo import resolve_model  # noqa: E402

KEY = ("network", "widths", "runtime", "precision", "threads", "input")
BASELINE = ("dense", "onnxruntime", "fp32")
"""Widths, runtime and precision that speed-ups are relative to."""

SETTINGS = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)
FORMATS = {"onnxruntime": ("onnx", ".onnx"), "openvino": ("openvino", ".xml")}
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Candidate:
    """A network in a runtime and precision."""

    path: Path
    network: nn.Module
    loss_db: float | None
    """Against the same network in fp32; None where it has random weights."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/runtimes.py", *given])
    return exit_code(lambda: run(arguments, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:edsr_x4_half", help="compressed model file")
    parser.add_argument("--size", type=int, default=64, help="height and width of the input")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; default: 15")
    parser.add_argument("--out", default=ROOT / "results" / "runtimes.json", type=Path)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure a model and its dense network; write the rows."""
    root = os.environ.get("DHP_SR_DATA")
    if not root:
        raise UserError("expected the variable DHP_SR_DATA, the folder of Set5 and BSDS500")
    compressed = load_model(resolve_model(arguments.model))
    dense: Any = build(type(compressed).__name__, **compressed.arguments).eval()
    size = arguments.size
    image = torch.rand(1, dense.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    measured = describe_measurement(torch.device("cpu"), command, arguments.note)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        candidates = {}
        for widths, network in (("dense", dense), ("compressed", compressed)):
            made = make_candidates(network, Path(folder) / widths, Path(root), widths != "dense")
            for (runtime, precision), candidate in made.items():
                candidates[widths, runtime, precision] = candidate
        for threads in arguments.threads:
            times = time_candidates(candidates, image, threads, arguments.rounds)
            for key, candidate in candidates.items():
                row = make_row(key, candidate, times, threads, image)
                rows.append({**row, "rounds": arguments.rounds, "measured": measured})
    merge_rows(arguments.out, "runtimes", rows, KEY)
    return 0


def make_candidates(
    network: nn.Module, folder: Path, root: Path, is_trained: bool
) -> dict[tuple[str, str], Candidate]:
    """Export a network in every precision, and measure the loss of int8."""
    folder.mkdir()
    model = folder / "fp32.safetensors"
    save_model(network, model)
    described: Any = network
    task = task_named(described.task)
    choices = {"sigma": None, "max_images": None, "crop_border": None}
    (set5,) = task.open_folders(network, {"Set5": str(root / "Set5" / "HR")}, choices)
    made = {}
    reference = 0.0
    for runtime, precision in SETTINGS:
        path = model
        loss = None
        if precision == "int8":
            file_format, suffix = FORMATS[runtime]
            path = folder / f"{runtime}{suffix}"
            # Any loss is accepted: it stands in the table.
            options = ExportOptions(int8=True, calibration=root / "BSDS500" / "val", max_loss=100.0)
            export_model(model, file_format, path, options)
        if is_trained:
            score = psnr(task, path, runtime, set5)
            # The first setting is fp32 in PyTorch.
            reference = reference or score
            loss = reference - score
        made[runtime, precision] = Candidate(path, network, loss)
    return made


def psnr(task: Task, path: Path, runtime: str, test_set: Any) -> float:
    """PSNR on Y of a model in a runtime."""
    network = RunnerModule(open_runner(path, runtime))
    return task.evaluate(network, test_set, torch.device("cpu"))["psnr_y_db"]


def time_candidates(
    candidates: dict[Key, Candidate], image: torch.Tensor, threads: int, rounds: int
) -> dict[str, Times]:
    """Time all candidates in turns."""
    array = image.numpy()
    calls = {}
    for key, candidate in candidates.items():
        runner = open_runner(candidate.path, key[1], threads=threads)
        calls[str(key)] = partial(runner, array)
    with thread_count(threads):
        return measure(calls, rounds, torch.device("cpu"))


def make_row(
    key: Key,
    candidate: Candidate,
    times: dict[str, Times],
    threads: int,
    image: torch.Tensor,
) -> dict[str, Any]:
    """Return the row of a candidate."""
    widths, runtime, precision = key
    network: Any = candidate.network
    sizes = ", ".join(f"{name} {network.arguments[name]}" for name in ("num_feat", "num_block"))
    baseline = times[str(BASELINE)]
    own = times[str(key)]
    speedup = ratios(baseline.wall_ms, own.wall_ms)
    if threads == 1:
        # Wall time of one thread also counts what other programs took from its core.
        speedup = ratios(baseline.cpu_ms, own.cpu_ms)
    return {
        "network": f"{type(network).__name__} ({sizes})",
        "widths": widths,
        "macs": complexity(network, tuple(image.shape)).macs,
        "runtime": runtime,
        "precision": precision,
        "threads": threads,
        "input": list(image.shape),
        "wall_ms": quartiles(own.wall_ms),
        "cpu_ms": quartiles(own.cpu_ms),
        "speedup": speedup,
        "loss_db": candidate.loss_db,
    }


if __name__ == "__main__":
    sys.exit(main())
