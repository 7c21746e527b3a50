"""White Gaussian noise, the same wherever it is added: in training, in scoring and by `infer.py --sigma`."""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def generator_of(seed: int, name: str) -> np.random.Generator:
    """Return the source of the noise of one image, fixed by `seed` and the image's name without its suffix."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))


def gaussian(
    shape: Sequence[int], sigma: float, source: np.random.Generator
) -> NDArray[np.float32]:
    """Return noise of standard deviation `sigma` / 255 for an image of values 0 to 1.

    Args:
        shape: (C, H, W).
        sigma: 0-255 scale.
        source: what the numbers are drawn from.
    """
    noise = source.standard_normal(tuple(shape), dtype=np.float32)
    noise *= np.float32(sigma / 255)
    return noise
