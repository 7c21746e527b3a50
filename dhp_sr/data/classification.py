"""Classification sets from the sections of an option file: uint8 in memory, normalized float32 in batches."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from dhp_sr.config.datasets import (
    ClassificationDataset,
    ClassificationTrain,
    ClassificationVal,
)
from dhp_sr.data.augment import shifted
from dhp_sr.data.batching import BatchedDataset
from dhp_sr.data.class_formats import read_labeled
from dhp_sr.data.labeled import LabeledImages, first_of_each_class, in_color
from dhp_sr.data.sampler import Address
from dhp_sr.utils.errors import UserError

Batch = dict[str, torch.Tensor]
"""`image`: float32 (N, C, H, W), normalized; `label`: int64 (N,)."""


class TrainImages(BatchedDataset):
    """Augmented samples, addressed by (number of the image, position in the run); see `train_batches`."""

    def __init__(self, labeled: LabeledImages, options: ClassificationTrain, seed: int) -> None:
        """Keep the images; `options` says how they are shifted, mirrored and normalized."""
        self.labeled, self.classes = labeled, labeled.classes
        self._padding, self._hflip, self._seed = options.padding, options.use_hflip, seed
        self._normalize = Normalize(*options.statistics)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labeled)

    def batch(self, addresses: Sequence[Address]) -> Batch:
        """Return the samples of these addresses, stacked."""
        numbers, positions = zip(*addresses, strict=True)
        whole = self.labeled.images_NHWC
        images = shifted(
            whole, numbers, positions, seed=self._seed, padding=self._padding, hflip=self._hflip
        )
        return _batch(self._normalize(images), self.labeled.labels[list(numbers)])


class ValImages(BatchedDataset):
    """Images as they are, addressed by their numbers."""

    def __init__(self, labeled: LabeledImages, options: ClassificationVal) -> None:
        """Keep the images; `options` says how they are normalized, and how many make a batch of `batches`."""
        self.labeled, self.classes, self.batch_size = (
            labeled,
            labeled.classes,
            options.batch_size,
        )
        self._normalize = Normalize(*options.statistics)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labeled)

    def batch(self, addresses: Sequence[int]) -> Batch:
        """Return the images of these numbers, stacked."""
        numbers = np.asarray(addresses)
        return _batch(
            self._normalize(self.labeled.images_NHWC[numbers]), self.labeled.labels[numbers]
        )

    def batches(self) -> Iterator[Batch]:
        """Yield every image once, in order; the last batch may be smaller."""
        for start in range(0, len(self), self.batch_size):
            yield self.batch(range(start, min(start + self.batch_size, len(self))))


class Normalize:
    """Turns uint8 images (N, H, W, C) into float32 (N, C, H, W): (x / 255 - mean) / std, channel by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take mean and standard deviation of each channel, on the scale of 0 to 1."""
        self._mean, self._std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    def __call__(self, images_NHWC: np.ndarray) -> torch.Tensor:
        """Return the normalized images."""
        planes = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
        scaled = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return scaled.div_(255).sub_(self._mean).div_(self._std)


def _batch(images: torch.Tensor, labels: np.ndarray) -> Batch:
    return {"image": images, "label": torch.from_numpy(labels)}


def build_train(options: ClassificationTrain, seed: int) -> TrainImages:
    """Return the training set of `datasets.train`.

    Args:
        options: The section.
        seed: With a sample's position, fixes its shift and whether it is mirrored.

    Raises:
        UserError: Images are missing or damaged, or labels are out of range.
    """
    return TrainImages(_labeled(options, "datasets.train"), options, seed)


def build_val(options: ClassificationVal, section: str = "datasets.val") -> ValImages:
    """Return one validation set; arguments and errors as for `build_train`."""
    return ValImages(_labeled(options, section), options)


def check_same_classes(train: Sequence[str], val: Sequence[str], name: str) -> None:
    """Check that a validation set has the classes of the training set, in the same order.

    Raises:
        UserError: it has others.
    """
    other = [
        (place, one, two)
        for place, (one, two) in enumerate(zip(train, val, strict=False))
        if one != two
    ]
    if other or len(train) != len(val):
        found = (
            f"found {other[0][2]!r} for {other[0][1]!r} at label {other[0][0]}"
            if other
            else f"found {len(val)}"
        )
        raise UserError(
            f"{name}: expected the {len(train)} classes of the training set, {found}: correct the folders"
        )


def _labeled(options: ClassificationDataset, section: str) -> LabeledImages:
    """Read the images that a section asks for; errors say which section it is."""
    try:
        asked = partial(read_labeled, labels=options.labels, side=options.size, color=options.color)
        labeled = asked(options.dataroot, options.split)
        return in_color(first_of_each_class(labeled, options.max_per_class), options.color)
    except UserError as error:
        raise UserError(
            f"{section}{f' ({options.name})' if options.name else ''}: {error}"
        ) from error
