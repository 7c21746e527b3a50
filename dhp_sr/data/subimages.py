"""Sub-images: training images that were cut out of test images, found by a few of their bytes.

Training sets are often cut into sub-images, for speed. Each of them gives an anchor, a few bytes
of a row with detail; every position of a test image is looked up among the anchors, and where one
fits, the whole sub-image is compared. Nothing is decoded but the test images.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhp_sr.data.image_cache import ImageCache

_ANCHOR = 8
"""Bytes of an anchor, consecutive pixels of the first channel: a number of 64 bits."""
_TABLE_BITS = 24
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd factor that spreads numbers over the table (Fibonacci hashing; Knuth, TAOCP 3, 6.4)."""

Image = NDArray[np.uint8]
"""(C, H, W)."""


class _Anchor(NamedTuple):
    image: Image
    row: int
    column: int


class SubimageFinder:
    """Tells which images contain one of many smaller images.

    Args:
        images: The smaller images, uint8 (C, h, w). Those without any detail are left out: a plain
            area occurs in many images.
    """

    def __init__(self, images: Iterable[Image]) -> None:
        anchors: dict[int, list[_Anchor]] = {}
        for image in images:
            found = _find_anchor(image)
            if found is not None:
                value, anchor = found
                anchors.setdefault(value, []).append(anchor)
        self._anchors = anchors
        self._values = np.array(sorted(anchors), np.uint64)
        self._table = np.zeros(2**_TABLE_BITS if anchors else 0, bool)
        self._table[_table_index(self._values)] = True

    def is_cut_from(self, image: Image) -> bool:
        """Return whether one of the images was cut out of `image`, uint8 (C, H, W)."""
        if not self._anchors or image.shape[2] < _ANCHOR:
            return False
        windows = _windows(image[0])
        # The table first: a lookup in a sorted list takes much longer, and few positions are left.
        rows, columns = np.nonzero(self._table[_table_index(windows)])
        values = windows[rows, columns]
        is_known = np.isin(values, self._values)
        for row, column, value in zip(
            rows[is_known], columns[is_known], values[is_known], strict=True
        ):
            for anchor in self._anchors[int(value)]:
                if _fits(anchor, image, int(row), int(column)):
                    return True
        return False


def _find_anchor(image: Image) -> tuple[int, _Anchor] | None:
    """Find the bytes with the most contrast in the middle row; None for a plain row."""
    if image.shape[2] < _ANCHOR:
        return None
    row = image.shape[1] // 2
    windows = _windows(image[0, row : row + 1])[0]
    changes = np.abs(np.diff(image[0, row].astype(np.int64)))
    contrast = np.convolve(changes, np.ones(_ANCHOR - 1, np.int64), "valid")
    column = int(contrast.argmax())
    if contrast[column] == 0:
        return None
    return int(windows[column]), _Anchor(image, row, column)


def _windows(plane_HW: Image) -> NDArray[np.uint64]:
    """Return the bytes from each position on as a number, (H, W - 7)."""
    plane_HW = np.ascontiguousarray(plane_HW)
    height, width = plane_HW.shape
    shape = (height, width - _ANCHOR + 1)
    return np.ndarray(shape, "<u8", plane_HW, strides=(width, 1))


def _table_index(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (values * _FACTOR) >> np.uint64(64 - _TABLE_BITS)


def _fits(anchor: _Anchor, image: Image, row: int, column: int) -> bool:
    """Return whether the whole sub-image is in an image where its anchor is."""
    channels, height, width = anchor.image.shape
    top = row - anchor.row
    left = column - anchor.column
    if top < 0 or left < 0 or channels != image.shape[0]:
        return False
    part = image[:, top : top + height, left : left + width]
    # The row first, since anchors of drawings and of text repeat.
    if part.shape != anchor.image.shape:
        return False
    is_row_equal = np.array_equal(part[:, anchor.row], anchor.image[:, anchor.row])
    return is_row_equal and np.array_equal(part, anchor.image)


def with_subimages(train: Iterable[tuple[np.ndarray, ...]], test: ImageCache) -> set[int]:
    """Return the indices of test items that a training item was cut out of.

    Compared are the ground truths: inputs that are made of a sub-image differ along its border.
    """
    finder = SubimageFinder(arrays[-1] for arrays in train)
    shared = set()
    for index in range(len(test)):
        if finder.is_cut_from(test[index][-1]):
            shared.add(index)
    return shared
