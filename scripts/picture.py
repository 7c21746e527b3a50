"""Draw one picture of a finished run side by side: input, dense, pruned, truth.

$ python scripts/picture.py experiments/quickstart results/quickstart.png --image chelsea --crop 90 130 64 96
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from dhp_sr.config import load_options, resolve_paths  # noqa: E402
from dhp_sr.deploy import load_model  # noqa: E402
from dhp_sr.metrics import psnr_db  # noqa: E402
from dhp_sr.reports import comparison_figure  # noqa: E402
from dhp_sr.tasks.test_sets import TestSet, build_test_sets, enlarge, restore  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    target, crop = Path(arguments.target), tuple(arguments.crop)
    return exit_code(lambda: draw(Path(arguments.run), target, arguments.image, crop))


def draw(run: Path, target: Path, image: str, crop: tuple[int, int, int, int]) -> None:
    """Write the comparison of one validation picture.

    Args:
        run: a finished run's folder.
        target: PNG to write.
        image: key of the picture, its file name without suffix.
        crop: top, left, height and width of the part shown large, in pixels of the truth.

    Raises:
        UserError: the run is not finished, or has no such picture.
    """
    options = resolve_paths(load_options(run / "options.yml"), ROOT)
    test_set, item = _find(build_test_sets(options), image)
    truth = item["gt_uint8"]
    pictures = {"bicubic" if test_set.scale > 1 else "noisy": enlarge(item, test_set.scale)}
    for name in ("dense", "pruned"):
        pictures[name] = restore(
            load_model(run / "models" / f"{name}.safetensors"), item, test_set.scale
        )
    titled = {
        f"{name}\n{_db(picture, truth, test_set.shave)}": picture
        for name, picture in pictures.items()
    }
    comparison_figure(target, {**titled, "truth\n": truth}, crop)


def _find(sets: Sequence[TestSet], image: str) -> tuple[TestSet, dict]:
    for test_set in sets:
        for index in range(len(test_set.items)):
            if test_set.items[index]["key"] == image:
                return test_set, test_set.items[index]
    raise UserError(f"no validation picture of the run is called {image!r}")


def _db(picture: NDArray[np.uint8], truth: NDArray[np.uint8], shave: int) -> str:
    return f"{psnr_db(picture, truth, shave=shave, luma=truth.shape[-1] == 3):.2f} dB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("target", metavar="PNG")
    parser.add_argument(
        "--image", required=True, help="name of a validation picture, without suffix"
    )
    parser.add_argument(
        "--crop", type=int, nargs=4, required=True, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH")
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
