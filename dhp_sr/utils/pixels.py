"""Image arithmetic that must be the same in training, scoring and inference.

Weights of luma, sizes that are multiples of a number, padding up to them, and seeded noise: each
has this address alone, so that a network sees the same pixels in `test.py` and in `infer.py`.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of every PNG file."""

LUMA = (0.298936021293775, 0.587043074451121, 0.114020904255103)
"""Weights of red, green and blue in luma, full range: BT.601, digits of MATLAB's `rgb2gray`."""


class Padding(NamedTuple):
    """Rows and columns added below and to the right of an image."""

    bottom: int
    """Rows added, in pixels."""
    right: int
    """Columns added, in pixels."""
    mode: str
    """`reflect`, or `replicate` for an image that is too small to be mirrored."""


def round_up(number: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is at least `number`."""
    # Floor division of the negated number rounds away from zero.
    return -(-number // multiple) * multiple


def padding_to_multiple(height: int, width: int, multiple: int) -> Padding:
    """Padding after which height and width of an image are multiples of `multiple`.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        multiple: Multiple that the network requires.
    """
    bottom = -height % multiple
    right = -width % multiple
    # Reflection leaves the edge pixel out, so it needs more pixels than it adds.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return Padding(bottom, right, mode)


def noise_generator(seed: int, name: str) -> np.random.Generator:
    """Random generator of the noise of an image.

    Args:
        seed: Seed of the data set.
        name: File name of the image without its suffix.
    """
    # A file name that is not UTF-8 holds surrogates, which become its bytes again (as os.fsencode
    # does, but whatever the locale). crc32, not hash(): Python salts that anew in every process.
    return np.random.default_rng((seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))))


def gaussian_noise(
    shape: Sequence[int], sigma: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draw white Gaussian noise for an image with values from 0 to 1.

    Args:
        shape: (C, H, W).
        sigma: Standard deviation on the 0-255 scale.
        generator: Source of the random numbers; it moves on.

    Returns:
        float32 array of the given shape, standard deviation `sigma` / 255.
    """
    # float32 from the start: half the memory, and the same numbers on every machine.
    noise = generator.standard_normal(tuple(shape), dtype=np.float32)
    noise *= np.float32(sigma / 255)
    return noise
