"""Denoising sets: clean images with white Gaussian noise added on the fly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from dhp_sr.config.section import CHANNELS
from dhp_sr.data.augment import Augmentation, draw_corner, orient, to_chw, to_hwc, to_tensor
from dhp_sr.data.disk_cache import SourceState
from dhp_sr.data.image_cache import ImageCache
from dhp_sr.data.images import to_color
from dhp_sr.data.overlap import Originals
from dhp_sr.data.samples import TrainSample, ValSample
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.pixels import gaussian_noise, noise_generator


@dataclass(frozen=True)
class CleanImage:
    """One clean image and the color that it is wanted in."""

    gt: StoredImage
    color: str

    @property
    def recipe(self) -> str:
        """Color of the decoded image."""
        return f"image {self.color}"

    def load(self) -> tuple[np.ndarray]:
        """Return the image alone, uint8 (C, H, W)."""
        return (to_chw(to_color(self.gt.read(), self.color)),)

    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the image without decoding it."""
        height, width, _ = self.gt.size()
        return (CHANNELS[self.color], height, width)

    def decoded_bytes(self) -> int:
        """Return the memory of the decoded image."""
        height, width, _ = self.gt.size()
        return height * width * CHANNELS[self.color]

    def sources(self) -> list[SourceState]:
        """Return the file of the image as it is now."""
        return [self.gt.state()]

    def for_visits(self) -> "CleanImage":
        """Return the image itself: there is nothing to prepare."""
        return self


class NoiseTrainSet(Dataset):
    """Patches with noise that is neither clipped nor rounded.

    Args:
        images: The images, uint8 (C, H, W), each alone in a tuple.
        keys: Their names.
        gt_size: Side of the patch in pixels.
        sigma: Lowest and highest noise level on the 0-255 scale, drawn uniformly for each patch.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch and noise.
        originals: Where the images are stored, see `images_in_both`.
    """

    def __init__(
        self,
        images: ImageCache,
        keys: Sequence[str],
        *,
        gt_size: int,
        sigma: tuple[float, float],
        augmentation: Augmentation,
        seed: int,
        originals: Originals = (),
    ) -> None:
        self.images = images
        self.originals = originals
        self.keys = list(keys)
        self.gt_size = gt_size
        self.sigma = sigma
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, sample: tuple[int, int]) -> TrainSample:
        """Return the sample of an (image index, position in the run)."""
        index, position = sample
        # a generator for each sample: workers and interruptions change nothing
        rng = np.random.default_rng((self.seed, position))
        (image,) = self.images[index]
        side = self.gt_size
        top, left = draw_corner(rng, image.shape[1], image.shape[2], side)
        patch = image[:, top : top + side, left : left + side]
        gt = to_tensor(orient(patch, *self.augmentation.draw(rng)))
        lq = add_noise(gt, float(rng.uniform(*self.sigma)), rng)
        return {"lq": lq, "gt": gt, "key": self.keys[index]}


class NoiseValSet(Dataset):
    """Whole images with noise that is the same at every visit.

    Args:
        images: The images, uint8 (C, H, W), each alone in a tuple.
        keys: Their names; with `noise_seed` they fix the noise.
        sigma: Noise level on the 0-255 scale.
        noise_seed: Seed of the set.
        input_shapes: Shapes of the images, (C, H, W).
        originals: Where the images are stored, see `images_in_both`.
    """

    def __init__(
        self,
        images: ImageCache,
        keys: Sequence[str],
        *,
        sigma: float,
        noise_seed: int,
        input_shapes: Sequence[tuple[int, int, int]],
        originals: Originals = (),
    ) -> None:
        self.images = images
        self.originals = originals
        self.keys = list(keys)
        self.sigma = sigma
        self.noise_seed = noise_seed
        self.input_shapes = list(input_shapes)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> ValSample:
        """Return tensors (C, H, W), not clipped, and uint8 (H, W, C), rounded and clipped."""
        # IndexError ends a loop over the set; negative indices would be no images
        if not 0 <= index < len(self):
            raise IndexError(index)
        (image,) = self.images[index]
        key = self.keys[index]
        gt = to_tensor(image)
        lq = add_noise(gt, self.sigma, noise_generator(self.noise_seed, key))
        # for scores of the input, which are those of an image that could be saved
        noisy = lq.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
        return {
            "lq": lq,
            "gt": gt,
            "key": key,
            "lq_uint8": to_hwc(noisy),
            "gt_uint8": to_hwc(image),
        }


def add_noise(clean: torch.Tensor, sigma: float, rng: np.random.Generator) -> torch.Tensor:
    """Add Gaussian noise of standard deviation `sigma` / 255, neither clipped nor rounded."""
    # drawn by NumPy: `infer.py` adds the same noise without torch's generator
    return torch.from_numpy(gaussian_noise(clean.shape, sigma, rng)).add_(clean)
