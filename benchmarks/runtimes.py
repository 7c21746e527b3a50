"""Time of networks, dense and compressed, in every runtime and precision.

    $ DHP_SR_DATA=FOLDER python benchmarks/runtimes.py    # results/runtimes.json

`avx2_only.c` beside this file times them as on a processor without newer instructions.

All forms of a network take turns in one process on the same input, and are compared by the medians
of the ratios within a round: processor time with one thread, else wall time. A form computes three
times in a round, of which the last is timed: as on the tiles of an image, its weights and features
are in the caches. `--model` names
compressed model files; their dense networks have random weights, which do not change the time, and
no loss. `--arch` names networks that are cut to half their multiply-adds by equal parts, in steps
of 16, with random weights too. int8 files are calibrated on photographs of BSDS500, without
finetuning, and left out where they lose more than 0.1 dB; the loss in the table is the difference
to fp32 on Set5 (PSNR on Y), of denoisers on Set12.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows, processor_name  # noqa: E402
from benchmarks.timing import Times, measure, quartiles, ratios  # noqa: E402
from dhp_sr.archs import build  # noqa: E402
from dhp_sr.cli.export import export_model  # noqa: E402
from dhp_sr.cli.export_formats import ExportOptions  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.deploy import load_model, save_model  # noqa: E402
from dhp_sr.deploy.openvino_runner import require_openvino  # noqa: E402
from dhp_sr.deploy.runner import RunnerModule  # noqa: E402
from dhp_sr.deploy.runtimes import open_runner  # noqa: E402
from dhp_sr.hyper import convert  # noqa: E402
from dhp_sr.metrics import complexity  # noqa: E402
from dhp_sr.tasks import task_named  # noqa: E402
from dhp_sr.utils.devices import thread_count  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.zoo.model_zoo import resolve_model  # noqa: E402
from dhp_sr.zoo.names import register_known  # noqa: E402

KEY = ("network", "widths", "runtime", "precision", "threads", "input", "processor")
BASELINE = ("dense", "onnxruntime", "fp32")
"""Widths, runtime and precision that speed-ups are relative to."""

SETTINGS = (
    ("torch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
PRECISION = {"fp32": "fp32", "bf16": "bf16", "int8": None}
"""Precision of the table -> the one that is asked for; that of an int8 file is its own."""

COMPILED = ("torch.compile", "fp32")
FORMATS = {"onnxruntime": ("onnx", ".onnx"), "openvino": ("openvino", ".xml")}
TEST_SETS = {"sr": ("Set5", "HR"), "denoise": ("Set12", "")}
"""Task -> test set of the losses, and the folder in it."""

SIGMA = 25.0
"""Noise of a denoiser's images."""

SIZE_ARGUMENTS = ("num_feat", "num_block", "num_layers", "num_levels", "upscale")
"""Arguments that tell networks of one class apart."""

