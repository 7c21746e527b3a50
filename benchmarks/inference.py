"""Time of infer.py on a folder of photographs against the time of its network alone.

    $ DHP_SR_DATA=FOLDER python benchmarks/inference.py    # results/inference.json

Photographs of BSDS500 are enlarged to 2 megapixels and written as PNG. A round restores all of them
from file to file, and sends the same tiles through the network and does nothing else; wall times of
a round are compared. With one thread, the processor time of the thread that the network computes in
is compared as well: what is beside the network on the way of every image, apart from the threads
that decode and encode, and whatever other work the machine has.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows, processor_name  # noqa: E402
from benchmarks.timing import quartiles, ratios  # noqa: E402
from dhp_sr.cli.process import keep_memory  # noqa: E402
from dhp_sr.deploy.runner import Images, Runner  # noqa: E402
from dhp_sr.deploy.runtimes import open_runner  # noqa: E402
from dhp_sr.inference.pipeline import Settings, restore_images  # noqa: E402
from dhp_sr.inference.task_list import list_tasks  # noqa: E402
from dhp_sr.inference.tiles import GIB, MemoryBudget, TilingOptions  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.zoo.model_zoo import resolve_model  # noqa: E402

KEY = ("model", "runtime", "threads", "tile", "processor")
MEGAPIXELS = 2.0


class RecordingRunner:
    """A runner that notes the sizes of what it computes.

    Args:
        runner: computes.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> object:
        """Give the facts of the runner."""
        return getattr(self.runner, name)

    def __call__(self, images: Images) -> Images:
        """Compute, and note the size."""
        self.shapes.append(images.shape)
        return self.runner(images)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="zoo:edsr_x2_half")
    parser.add_argument("--runtime", help="as for infer.py; default: by the file")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--tile", type=int, help="as for infer.py")
    parser.add_argument("--out", default=ROOT / "results" / "inference.json", type=Path)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/inference.py", *given])
    return exit_code(lambda: run(arguments, command))


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure and write the row."""
    keep_memory()
    model = resolve_model(arguments.model)
    runner = open_runner(model, arguments.runtime, threads=arguments.threads)
    settings = Settings(MemoryBudget(4 * GIB), TilingOptions(arguments.tile))
    whole = []
    network = []
    whole_cpu = []
    network_cpu = []
    with tempfile.TemporaryDirectory() as name:
        make_photographs(Path(name, "in"), arguments.images)
        tasks = list_tasks(Path(name, "in"), Path(name, "out"), "png").tasks
        recorder = RecordingRunner(runner)
        # the first is a warm-up, and tells the sizes of the tiles
        restore_images(tasks[:1], recorder, settings, _ignore)
        shapes = recorder.shapes * len(tasks)
        for _ in range(arguments.rounds):
            wall, cpu = elapsed(lambda: restore_images(tasks, runner, settings, _ignore))
            whole.append(wall)
            whole_cpu.append(cpu)
            wall, cpu = elapsed(lambda: run_network(runner, shapes))
            network.append(wall)
            network_cpu.append(cpu)
    row = {
        "model": arguments.model,
        "runtime": runner.runtime,
        "threads": arguments.threads,
        "processor": processor_name(),
        "tile": arguments.tile,
        "images": arguments.images,
        "megapixels": MEGAPIXELS,
        "tiles_per_image": len(recorder.shapes),
        "rounds": arguments.rounds,
        "whole_s": quartiles(whole),
        "network_s": quartiles(network),
        "ratio": ratios(whole, network),
        "thread_ratio": ratios(whole_cpu, network_cpu),
        "measured": describe_measurement(torch.device("cpu"), command, arguments.note),
    }
    print(
        f"{arguments.model}: {row['ratio']['median']:.3f} x the network's wall time, "
        f"{row['thread_ratio']['median']:.3f} x its thread's processor time"
    )
    merge_rows(arguments.out, "inference", [row], KEY)
    return 0


def make_photographs(folder: Path, images: int) -> None:
    """Write photographs of 2 megapixels as PNG."""
    root = os.environ.get("DHP_SR_DATA")
    if not root:
        raise UserError("expected the variable DHP_SR_DATA, the folder that holds BSDS500")
    photographs = sorted(Path(root, "BSDS500", "test").glob("*.jpg"))[:images]
    if len(photographs) < images:
        raise UserError(f"expected {images} photographs in {root}/BSDS500/test")
    folder.mkdir()
    for path in photographs:
        photograph = Image.open(path)
        factor = (MEGAPIXELS * 1e6 / (photograph.width * photograph.height)) ** 0.5
        # upright ones are turned: all images have the same tiles
        if photograph.height > photograph.width:
            photograph = photograph.transpose(Image.Transpose.ROTATE_90)
        size = (round(photograph.width * factor), round(photograph.height * factor))
        photograph.resize(size, Image.Resampling.BICUBIC).save(folder / f"{path.stem}.png")


def run_network(runner: Runner, shapes: Sequence[tuple[int, ...]]) -> None:
    """Run the network on inputs of given sizes."""
    inputs = {shape: np.random.default_rng(0).random(shape, np.float32) for shape in set(shapes)}
    for shape in shapes:
        runner(inputs[shape])


def elapsed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time of a call, and the processor time of this thread, in seconds."""
    start = time.perf_counter()
    start_cpu = time.thread_time()
    call()
    return time.perf_counter() - start, time.thread_time() - start_cpu


def _ignore(fraction: float, pixels: int) -> None:
    """Take the progress, which is not shown."""


if __name__ == "__main__":
    sys.exit(main())
