"""Draw one validation image of a finished run side by side: input, dense, pruned, ground truth.

$ python scripts/comparison_figure.py experiments/quickstart docs/images/quickstart.png \
      --image chelsea --crop 90 130 64 96
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from dhp_sr.config import load_options, resolve_paths  # noqa: E402
from dhp_sr.deploy import load_model  # noqa: E402
from dhp_sr.metrics import psnr_db  # noqa: E402
from dhp_sr.reports.plots import INK, new_figure, save_png  # noqa: E402
from dhp_sr.tasks.test_sets import TestSet, build_test_sets, restore, upscale_input  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402

Crop = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

PANEL_HEIGHT_IN = 2.6
GAP_IN = 0.07
TITLE_LINE_IN = 0.17
FRAME_COLOR = "#e8590c"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    target, crop = Path(arguments.target), tuple(arguments.crop)
    return exit_code(lambda: draw(Path(arguments.run), target, arguments.image, crop))


def draw(run: Path, target: Path, image: str, crop: Crop) -> None:
    """Write the comparison of one validation image.

    Args:
        run: A finished run's folder.
        target: PNG file to write.
        image: Key of the image, its file name without suffix.
        crop: Region shown enlarged, in pixels of the ground truth.

    Raises:
        UserError: The run is not finished, or has no such image.
    """
    options = resolve_paths(load_options(run / "options.yml"), ROOT)
    test_set, item = _find_image(build_test_sets(options), image)
    ground_truth = item["gt_uint8"]
    input_name = "bicubic" if test_set.scale > 1 else "noisy"
    images = {input_name: upscale_input(item, test_set.scale)}
    for name in ("dense", "pruned"):
        network = load_model(run / "models" / f"{name}.safetensors")
        images[name] = restore(network, item, test_set.scale)
    columns = {}
    for name, restored in images.items():
        luma = ground_truth.shape[-1] == 3
        psnr = psnr_db(restored, ground_truth, crop_border=test_set.crop_border, luma=luma)
        columns[f"{name}\n{psnr:.2f} dB"] = restored
    columns["ground truth\n"] = ground_truth
    comparison_figure(target, columns, crop)


def comparison_figure(
    path: str | Path, columns: Mapping[str, NDArray[np.uint8]], crop: Crop
) -> None:
    """Draw the last image whole with the crop marked, then the crop of every image, enlarged.

    Args:
        path: PNG file to write.
        columns: Title (of several lines if wished) -> uint8 image, HWC RGB or gray (HW or HW1);
            all of one size, in the order to show them.
        crop: Region shown enlarged, without interpolation.

    Raises:
        UserError: No columns, an image of another type or size, or a crop outside the images.
    """
    images = {}
    for title, image in columns.items():
        images[title] = _displayable(title, image)
    _check_sizes(images, crop)
    top, left, height, width = crop
    whole = list(images.values())[-1]
    crops = [image[top : top + height, left : left + width] for image in images.values()]
    title_lines = max(title.count("\n") + 1 for title in images)
    first_axes, *crop_axes = _axes_in_a_row([whole, *crops], TITLE_LINE_IN * title_lines + 0.12)
    _show(first_axes, whole)
    corner = (left - 0.5, top - 0.5)  # pixel centers have integer coordinates
    first_axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=FRAME_COLOR, linewidth=1.8)
    )
    for axes, title, image in zip(crop_axes, images, crops, strict=True):
        _show(axes, image)
        # Titles of fewer lines are filled up, so that all of them begin at one height.
        padding = "\n" * (title_lines - 1 - title.count("\n"))
        axes.set_title(title + padding, fontsize=9.5, color=INK, pad=4)
    save_png(first_axes.figure, path)


def _find_image(sets: Sequence[TestSet], key: str) -> tuple[TestSet, dict[str, Any]]:
    for test_set in sets:
        for index in range(len(test_set.items)):
            if test_set.items[index]["key"] == key:
                return test_set, test_set.items[index]
    raise UserError(f"no validation image of the run is called {key!r}")


def _displayable(title: str, image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_image:
        raise UserError(
            f"{title!r}: expected a uint8 HWC image, found {image.dtype} of shape {image.shape}"
        )
    return image


def _check_sizes(images: Mapping[str, NDArray[np.uint8]], crop: Crop) -> None:
    sizes = {title: image.shape[:2] for title, image in images.items()}
    if len(set(sizes.values())) != 1:
        raise UserError(f"expected images of one size, found {sizes or 'none'}")
    top, left, height, width = crop
    rows, cols = next(iter(sizes.values()))
    if not (0 <= top < top + height <= rows and 0 <= left < left + width <= cols):
        raise UserError(
            f"expected a crop (top, left, height, width) inside {rows}x{cols}, found {tuple(crop)}"
        )


def _axes_in_a_row(images: Sequence[NDArray[np.uint8]], title_in: float) -> list[Axes]:
    """Add axes of one height side by side, as wide as the images need, below a row of titles."""
    widths_in = [PANEL_HEIGHT_IN * image.shape[1] / image.shape[0] for image in images]
    total_width_in = sum(widths_in) + GAP_IN * (len(widths_in) + 1)
    total_height_in = PANEL_HEIGHT_IN + GAP_IN + title_in
    figure = new_figure(total_width_in, total_height_in)
    figure.set_layout_engine("none")
    bottom = GAP_IN / total_height_in
    height = PANEL_HEIGHT_IN / total_height_in
    all_axes = []
    left_in = GAP_IN
    for width_in in widths_in:
        width = width_in / total_width_in
        all_axes.append(figure.add_axes((left_in / total_width_in, bottom, width, height)))
        left_in += width_in + GAP_IN
    return all_axes


def _show(axes: Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")
    parser.add_argument("target", metavar="PNG", help="file to write")
    parser.add_argument("--image", required=True, help="name of a validation image, without suffix")
    parser.add_argument(
        "--crop", type=int, nargs=4, required=True, metavar=("TOP", "LEFT", "HEIGHT", "WIDTH")
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
