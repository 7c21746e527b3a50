"""Random patches and their orientations, as arrays; nothing here knows where images come from."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Augmentation:
    """Which of the eight orientations of a patch may occur."""

    hflip: bool
    """Mirror left to right, in half of the patches."""
    rot: bool
    """Mirror top to bottom, and turn by 90 degrees, each in half of the patches (as BasicSR's `use_rot`)."""

    def draw(self, rng: np.random.Generator) -> tuple[bool, bool, bool]:
        """Return whether to mirror the columns, mirror the rows, and swap the two axes."""
        hflip, vflip, swap = (rng.random(3) < 0.5).tolist()
        return self.hflip and hflip, self.rot and vflip, self.rot and swap


def orient(image_CHW: np.ndarray, hflip: bool, vflip: bool, swap: bool) -> np.ndarray:
    """Return a view of the image in another orientation."""
    if hflip:
        image_CHW = image_CHW[:, :, ::-1]
    if vflip:
        image_CHW = image_CHW[:, ::-1]
    return image_CHW.swapaxes(1, 2) if swap else image_CHW


def draw_corner(rng: np.random.Generator, height: int, width: int, side: int) -> tuple[int, int]:
    """Return top and left of a square of `side` pixels inside an image, all places being equally likely."""
    top, left = rng.integers(0, (height - side + 1, width - side + 1)).tolist()
    return top, left


def to_tensor(image_CHW: np.ndarray) -> torch.Tensor:
    """Return a uint8 image as a contiguous float32 tensor in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image_CHW)).to(torch.float32).div_(255)


def planes(image_HWC: np.ndarray) -> np.ndarray:
    """Return the image as contiguous (C, H, W)."""
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


def interleaved(image_CHW: np.ndarray) -> np.ndarray:
    """Return the image as contiguous (H, W, C)."""
    return np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
