"""Time of training batches against BasicSR's PairedImageDataset.

    $ DHP_SR_DATA=FOLDER python benchmarks/loader.py    # results/loader.json

Both read the same pairs of PNG files, photographs of BSDS500 (481 x 321) enlarged by the factors of
`--enlarge`, and make batches of 16 HR patches of 128 pixels a side, ready for a training step:
ours by the iterator that trains, BasicSR's by PyTorch's DataLoader, both in the process itself. An
epoch takes a patch of every image. Epochs of all loaders take turns in one process, and their
processor time is compared. The first epoch includes opening the set, decoding all images and, of a
cache on disk, writing the file. BasicSR decodes whole images for every patch, so the ratio grows
with their size.
"""

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT)]  # in place of this folder, whose modules must not hide others

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from benchmarks.result_files import describe_measurement, merge_rows, processor_name  # noqa: E402
from benchmarks.timing import quartiles, ratios  # noqa: E402
from dhp_sr.basicsr_adapter.shim import prepare_basicsr  # noqa: E402
from dhp_sr.config.datasets import TrainDataset  # noqa: E402
from dhp_sr.data import build_train_set  # noqa: E402
from dhp_sr.data.bicubic import downscale  # noqa: E402
from dhp_sr.data.images import crop_to_multiple  # noqa: E402
from dhp_sr.data.prepare import make_database  # noqa: E402
from dhp_sr.data.sampler import train_batches  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402

