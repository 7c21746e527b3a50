"""Shifted and mirrored copies of small images, a whole batch at once; which ones follows from the seed alone."""

from collections.abc import Sequence

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)


def draws(seed: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Return random bits that depend on the seed and a sample's position only.

    Args:
        seed: The run's.
        positions: (N,) counted from the start of the run.
        count: Numbers for each.

    Returns:
        uint64 of shape (N, count).

    Reference:
        The generator is SplitMix64: Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        start = _mixed(
            np.asarray(positions, np.uint64) * _STEP ^ _mixed(np.asarray(seed, np.uint64) + _STEP)
        )
        return _mixed(start[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def shifted(
    images_NHWC: np.ndarray,
    numbers: Sequence[int],
    positions: Sequence[int],
    *,
    seed: int,
    padding: int,
    hflip: bool,
) -> np.ndarray:
    """Return images cut at random from their black-framed selves, half of them mirrored.

    Args:
        images_NHWC: uint8, the whole set.
        numbers: Which of them.
        positions: The samples' places in the run.
        seed: The run's.
        padding: Width of the frame in pixels.
        hflip: Mirror half of them left to right.

    Returns:
        uint8 (len(numbers), H, W, C).
    """
    height, width = images_NHWC.shape[1:3]
    bits = draws(seed, np.asarray(positions), 3)
    offsets = (bits[:, :2] % np.uint64(2 * padding + 1)).astype(np.int64)
    columns = np.arange(width)[None].repeat(len(bits), axis=0)
    if hflip:
        mirrored = (bits[:, 2] >> np.uint64(63)).astype(bool)
        columns[mirrored] = columns[mirrored, ::-1]
    framed = np.pad(
        images_NHWC[np.asarray(numbers)], [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    )
    rows, columns = offsets[:, :1] + np.arange(height), offsets[:, 1:] + columns
    return framed[np.arange(len(bits))[:, None, None], rows[:, :, None], columns[:, None, :]]
