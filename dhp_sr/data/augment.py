"""Random crops and orientations of training images; every choice follows from the seed alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Augmentation:
    """Orientations of a patch, of the eight, that may occur."""

    hflip: bool
    """Mirror left to right, in half of the patches."""
    rot: bool
    """Mirror top to bottom, and swap rows and columns, each in half of the patches (as BasicSR's
    `use_rot`)."""

    def draw(self, rng: np.random.Generator) -> tuple[bool, bool, bool]:
        """Draw whether to mirror the columns, mirror the rows, and swap the two axes."""
        # all three are drawn in any case: the noise that is drawn next must not depend on options
        hflip, vflip, swap = (rng.random(3) < 0.5).tolist()
        return self.hflip and hflip, self.rot and vflip, self.rot and swap


def orient(image_CHW: np.ndarray, hflip: bool, vflip: bool, swap: bool) -> np.ndarray:
    """Return a view of the image in another orientation."""
    # views: the copy is made once, by `to_tensor`
    if hflip:
        image_CHW = image_CHW[:, :, ::-1]
    if vflip:
        image_CHW = image_CHW[:, ::-1]
    return image_CHW.swapaxes(1, 2) if swap else image_CHW


def draw_corner(rng: np.random.Generator, height: int, width: int, side: int) -> tuple[int, int]:
    """Draw top and left of a square of `side` pixels inside an image, uniformly."""
    top, left = rng.integers(0, (height - side + 1, width - side + 1)).tolist()
    return top, left


def to_tensor(image_CHW: np.ndarray) -> torch.Tensor:
    """Return a uint8 image as a contiguous float32 tensor in [0, 1]."""
    # torch takes no arrays with negative strides, which `orient` gives
    return torch.from_numpy(np.ascontiguousarray(image_CHW)).to(torch.float32).div_(255)


def to_chw(image_HWC: np.ndarray) -> np.ndarray:
    """Return the image as contiguous (C, H, W)."""
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


def to_hwc(image_CHW: np.ndarray) -> np.ndarray:
    """Return the image as contiguous (H, W, C)."""
    return np.ascontiguousarray(image_CHW.transpose(1, 2, 0))


def random_bits(seed: int, positions: np.ndarray, count: int) -> np.ndarray:
    """Random bits of a counter-based generator: they depend on seed and position alone.

    Args:
        seed: Seed of the run.
        positions: (N,), counted from the start of the run.
        count: Numbers for each position.

    Returns:
        uint64 of shape (N, count).

    Reference:
        SplitMix64: Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64 on purpose
        seeded = _mix(np.asarray(seed, np.uint64) + _STEP)
        start = _mix(np.asarray(positions, np.uint64) * _STEP ^ seeded)
        return _mix(start[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))


def _mix(bits: np.ndarray) -> np.ndarray:
    """Output function of SplitMix64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def random_crop_with_padding(
    images_NHWC: np.ndarray,
    indices: Sequence[int],
    positions: Sequence[int],
    *,
    seed: int,
    padding: int,
    hflip: bool,
) -> np.ndarray:
    """Crop images at random from their zero-padded selves, and mirror half of them.

    Args:
        images_NHWC: uint8, the whole set.
        indices: Indices of the images that are cropped.
        positions: Positions of the samples in the run.
        seed: Seed of the run.
        padding: Pixels on each side.
        hflip: Mirror half of them left to right.

    Returns:
        uint8 (len(indices), H, W, C).
    """
    height, width = images_NHWC.shape[1:3]
    bits = random_bits(seed, np.asarray(positions), 3)
    offsets = (bits[:, :2] % np.uint64(2 * padding + 1)).astype(np.int64)
    columns = np.arange(width)[None].repeat(len(bits), axis=0)
    if hflip:
        # the highest bit of a number of its own: low bits decide the offsets
        mirrored = (bits[:, 2] >> np.uint64(63)).astype(bool)
        columns[mirrored] = columns[mirrored, ::-1]
    chosen = images_NHWC[np.asarray(indices)]
    padded = np.pad(chosen, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + columns
    # a single gather for the whole batch, instead of slices of thousands of tiny images
    samples = np.arange(len(bits))[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]]
