"""Denoising: clean images with white Gaussian noise added on the fly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dhp_sr.data.image_cache import Store
from dhp_sr.data.images import to_color
from dhp_sr.data.patches import Augmentation, draw_corner, interleaved, orient, planes, to_tensor
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.pixels import gaussian_noise, noise_generator


@dataclass(frozen=True)
class Clean:
    """One clean image."""

    gt: StoredImage
    color: str

    def load(self) -> np.ndarray:
        """Return the image, uint8 (C, H, W)."""
        return planes(to_color(self.gt.read(), self.color))


class TrainNoise(Dataset):
    """Patches with noise that is neither clipped nor rounded.

    Args:
        images: The images.
        keys: Their names.
        gt_size: Side of the patch.
        sigma: Lowest and highest noise level on the 0-255 scale, drawn uniformly for each patch.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch and noise.
    """

    def __init__(
        self,
        images: Store[np.ndarray],
        keys: Sequence[str],
        *,
        gt_size: int,
        sigma: tuple[float, float],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        """Keep the arguments."""
        self.images, self.keys, self.gt_size, self.sigma = images, list(keys), gt_size, sigma
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, address: tuple[int, int]) -> dict[str, Any]:
        """Return the sample at `address`: (number of the image, position in the run)."""
        index, position = address
        rng = np.random.default_rng((self.seed, position))
        image, side = self.images[index], self.gt_size
        top, left = draw_corner(rng, image.shape[1], image.shape[2], side)
        patch = orient(image[:, top : top + side, left : left + side], *self.augmentation.draw(rng))
        gt = to_tensor(patch)
        return {
            "lq": add_noise(gt, float(rng.uniform(*self.sigma)), rng),
            "gt": gt,
            "key": self.keys[index],
        }


class ValNoise(Dataset):
    """Whole images with noise that is the same at every visit: it depends on `noise_seed` and the image's name."""

    def __init__(
        self, images: Store[np.ndarray], keys: Sequence[str], *, sigma: float, noise_seed: int
    ) -> None:
        """Keep the arguments."""
        self.images, self.keys, self.sigma, self.noise_seed = images, list(keys), sigma, noise_seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return tensors (C, H, W), noise not clipped, and uint8 (H, W, C), noise rounded and clipped."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, key = self.images[index], self.keys[index]
        gt = to_tensor(image)
        lq = add_noise(gt, self.sigma, noise_generator(self.noise_seed, key))
        noisy = lq.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
        return {
            "lq": lq,
            "gt": gt,
            "key": key,
            "lq_uint8": interleaved(noisy),
            "gt_uint8": interleaved(image),
        }


def add_noise(clean: torch.Tensor, sigma: float, rng: np.random.Generator) -> torch.Tensor:
    """Return the image plus Gaussian noise of standard deviation `sigma` / 255, neither clipped nor rounded."""
    return torch.from_numpy(gaussian_noise(clean.shape, sigma, rng)).add_(clean)
