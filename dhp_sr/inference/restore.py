"""One picture through a network: tile by tile, row of tiles by row of tiles."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from dhp_sr.deploy.runner import Runner
from dhp_sr.inference.images import Picture, Pixels
from dhp_sr.inference.source import Adapter, Source
from dhp_sr.inference.tiles import Span, Tiling, spans
from dhp_sr.utils.errors import UserError

_MARGIN = 4
"""Pixels around a strip of alpha that its enlargement reads, and more."""


def restored(
    picture: Picture,
    source: Source,
    runner: Runner,
    adapter: Adapter,
    tiling: Tiling,
    note: Callable[[int], None],
) -> Iterator[Pixels]:
    """Yield the rows of the result from top to bottom, a row of tiles at a time.

    Args:
        picture: what is restored.
        source: its planes.
        runner: the model.
        adapter: how they fit.
        tiling: of the source's sides.
        note: told how many pixels of the input are done, after each tile.

    Yields:
        (rows, width, channels with alpha), of the picture's type, clipped and rounded.
    """
    height, width = picture.colours.shape[:2]
    scale, columns = runner.scale, list(spans(source.width, tiling.columns, tiling))
    for rows in spans(source.height, tiling.rows, tiling):
        last = min(rows.last, height)
        if rows.first >= height:
            return  # filled up
        shape = ((last - rows.first) * scale, width * scale, adapter.channels)
        band = np.empty(shape, dtype=picture.colours.dtype)
        for span in columns:
            right = min(span.last, width)
            if right > span.first:
                part = _tile(source, runner, adapter, rows, span)
                part = part[: (last - rows.first) * scale, : (right - span.first) * scale]
                band[:, span.first * scale : right * scale] = _levels(part, band.dtype)
                note((last - rows.first) * (right - span.first))
        if picture.alpha is not None:
            band = np.dstack((band, _enlarged(picture.alpha, rows.first, last, scale)))
        yield band


def _tile(
    source: Source, runner: Runner, adapter: Adapter, rows: Span, columns: Span
) -> NDArray[np.float32]:
    """Return (h, w, C), the result's part of one tile."""
    planes = source.take(slice(rows.start, rows.end), slice(columns.start, columns.end))
    result, scale = runner(adapter.before(planes)), runner.scale
    expected = (planes.shape[1] * scale, planes.shape[2] * scale)
    if result.shape[2:] != expected:
        raise UserError(
            f"the network made {result.shape[2:]} of {planes.shape[1:]}, expected {expected}"
        )
    top, left = (rows.first - rows.start) * scale, (columns.first - columns.start) * scale
    bottom, right = (
        top + (rows.last - rows.first) * scale,
        left + (columns.last - columns.first) * scale,
    )
    return adapter.after(result[:, :, top:bottom, left:right]).transpose(1, 2, 0)


def _levels(values: NDArray[np.float32], dtype: np.dtype) -> Pixels:
    if not np.isfinite(values).all():
        raise UserError(
            "the network's result holds values that are not finite; try --precision fp32"
        )
    return np.rint(np.clip(values, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)


def _enlarged(alpha: Pixels, first: int, last: int, scale: int) -> Pixels:
    """Return rows [first, last) of the alpha channel, enlarged by bicubic interpolation."""
    if scale == 1:
        return alpha[first:last]
    start, end = max(0, first - _MARGIN), min(len(alpha), last + _MARGIN)
    part = np.ascontiguousarray(alpha[start:end])
    whole = cv2.resize(
        part, (part.shape[1] * scale, part.shape[0] * scale), interpolation=cv2.INTER_CUBIC
    )
    return whole[(first - start) * scale : (last - start) * scale]
