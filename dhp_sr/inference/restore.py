"""An image through a model: channels adapted, sides padded, tile by tile, from top to bottom."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dhp_sr.deploy.runner import Runner
from dhp_sr.images.image import Image, Pixels
from dhp_sr.inference.tiles import TileSpan, Tiling, tile_spans
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import LUMA, gaussian_noise, noise_generator, padding_to_multiple

_LUMA = np.array(LUMA, dtype=np.float32)
_ALPHA_MARGIN = 4
"""Rows around a strip of alpha that suffice for bicubic interpolation, which reads two."""


@dataclass(frozen=True)
class ChannelAdapter:
    """Conversion between the channels of an image and those of a model.

    A gray model takes the channels of a color image in turn. A color model takes a gray image
    three times; its result becomes gray by the luma of BT.601.
    """

    channels: int
    """Channels of the image and of the result: 1 or 3."""
    channel_batch: bool
    """Channels of the image become a batch of gray images."""
    repeat: bool
    """The channel of the image becomes all channels of the input."""

    @classmethod
    def between(cls, channels: int, runner: Runner) -> "ChannelAdapter":
        """Make the adapter for an image and a model.

        Args:
            channels: Channels of the image.
            runner: The model.

        Raises:
            UserError: The model is neither from gray to gray nor from RGB to RGB.
        """
        if runner.in_channels not in (1, 3) or runner.out_channels != runner.in_channels:
            raise UserError(
                f"{runner.path}: expected a network from gray to gray or RGB to RGB, "
                f"found {runner.in_channels} channels in and {runner.out_channels} out"
            )
        channel_batch = runner.in_channels == 1 and channels == 3
        return cls(channels, channel_batch, repeat=runner.in_channels == 3 and channels == 1)

    @property
    def batch(self) -> int:
        """Images that go through the network at once."""
        return self.channels if self.channel_batch else 1

    def to_model(self, planes_CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's input (N, C, H, W)."""
        if self.channel_batch:
            return planes_CHW[:, None]
        if self.repeat:
            return np.repeat(planes_CHW, 3, axis=0)[None]
        return planes_CHW[None]

    def from_model(self, result_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the result (C, H, W) in the channels of the image."""
        if self.channel_batch:
            return result_NCHW[:, 0]
        if self.repeat:
            return np.tensordot(_LUMA, result_NCHW[0], 1)[None]
        return result_NCHW[0]


class NetworkInput:
    """The color of an image as floats, of which any tile can be taken.

    Args:
        color_HWC: uint8 or uint16.
        multiple: Sides are padded to multiples of it.
        noise: Standard deviation of noise to add, 0-255 scale; the same that `test.py` adds.
        seed: Seed of the noise, and the image's name.
    """

    def __init__(
        self, color_HWC: Pixels, multiple: int, noise: float = 0.0, seed: tuple[int, str] = (0, "")
    ) -> None:
        height, width, channels = color_HWC.shape
        padding = padding_to_multiple(height, width, multiple)
        self.height = height + padding.bottom
        self.width = width + padding.right
        mode: Literal["reflect", "edge"] = "reflect"
        if padding.mode == "replicate":
            mode = "edge"  # NumPy's word
        # A tile is gathered by these indices: the padded image is never in memory as a whole.
        self._row_indices = np.pad(np.arange(height), (0, padding.bottom), mode)
        self._column_indices = np.pad(np.arange(width), (0, padding.right), mode)
        self._color_HWC = color_HWC
        self._max_value = np.float32(np.iinfo(color_HWC.dtype).max)
        self._noisy_CHW: NDArray[np.float32] | None = None
        if noise:
            # drawn for the whole image: tiles must not change the noise
            noisy = gaussian_noise((channels, height, width), noise, noise_generator(*seed))
            for channel in range(channels):
                plane = color_HWC[:, :, channel].astype(np.float32)
                noisy[channel] += plane / self._max_value
            self._noisy_CHW = noisy

    def tile(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return (C, h, w) of a tile, 0 to 1 apart from noise."""
        row_indices = self._row_indices[rows]
        column_indices = self._column_indices[columns]
        if self._noisy_CHW is not None:
            return self._noisy_CHW[:, row_indices][:, :, column_indices]
        height, width, channels = self._color_HWC.shape
        if rows.stop <= height and columns.stop <= width:
            # nothing is padded: no copy
            tile_HWC = self._color_HWC[rows, columns]
        else:
            tile_HWC = self._color_HWC[row_indices][:, column_indices]
        planes_CHW = np.empty((channels, *tile_HWC.shape[:2]), np.float32)
        # plane by plane: a pass over all channels of a transposed image takes 5 times as long
        for channel in range(channels):
            plane = cv2.extractChannel(tile_HWC, channel)
            np.divide(plane, self._max_value, out=planes_CHW[channel], dtype=np.float32)
        return planes_CHW


def restore_rows(
    image: Image,
    network_input: NetworkInput,
    runner: Runner,
    adapter: ChannelAdapter,
    tiling: Tiling,
    on_pixels: Callable[[int], None] = lambda pixels: None,
) -> Iterator[Pixels]:
    """Yield the rows of the result from top to bottom, a row of tiles at a time.

    Args:
        image: What is restored.
        network_input: Its color.
        runner: The model.
        adapter: Between their channels.
        tiling: Tiling of the padded sides.
        on_pixels: Called after each tile with the number of input pixels that it covers.

    Yields:
        (rows, width, channels with alpha), of the image's type, clipped and rounded.
    """
    height, width = image.color.shape[:2]
    scale = runner.scale
    columns = []
    for span in tile_spans(network_input.width, tiling.columns, tiling):
        # what begins behind the image is padding alone
        if span.first < width:
            columns.append(span)
    for rows in tile_spans(network_input.height, tiling.rows, tiling):
        if rows.first >= height:
            return  # padding alone is below
        last = min(rows.last, height)
        shape = ((last - rows.first) * scale, width * scale, adapter.channels)
        strip = np.empty(shape, dtype=image.color.dtype)
        for spans in batches(columns, tiling.batch):
            tiles = restore_tiles(network_input, runner, adapter, rows, spans)
            for span, tile in zip(spans, tiles, strict=True):
                right = min(span.last, width)
                tile = tile[:, : (last - rows.first) * scale, : (right - span.first) * scale]
                strip[:, span.first * scale : right * scale] = to_pixels(tile, strip.dtype)
                on_pixels((last - rows.first) * (right - span.first))
        if image.alpha is not None:
            strip = np.dstack((strip, upscale_alpha(image.alpha, rows.first, last, scale)))
        yield strip


def batches(spans: Sequence[TileSpan], size: int) -> Iterator[list[TileSpan]]:
    """Yield neighbors that feed the network with the same width, at most `size` at once."""
    batch: list[TileSpan] = []
    for span in spans:
        is_like_last = not batch or span.end - span.start == batch[-1].end - batch[-1].start
        if batch and (len(batch) == size or not is_like_last):
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def restore_tiles(
    network_input: NetworkInput,
    runner: Runner,
    adapter: ChannelAdapter,
    rows: TileSpan,
    spans: Sequence[TileSpan],
) -> list[NDArray[np.float32]]:
    """Return the results (C, h, w) of tiles of the same size, without their overlap."""
    inputs = []
    for columns in spans:
        planes = network_input.tile(slice(rows.start, rows.end), slice(columns.start, columns.end))
        inputs.append(adapter.to_model(planes))
    images = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
    scale = runner.scale
    results = np.asarray(runner(images))
    expected = (images.shape[2] * scale, images.shape[3] * scale)
    if results.shape[2:] != expected:
        raise UserError(
            f"the network made {results.shape[2:]} of {images.shape[2:]}, expected {expected}"
        )
    top = (rows.first - rows.start) * scale
    bottom = top + (rows.last - rows.first) * scale
    tiles = []
    for index, columns in enumerate(spans):
        result = results[index * adapter.batch : (index + 1) * adapter.batch]
        left = (columns.first - columns.start) * scale
        right = left + (columns.last - columns.first) * scale
        tiles.append(adapter.from_model(result[:, :, top:bottom, left:right]))
    return tiles


def to_pixels(values_CHW: NDArray[np.float32], dtype: np.dtype) -> Pixels:
    """Clip to 0 to 1, scale to the range of a type and round; return (H, W, C).

    In place and plane by plane: this runs between the network's calls, not beside them.
    """
    # a sum is finite only if all values are; an overflow of finite values is looked at again
    with np.errstate(over="ignore", invalid="ignore"):
        total = values_CHW.sum()
    if not np.isfinite(total) and not np.isfinite(values_CHW).all():
        raise UserError(
            "the network's result holds values that are not finite; try --precision fp32"
        )
    scaled = np.clip(values_CHW, 0, 1)
    scaled *= np.float32(np.iinfo(dtype).max)
    np.rint(scaled, out=scaled)
    planes = scaled.astype(dtype)
    return planes[0][..., None] if len(planes) == 1 else cv2.merge(list(planes))


def upscale_alpha(alpha_HW: Pixels, first: int, last: int, scale: int) -> Pixels:
    """Return rows [first, last) of the alpha channel, enlarged by bicubic interpolation."""
    if scale == 1:
        return alpha_HW[first:last]
    start = max(0, first - _ALPHA_MARGIN)
    end = min(len(alpha_HW), last + _ALPHA_MARGIN)
    # rows around the strip are read, so that strips fit together without a seam
    strip = np.ascontiguousarray(alpha_HW[start:end])
    size = (strip.shape[1] * scale, strip.shape[0] * scale)
    enlarged = cv2.resize(strip, size, interpolation=cv2.INTER_CUBIC)
    rows = enlarged[(first - start) * scale : (last - start) * scale]
    return rows.astype(alpha_HW.dtype, copy=False)
