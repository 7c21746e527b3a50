"""The same piece of a picture from several models, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dhp_sr.reports.canvas import INK, new_figure, save_png
from dhp_sr.utils.errors import UserError

_HEIGHT_IN = 2.6
_GAP_IN = 0.07
_LINE_IN = 0.17
_FRAME = "#e8590c"


def comparison_figure(
    path: str | Path,
    columns: Mapping[str, np.ndarray],
    crop: tuple[int, int, int, int],
    whole: str | None = None,
) -> None:
    """Draw the whole picture with the crop marked, then the crop of every column, enlarged without interpolation.

    Args:
        path: the PNG file.
        columns: title (with the PSNR, of several lines if wished) -> uint8 picture, HWC
            RGB, or grey as HW or HW1; all of one size, in the order to show them.
        crop: top, left, height, width in pixels.
        whole: title of the column shown whole; the last one (the truth) by default.

    Raises:
        UserError: no columns, a picture of another type or size, or a crop that is not inside.
    """
    pictures = {title: _displayable(title, picture) for title, picture in columns.items()}
    _check(pictures, crop)
    full = pictures[whole if whole is not None else list(pictures)[-1]]
    top, left, height, width = crop
    lines = max(title.count("\n") + 1 for title in pictures)
    crops = {
        title: picture[top : top + height, left : left + width]
        for title, picture in pictures.items()
    }
    figure, (first, *rest) = _row_of_axes([full, *crops.values()], _LINE_IN * lines + 0.12)
    _show(first, full)
    first.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), width, height, fill=False, edgecolor=_FRAME, linewidth=1.8
        )
    )
    for axes, (title, picture) in zip(rest, crops.items(), strict=True):
        _show(axes, picture)
        axes.set_title(
            title + "\n" * (lines - 1 - title.count("\n")), fontsize=9.5, color=INK, pad=4
        )
    save_png(figure, path)


def _displayable(title: str, picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.dtype != np.uint8 or not (
        picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    ):
        raise UserError(
            f"{title!r}: expected a uint8 HWC picture, found {picture.dtype} of shape {picture.shape}"
        )
    return picture


def _check(pictures: Mapping[str, np.ndarray], crop: tuple[int, int, int, int]) -> None:
    sizes = {title: picture.shape[:2] for title, picture in pictures.items()}
    if len(set(sizes.values())) != 1:
        raise UserError(f"expected pictures of one size, found {sizes or 'none'}")
    top, left, height, width = crop
    rows, cols = next(iter(sizes.values()))
    if not (0 <= top < top + height <= rows and 0 <= left < left + width <= cols):
        raise UserError(
            f"expected a crop (top, left, height, width) inside {rows}x{cols}, found {tuple(crop)}"
        )


def _row_of_axes(pictures: Sequence[np.ndarray], title_in: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes side by side: of one height, as wide as the pictures need, with room for titles."""
    widths = [_HEIGHT_IN * picture.shape[1] / picture.shape[0] for picture in pictures]
    total_width, total_height = (
        sum(widths) + _GAP_IN * (len(widths) + 1),
        _HEIGHT_IN + _GAP_IN + title_in,
    )
    figure = new_figure(total_width, total_height)
    figure.set_layout_engine("none")
    lefts = [_GAP_IN * (index + 1) + sum(widths[:index]) for index in range(len(widths))]
    return figure, [
        figure.add_axes(
            (
                left / total_width,
                _GAP_IN / total_height,
                width / total_width,
                _HEIGHT_IN / total_height,
            )
        )
        for left, width in zip(lefts, widths, strict=True)
    ]


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
