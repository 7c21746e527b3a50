"""Classification sets of an option file: uint8 in memory, normalized float32 in batches."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dhp_sr.config.datasets import (
    ClassificationDataset,
    ClassificationTrain,
    ClassificationVal,
)
from dhp_sr.data.augment import random_crop_with_padding
from dhp_sr.data.build import section_in_errors
from dhp_sr.data.class_formats import read_labeled
from dhp_sr.data.labeled import LabeledImages, first_of_each_class, in_color
from dhp_sr.data.sampler import BatchedDataset, SampleIndex
from dhp_sr.utils.errors import UserError

Batch = dict[str, torch.Tensor]
"""`image`: float32 (N, C, H, W), normalized; `label`: int64 (N,)."""


class TrainImages(BatchedDataset[SampleIndex]):
    """Augmented samples, addressed by (image index, position in the run); see `train_batches`.

    Args:
        labeled: The images.
        options: How they are cropped, mirrored and normalized.
        seed: With a sample's position, fixes its augmentation.
    """

    def __init__(self, labeled: LabeledImages, options: ClassificationTrain, seed: int) -> None:
        self.labeled = labeled
        self.classes = labeled.classes
        self._padding = options.padding
        self._hflip = options.use_hflip
        self._seed = seed
        self._normalize = Normalize(*options.statistics)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labeled)

    def batch(self, samples: Sequence[SampleIndex]) -> Batch:
        """Return several samples, stacked."""
        # the whole batch at once: for tiny images, Python's time per sample would dominate
        indices, positions = zip(*samples, strict=True)
        images = random_crop_with_padding(
            self.labeled.images_NHWC,
            indices,
            positions,
            seed=self._seed,
            padding=self._padding,
            hflip=self._hflip,
        )
        return _to_batch(self._normalize(images), self.labeled.labels[list(indices)])


class ValImages(BatchedDataset[int]):
    """Images without augmentation, addressed by index.

    Args:
        labeled: The images.
        options: How they are normalized, and how many make a batch of `batches`.
    """

    def __init__(self, labeled: LabeledImages, options: ClassificationVal) -> None:
        self.labeled = labeled
        self.classes = labeled.classes
        self.batch_size = options.batch_size
        self._normalize = Normalize(*options.statistics)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labeled)

    def batch(self, samples: Sequence[int]) -> Batch:
        """Return the images of these indices, stacked."""
        indices = np.asarray(samples)
        images = self._normalize(self.labeled.images_NHWC[indices])
        return _to_batch(images, self.labeled.labels[indices])

    def batches(self) -> Iterator[Batch]:
        """Yield every image once, in order; the last batch may be smaller."""
        for start in range(0, len(self), self.batch_size):
            yield self.batch(range(start, min(start + self.batch_size, len(self))))


class Normalize:
    """Normalization of uint8 images (N, H, W, C) to float32 (N, C, H, W): (x / 255 - mean) / std.

    Args:
        mean: Mean of each channel, on the scale of 0 to 1.
        std: Standard deviation of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)

    def __call__(self, images_NHWC: np.ndarray) -> torch.Tensor:
        """Return the normalized images."""
        planes = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
        # copied once, in the layout of the network; then in place
        scaled = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return scaled.div_(255).sub_(self._mean).div_(self._std)


def _to_batch(images: torch.Tensor, labels: np.ndarray) -> Batch:
    return {"image": images, "label": torch.from_numpy(labels)}


def build_train(options: ClassificationTrain, seed: int) -> TrainImages:
    """Build the training set of `datasets.train`.

    Args:
        options: The section.
        seed: With a sample's position, fixes its augmentation.

    Raises:
        UserError: Images are missing or damaged, or labels are out of range.
    """
    return TrainImages(_read(options, "datasets.train"), options, seed)


def build_val(options: ClassificationVal, section: str = "datasets.val") -> ValImages:
    """Build a validation set; arguments and errors as for `build_train`."""
    return ValImages(_read(options, section), options)


def check_same_classes(train: Sequence[str], val: Sequence[str], name: str) -> None:
    """Check that a validation set has the classes of the training set, in the same order.

    Args:
        train: Classes of the training set.
        val: Classes of the validation set.
        name: Name of the validation set, for messages.

    Raises:
        UserError: It has others.
    """
    # the order counts as much as the names: labels are indices
    if list(train) == list(val):
        return
    difference = f"got {len(val)}"
    for label, (expected, actual) in enumerate(zip(train, val, strict=False)):
        if expected != actual:
            difference = f"got {actual!r} for {expected!r} at label {label}"
            break
    raise UserError(
        f"{name}: expected the {len(train)} classes of the training set, {difference}: "
        "correct the folders"
    )


def _read(options: ClassificationDataset, section: str) -> LabeledImages:
    """Read the images of a section; its name is in errors."""
    with section_in_errors(section, options.name):
        labeled = read_labeled(
            options.dataroot,
            options.split,
            labels=options.labels,
            side=options.size,
            color=options.color,
        )
        return in_color(first_of_each_class(labeled, options.max_per_class), options.color)