SCALE = 4
PATCH = 128
BATCH = 16
KEY = ("source", "cache", "epoch", "gt", "processor")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help="pairs; default: 32")
    parser.add_argument("--enlarge", type=int, nargs="+", default=[1, 2, 4], metavar="FACTOR")
    parser.add_argument("--epochs", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--out", default=ROOT / "results" / "loader.json", type=Path)
    parser.add_argument("--note", default="", help="about the machine, such as other work on it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    command = shlex.join(["benchmarks/loader.py", *given])
    return exit_code(lambda: run(arguments, command))


def run(arguments: argparse.Namespace, command: str) -> int:
    """Measure all loaders and write the rows."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    facts = {
        "images": arguments.images,
        "patch": PATCH,
        "batch": BATCH,
        "epochs": arguments.epochs,
        "processor": processor_name(),
        "measured": describe_measurement(torch.device("cpu"), command, arguments.note),
    }
    for factor in arguments.enlarge:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = make_pairs(folder, arguments.images, factor)
            rows = measure_later(folder, arguments.epochs)
            rows += measure_first(folder, arguments.epochs)
        for row in rows:
            row.update(gt=size, **facts)
            described = f"{size} {row['source']:6} {row['cache']:6} {row['epoch']:5}"
            print(f"{described} {row['speed']['median']:.2f}x")
        merge_rows(arguments.out, "loader", rows, KEY)
    return 0


def make_pairs(folder: Path, images: int, factor: int) -> str:
    """Write PNG pairs to HR and LR, and databases of both; return the size of most."""
    root = os.environ.get("DHP_SR_DATA")
    if not root:
        raise UserError("expected the variable DHP_SR_DATA, the folder that holds BSDS500")
    photographs = sorted(Path(root, "BSDS500", "train").glob("*.jpg"))[:images]
    if len(photographs) < images:
        raise UserError(f"expected {images} photographs in {root}/BSDS500/train")
    for name in ("HR", "LR"):
        (folder / name).mkdir()
    for path in photographs:
        photograph = Image.open(path)
        size = (photograph.width * factor, photograph.height * factor)
        enlarged = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC))
        pixels = crop_to_multiple(enlarged, SCALE)
        Image.fromarray(pixels).save(folder / "HR" / f"{path.stem}.png")
        Image.fromarray(downscale(pixels, SCALE)).save(folder / "LR" / f"{path.stem}.png")
    for name in ("HR", "LR"):
        make_database(folder / name, folder / f"{name}.lmdb")
    return f"{481 * factor} x {321 * factor}"


def open_set(folder: Path, suffix: str, cache: str) -> Any:
    """Open our training set of the pairs."""
    options = TrainDataset(
        type="SRDataset",
        dataroot_gt=str(folder / f"HR{suffix}"),
        dataroot_lq=str(folder / f"LR{suffix}"),
        gt_size=PATCH,
        batch_size_per_gpu=BATCH,
        cache=cache,
        cache_dir=str(folder / "cache"),
    )
    return build_train_set(options, SCALE, seed=0)


def open_basicsr(folder: Path, suffix: str) -> Any:
    """Open BasicSR's training set of the pairs."""
    prepare_basicsr()
    from basicsr.data.paired_image_dataset import PairedImageDataset

    options = {
        "dataroot_gt": str(folder / f"HR{suffix}"),
        "dataroot_lq": str(folder / f"LR{suffix}"),
        "io_backend": {"type": "lmdb" if suffix else "disk"},
        "phase": "train",
        "scale": SCALE,
        "gt_size": PATCH,
        "use_hflip": True,
        "use_rot": True,
    }
    return PairedImageDataset(options)


def measure_later(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare epochs after the first, once files are in the system's memory."""
    rows = []
    for source, suffix in (("folder", ""), ("lmdb", ".lmdb")):
        caches = ("memory", "disk", "none")
        sets = {cache: open_set(folder, suffix, cache) for cache in caches}
        rival = open_basicsr(folder, suffix)
        times: dict[str, list[float]] = {name: [] for name in (*caches, "basicsr")}
        for epoch in range(epochs + 1):
            calls: dict[str, Callable[[], None]] = {"basicsr": partial(visit_basicsr, rival)}
            for cache, dataset in sets.items():
                calls[cache] = partial(visit, dataset, epoch)
            for name, call in calls.items():
                seconds = processor_time(call)
                # the first round checks the pixels of the cache file
                if epoch:
                    times[name].append(seconds)
        rows += [_row(source, cache, "later", times["basicsr"], times[cache]) for cache in caches]
    return rows


def measure_first(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Compare first epochs: opening the set, and a patch of each image."""
    rows = []
    for source, suffix in (("folder", ""), ("lmdb", ".lmdb")):
        for cache in ("memory", "disk"):
            ours = []
            theirs = []
            for _ in range(epochs):
                for file in (folder / "cache").glob("*.images"):
                    file.unlink()
                theirs.append(processor_time(partial(first_of_basicsr, folder, suffix)))
                ours.append(processor_time(partial(first_of_ours, folder, suffix, cache)))
            rows.append(_row(source, cache, "first", theirs, ours))
    return rows


def visit(dataset: Any, epoch: int) -> None:
    """Take an epoch's batches of our set."""
    count = len(dataset) // BATCH
    batches = train_batches(
        dataset, batch_size=BATCH, workers=0, seed=0, start_iteration=epoch * count
    )
    for _ in range(count):
        next(batches)


def visit_basicsr(dataset: Any) -> None:
    """Take an epoch's batches of BasicSR's set."""
    for _ in DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
        pass


def first_of_ours(folder: Path, suffix: str, cache: str) -> None:
    """Open our set and take an epoch's batches."""
    visit(open_set(folder, suffix, cache), 0)


def first_of_basicsr(folder: Path, suffix: str) -> None:
    """Open BasicSR's set and take an epoch's batches."""
    visit_basicsr(open_basicsr(folder, suffix))


def processor_time(call: Callable[[], None]) -> float:
    """Return the processor time of a call, in seconds."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _row(
    source: str, cache: str, epoch: str, theirs: Sequence[float], ours: Sequence[float]
) -> dict[str, Any]:
    return {
        "source": source,
        "cache": cache,
        "epoch": epoch,
        "basicsr_s": quartiles(theirs),
        "dhp_sr_s": quartiles(ours),
        "speed": ratios(theirs, ours),
    }


if __name__ == "__main__":
    sys.exit(main())
