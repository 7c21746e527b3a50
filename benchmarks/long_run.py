"""Memory and open files over a long training and over many images: neither may grow.

    python benchmarks/long_run.py

A process that keeps a little of every step or image ends after days, where no test sees it. Memory
at the end is compared with that at a tenth, when every buffer and cache has its size.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.result_files import describe_measurement  # noqa: E402
from dhp_sr.archs import build  # noqa: E402
from dhp_sr.cli.process import keep_memory, seed_everything  # noqa: E402
from dhp_sr.config.schema import Options  # noqa: E402
from dhp_sr.deploy import save_model  # noqa: E402
from dhp_sr.infer import main as infer  # noqa: E402
from dhp_sr.training.driver import train  # noqa: E402
from dhp_sr.utils.files import write_json  # noqa: E402

TOLERANCE = 0.05
"""Growth of the memory from a tenth to the end that passes."""
SIDE = 16
"""Height and width of the images, in pixels."""
_MIB = 2**20


def memory_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Return the number of open files of this process."""
    return len(os.listdir("/proc/self/fd"))


class Samples:
    """Memory and open files by progress."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.rows: list[tuple[int, int, int]] = []
        self._next = 0

    def take(self, done: int) -> None:
        """Take a sample every hundredth of the way."""
        if done >= self._next:
            self.rows.append((done, memory_bytes(), open_files()))
            self._next = done + max(1, self.total // 100)

    def summary(self) -> dict[str, Any]:
        """Return the growth from a tenth of the way to the end."""
        settled = [row for row in self.rows if row[0] >= self.total / 10]
        # Single samples differ by what happens at their moment, such as the writing of a state.
        first = [row[1] for row in settled[:5]]
        last = [row[1] for row in settled[-5:]]
        growth = float(np.median(last) / np.median(first)) - 1
        return {
            "count": self.total,
            "mib_at_a_tenth": round(float(np.median(first)) / _MIB, 1),
            "mib_at_the_end": round(float(np.median(last)) / _MIB, 1),
            "growth": round(growth, 4),
            "open_files": [min(row[2] for row in settled), max(row[2] for row in settled)],
            "passes": bool(growth <= TOLERANCE) and settled[-1][2] <= settled[0][2],
        }


def write_images(folder: Path, count: int, side: int) -> None:
    """Write images of noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05d}.png", compress_level=1)


def long_training(folder: Path, steps: int) -> dict[str, Any]:
    """Train a tiny network through all phases; return the growth."""
    write_images(folder / "train", 8, 4 * SIDE)
    data = {"type": "SRDataset", "dataroot_gt": str(folder / "train")}
    options = Options.model_validate(
        {
            "name": "long",
            "scale": 2,
            "num_gpu": 0,
            "network_g": {"type": "HyperEDSR", "num_feat": 8, "num_block": 1, "upscale": 2},
            "datasets": {
                "train": {**data, "gt_size": SIDE, "batch_size_per_gpu": 1},
                "val": {**data, "max_images": 1},
            },
            "path": {"experiments_root": str(folder)},
            "compress": {
                "target": {"macs": 0.5},
                "tolerance": 0.15,
                "round_to": 2,
                "min_width": 2,
                "dense_iter": steps // 20,
                "search_iter": steps // 20,
            },
            "train": {"total_iter": steps, "optim_g": {"lr": 1e-4}, "ema_decay": 0.99},
            "val": {"val_freq": steps // 20},
            "logger": {"print_freq": 100, "save_checkpoint_freq": steps // 20},
        }
    )
    samples = Samples(steps)
    steps_done = 0

    def after_step() -> bool:
        nonlocal steps_done
        steps_done += 1
        samples.take(steps_done)
        return False

    train(options, root=folder, stop=after_step)
    return samples.summary()


def many_images(folder: Path, count: int) -> dict[str, Any]:
    """Restore many small images in one call of infer.py; return the growth."""
    write_images(folder / "in", count, SIDE)
    model, results = folder / "model.safetensors", folder / "out"
    save_model(build("EDSR", num_feat=8, num_block=1, upscale=2), model)
    samples = Samples(count)
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(0.2):
            if results.is_dir():
                samples.take(len(os.listdir(results)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = infer(
            ["--model", str(model), "--input", str(folder / "in"), "--output", str(results)]
        )
    finally:
        is_done.set()
        watcher.join()
    if code:
        raise RuntimeError(f"infer.py ended with {code}")
    return samples.summary()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Memory over a long training and many images.")
    parser.add_argument("--steps", type=int, default=20_000, help="of the training")
    parser.add_argument("--images", type=int, default=10_000, help="to restore")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "long_run.json")
    return parser


def main() -> int:
    """Measure both; return 0 if nothing grows."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    seed_everything(0)
    keep_memory()
    rows = []
    kinds: list[tuple[str, Callable[[Path, int], dict[str, Any]], int]] = [
        ("training steps", long_training, arguments.steps),
        ("images", many_images, arguments.images),
    ]
    for name, measure, count in kinds:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            row = {"what": name, **measure(Path(folder), count)}
        row["minutes"] = round((time.monotonic() - started) / 60, 1)
        print(row, flush=True)
        rows.append(row)
    measured = describe_measurement(torch.device("cpu"), "benchmarks/long_run.py", "")
    content = {"kind": "long_run", "rows": [{**row, "measured": measured} for row in rows]}
    write_json(arguments.output, content)
    return 0 if all(row["passes"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