CUT = "half, steps of 16"
DEFAULT_MODELS = ("zoo:edsr_x4_half", "zoo:dncnn_s25_half")
LEAD_IN = 2
"""Untimed passes before each timed one."""

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
    parser.add_argument(
        "--model", nargs="+", default=[], help="compressed model files; default: zoo:"
    )
    parser.add_argument("--arch", nargs="+", default=[], help="EDSR, SRResNet, DnCNN, UNet, RLFN")
    parser.add_argument("--size", type=int, default=64, help="height and width of the input")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; default: 15")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes more")
    parser.add_argument("--out", default=ROOT / "results" / "runtimes.json", type=Path)
    parser.add_argument("--processor", default=processor_name(), help="its name in the rows")
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure networks and write the rows."""
    root = os.environ.get("DHP_SR_DATA")
    if not root:
        raise UserError("expected the variable DHP_SR_DATA, the folder of Set5, Set12 and BSDS500")
    register_known()
    keep_memory()
    measured = describe_measurement(torch.device("cpu"), command, arguments.note)
    pairs = [partial(trained_pair, name) for name in arguments.model]
    pairs += [partial(untrained_pair, name) for name in arguments.arch]
    for make_pair in pairs or [partial(trained_pair, name) for name in DEFAULT_MODELS]:
        pair = make_pair()
        rows = measure_pair(pair, Path(root), arguments)
        for row in rows:
            row.update(
                rounds=arguments.rounds,
                lead_in=LEAD_IN,
                processor=arguments.processor,
                measured=measured,
            )
        merge_rows(arguments.out, "runtimes", rows, KEY)
    return 0


def trained_pair(model: str) -> dict[str, nn.Module]:
    """Return the network of a compressed model file, and its dense one."""
    compressed = load_model(resolve_model(model))
    dense: Any = build(type(compressed).__name__, **compressed.arguments).eval()
    return {"dense": dense, "compressed": compressed}


def untrained_pair(arch: str) -> dict[str, nn.Module]:
    """Return a network of its default size, and a copy that is cut to half its MACs."""
    torch.manual_seed(0)
    dense: Any = build(arch).eval()
    side = 32 * dense.size_multiple
    hyper = convert(dense, torch.rand(1, dense.in_channels, side, side))
    hyper.prune_to(macs=0.5, tolerance=0.02, round_to=16)
    return {"dense": dense, CUT: hyper.cut()}


def measure_pair(
    pair: Mapping[str, nn.Module], root: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time all forms of a network in turns; return the rows."""
    dense: Any = pair["dense"]
    size = arguments.size
    image = torch.rand(1, dense.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    settings = available_settings(arguments.compile)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        candidates = {}
        for widths, network in pair.items():
            is_trained = widths == "compressed"
            # names of widths are not names of files
            made_in = Path(folder) / str(len(candidates))
            made = make_candidates(network, made_in, root, settings, is_trained=is_trained)
            for (runtime, precision), candidate in made.items():
                candidates[widths, runtime, precision] = candidate
        for threads in arguments.threads:
            times = time_candidates(candidates, image, threads, arguments.rounds)
            for key, candidate in candidates.items():
                rows.append(make_row(key, candidate, times, threads, image))
    return rows


def available_settings(with_compile: bool) -> list[tuple[str, str]]:
    """List the runtimes and precisions that this machine has instructions for."""
    settings = list(SETTINGS)
    capable = require_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capable:
        settings.remove(("openvino", "bf16"))
    if with_compile:
        settings.append(COMPILED)
    return settings


def make_candidates(
    network: nn.Module,
    folder: Path,
    root: Path,
    settings: Sequence[tuple[str, str]],
    *,
    is_trained: bool,
) -> dict[tuple[str, str], Candidate]:
    """Export a network in every precision, and measure the loss of those below fp32."""
    folder.mkdir()
    model = folder / "fp32.safetensors"
    save_model(network, model)
    described: Any = network
    task = task_named(described.task)
    sigma = SIGMA if described.task == "denoise" else None
    name, subfolder = TEST_SETS[described.task]
    choices = {"sigma": sigma, "max_images": None, "crop_border": None}
    (test_set,) = task.open_folders(network, {name: str(root / name / subfolder)}, choices)
    made = {}
    reference = None
    for runtime, precision in settings:
        path = model
        loss = None
        if precision == "int8":
            file_format, suffix = FORMATS[runtime]
            path = folder / f"{runtime}{suffix}"
            options = ExportOptions(int8=True, calibration=root / "BSDS500" / "val", sigma=sigma)
            options = replace(options, qat_steps=0)
            if not is_trained:
                # Random weights lose anything; only their time is of use.
                options = replace(options, max_loss=1e3)
            try:
                export_model(model, file_format, path, options)
            except UserError as error:  # it loses more than is allowed
                print(f"{runtime}, int8: left out: {error}", file=sys.stderr)
                continue
        if is_trained:
            runner = open_runner(path, runtime, precision=PRECISION[precision])
            score = task.evaluate(RunnerModule(runner), test_set, torch.device("cpu"))
            value = score[task.main_score.key]
            # The first setting is fp32 in PyTorch.
            reference = value if reference is None else reference
            loss = reference - value
        made[runtime, precision] = Candidate(path, network, loss)
    return made


def time_candidates(
    candidates: dict[Key, Candidate], image: torch.Tensor, threads: int, rounds: int
) -> dict[str, Times]:
    """Time all candidates in turns."""
    array = image.numpy()
    calls = {}
    for key, candidate in candidates.items():
        _, runtime, precision = key
        runner = open_runner(
            candidate.path, runtime, precision=PRECISION[precision], threads=threads
        )
        calls[str(key)] = partial(runner, array)
    with thread_count(threads):
        return measure(calls, rounds, torch.device("cpu"), lead_in=LEAD_IN)


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
    named = [name for name in SIZE_ARGUMENTS if name in network.arguments]
    sizes = ", ".join(f"{name} {network.arguments[name]}" for name in named)
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
