"""A picture as the network wants it: planes of floats, any part of them, sides filled up to the multiple it needs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dhp_sr.deploy.runner import Runner
from dhp_sr.inference.images import Pixels
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import LUMA, gaussian_noise, noise_generator, padding_to_multiple

_LUMA = np.array(LUMA, dtype=np.float32)


@dataclass(frozen=True)
class Adapter:
    """How a model of one kind of colour takes pictures of another.

    A grey model takes the channels of a colour picture one by one. A colour model takes a grey picture three times; its
    result becomes grey by the luma of BT.601.
    """

    channels: int
    """Of the picture, and of the result."""
    each: bool
    repeat: bool

    @property
    def batch(self) -> int:
        """Pictures that go through the network at once."""
        return self.channels if self.each else 1

    def before(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn (C, h, w) into the network's input."""
        if self.each:
            return planes[:, None]
        return np.repeat(planes, 3, axis=0)[None] if self.repeat else planes[None]

    def after(self, result: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn the network's output into (C, h, w)."""
        if self.each:
            return result[:, 0]
        return np.tensordot(_LUMA, result[0], 1)[None] if self.repeat else result[0]


def adapter(runner: Runner, channels: int) -> Adapter:
    """Return how a picture of 1 or 3 channels goes through a model.

    Raises:
        UserError: the model is neither grey nor colour.
    """
    if runner.in_channels not in (1, 3) or runner.out_channels != runner.in_channels:
        raise UserError(
            f"{runner.path}: expected a network from grey to grey or RGB to RGB, "
            f"found {runner.in_channels} channels in and {runner.out_channels} out"
        )
    each = runner.in_channels == 1 and channels == 3
    return Adapter(channels, each=each, repeat=runner.in_channels == 3 and channels == 1)


class Source:
    """The planes of a picture.

    Args:
        pixels: (H, W, C).
        multiple: sides are filled up to multiples of it, mirrored; a side too short for that is repeated.
        noise: standard deviation of noise to add, 0-255 scale; the same that `test.py` adds.
        seed: of the noise, and the picture's name.
    """

    def __init__(
        self, pixels: Pixels, multiple: int, noise: float = 0.0, seed: tuple[int, str] = (0, "")
    ) -> None:
        height, width = pixels.shape[:2]
        bottom, right, mode = padding_to_multiple(height, width, multiple)
        mirrored = mode == "reflect"
        self.height, self.width = height + bottom, width + right
        self._rows = _places(height, bottom, mirrored)
        self._columns = _places(width, right, mirrored)
        self._pixels, self._peak = pixels, np.float32(255 if pixels.dtype == np.uint8 else 65535)
        self._noisy = self._with_noise(noise, seed) if noise else None

    def take(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return (C, h, w) in [0, 1], without noise."""
        down, right = self._rows[rows], self._columns[columns]
        if self._noisy is not None:
            return self._noisy[:, down][:, :, right]
        part = self._pixels[down][:, right]
        return np.ascontiguousarray(part.transpose(2, 0, 1)).astype(np.float32) / self._peak

    def _with_noise(self, sigma: float, seed: tuple[int, str]) -> NDArray[np.float32]:
        shape = (self._pixels.shape[2], *self._pixels.shape[:2])
        noise = gaussian_noise(shape, sigma, noise_generator(*seed))
        for plane, pixels in zip(noise, self._pixels.transpose(2, 0, 1), strict=True):
            plane += pixels.astype(np.float32) / self._peak
        return noise


def _places(length: int, more: int, mirrored: bool) -> NDArray[np.int64]:
    places = np.arange(length + more)
    return np.where(places < length, places, 2 * length - 2 - places if mirrored else length - 1)
