"""Training sets without ground truths: images are the inputs, a teacher's outputs the targets."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dhp_sr.data.augment import Augmentation, draw_corner, orient, to_chw, to_tensor
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.image_cache import ImageCache
from dhp_sr.data.images import crop_to_multiple
from dhp_sr.data.samples import TrainSample
from dhp_sr.utils.errors import UserError


class InputTrainSet(Dataset):
    """Patches of images that are reduced by several factors with bicubic, each equally often.

    Reduced images have more detail per pixel, as sharper photographs would have. An image that is
    too small for a factor is taken as it is.

    Args:
        images: One array (C, H, W) in uint8 each, by number.
        keys: Their names.
        side: Height and width of the patches in pixels.
        scale: Enlargement of the network.
        reductions: Whole factors; 1 takes the images as they are.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch.
    """

    def __init__(
        self,
        images: ImageCache,
        keys: Sequence[str],
        *,
        side: int,
        scale: int,
        reductions: Sequence[int],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.images = images
        self.keys = keys
        self.side = side
        self.scale = scale
        self.reductions = tuple(reductions)
        self.augmentation = augmentation
        self.seed = seed
        self.teacher_outputs: TeacherOutputs | None = None
        self._reduced: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def whole_inputs(self) -> Iterator[np.ndarray]:
        """Yield every image, reduced by each factor in turn."""
        for index in range(len(self)):
            for factor in self.reductions:
                yield self._reduce(index, factor)

    def __getitem__(self, sample: tuple[int, int]) -> TrainSample:
        """Return the patch of an (image index, position in the run), also as its own target."""
        index, position = sample
        rng = np.random.default_rng((self.seed, position))
        choice = int(rng.integers(len(self.reductions)))
        image = self._reduce(index, self.reductions[choice])
        top, left = draw_corner(rng, image.shape[1], image.shape[2], self.side)
        patch = image[:, top : top + self.side, left : left + self.side]
        orientation = self.augmentation.draw(rng)
        tensor = to_tensor(orient(patch, *orientation))
        # The loss of this kind of run never looks at the target, but every batch has one, of the
        # output's shape.
        target = tensor.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)
        patches: TrainSample = {"lq": tensor, "gt": target, "key": self.keys[index]}
        if self.teacher_outputs is not None:
            rows = slice(top * self.scale, (top + self.side) * self.scale)
            columns = slice(left * self.scale, (left + self.side) * self.scale)
            # In the order of `whole_inputs`.
            number = len(self.reductions) * index + choice
            patches["taught"] = self.teacher_outputs.patch(number, rows, columns, orientation)
        return patches

    def _reduce(self, index: int, factor: int) -> np.ndarray:
        """Return an image reduced, or as it is where a patch would no longer fit."""
        if factor == 1:
            return self.images[index][0]
        key = (index, factor)
        if key not in self._reduced:
            image = self.images[index][0]
            if min(image.shape[1:]) // factor < self.side:
                return image
            cropped = crop_to_multiple(image.transpose(1, 2, 0), factor)
            self._reduced[key] = to_chw(downscale(cropped, factor))
        return self._reduced[key]


HalfImage = NDArray[np.float16]
"""(C, H, W), values about 0 to 1; half precision is finer there than a quarter of a level of 8
bits."""


class TeacherOutputs:
    """Images by number, in a mapped file without a name, which is gone when the process ends.

    Args:
        shapes: (C, H, W) of every image.
        folder: Where the file takes its space.

    Raises:
        UserError: There is not enough space.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], folder: Path) -> None:
        self._shapes = list(shapes)
        sizes = [channels * height * width for channels, height, width in shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        num_bytes = max(1, self._starts[-1]) * np.dtype(np.float16).itemsize
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                # Reserved at once: a mapped page that finds the disk full ends the process.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError as error:
                raise UserError(
                    f"compress.distill.whole_images: expected {num_bytes / 2**30:.1f} GiB of free "
                    f"space in {folder}, got: {error.strerror}; set it to false"
                ) from error
            self._values = np.memmap(file, np.float16, "r+")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._shapes)

    def __getitem__(self, index: int) -> HalfImage:
        """Return an image, a view of the file: what is written to it is kept."""
        values = self._values[self._starts[index] : self._starts[index + 1]]
        return values.reshape(self._shapes[index])

    def patch(
        self, index: int, rows: slice, columns: slice, orientation: tuple[bool, bool, bool]
    ) -> torch.Tensor:
        """Return a patch of an image, float32, in an orientation that `Augmentation` drew."""
        patch_CHW = orient(self[index][:, rows, columns], *orientation)
        return torch.from_numpy(np.ascontiguousarray(patch_CHW)).to(torch.float32)


@runtime_checkable
class TaughtTrainSet(Protocol):
    """Training set whose samples can hold a patch of the teacher's output, as `taught`."""

    teacher_outputs: TeacherOutputs | None
    """Outputs for `whole_inputs`; None: samples have no `taught`."""

    def whole_inputs(self) -> Iterator[np.ndarray]:
        """Yield all images that patches are cut from, uint8 (C, H, W), in a fixed order."""
