"""Training sets without ground truths: images are the inputs, a teacher's outputs the targets."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dhp_sr.data.augment import Augmentation, draw_corner, orient, to_chw, to_tensor
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.disk_cache import Arrays, SourceState
from dhp_sr.data.image_cache import ImageCache
from dhp_sr.data.images import crop_to_multiple
from dhp_sr.data.noise import CleanImage
from dhp_sr.data.overlap import Originals
from dhp_sr.data.samples import TrainSample
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class ReducedImage:
    """An image reduced by each of several factors with bicubic.

    Reduced images have more detail per pixel, as sharper photographs would have. An image that is
    too small for a factor is taken as it is.
    """

    image: CleanImage
    reductions: tuple[int, ...]
    """Whole factors; 1 takes the image as it is."""
    side: int
    """Height and width of the patches that have to fit in."""

    @property
    def recipe(self) -> str:
        """Color, factors and patches of the decoded images."""
        return f"{self.image.recipe} reduced by {self.reductions} for patches of {self.side}"

    def _divisors(self, height: int, width: int) -> list[int]:
        """Return the factors that are taken: 1 where a patch would no longer fit."""
        shorter = min(height, width)
        return [factor if shorter // factor >= self.side else 1 for factor in self.reductions]

    def load(self) -> Arrays:
        """Return an image (C, h, w) in uint8 for each factor."""
        (image,) = self.image.load()
        reduced = []
        for divisor in self._divisors(image.shape[1], image.shape[2]):
            if divisor == 1:
                reduced.append(image)
                continue
            cropped = crop_to_multiple(image.transpose(1, 2, 0), divisor)
            reduced.append(to_chw(downscale(cropped, divisor)))
        return tuple(reduced)

    def decoded_bytes(self) -> int:
        """Return the memory of all of them."""
        channels, height, width = self.image.input_shape()
        total = 0
        for divisor in self._divisors(height, width):
            total += channels * (height // divisor) * (width // divisor)
        return total

    def sources(self) -> list[SourceState]:
        """Return the file of the image as it is now."""
        return self.image.sources()

    def for_visits(self) -> "ReducedImage":
        """Return the image itself: held, the reduced ones would take memory as the set grows."""
        return self


class InputTrainSet(Dataset):
    """Patches of images that are reduced by several factors, each equally often.

    Args:
        images: For each image an array (C, h, w) in uint8 per factor, as `ReducedImage` gives them.
        keys: Names of the images.
        side: Height and width of the patches in pixels.
        scale: Enlargement of the network.
        augmentation: The orientations that may occur.
        seed: With a sample's position in the run, fixes its patch.
        originals: Where the images are stored, see `images_in_both`.
    """

    def __init__(
        self,
        images: ImageCache,
        keys: Sequence[str],
        *,
        side: int,
        scale: int,
        augmentation: Augmentation,
        seed: int,
        originals: Originals = (),
    ) -> None:
        self.images = images
        self.originals = originals
        self.keys = keys
        self.side = side
        self.scale = scale
        self.augmentation = augmentation
        self.seed = seed
        self.teacher_outputs: TeacherOutputs | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def whole_inputs(self) -> Iterator[np.ndarray]:
        """Yield every image, reduced by each factor in turn."""
        for index in range(len(self)):
            yield from self.images[index]

    def __getitem__(self, sample: tuple[int, int]) -> TrainSample:
        """Return the patch of an (image index, position in the run), also as its own target."""
        index, position = sample
        rng = np.random.default_rng((self.seed, position))
        reduced = self.images[index]
        choice = int(rng.integers(len(reduced)))
        image = reduced[choice]
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
            number = len(reduced) * index + choice
            patches["taught"] = self.teacher_outputs.patch(number, rows, columns, orientation)
        return patches


HalfImage = NDArray[np.float16]
"""(C, H, W), values about 0 to 1; half precision is finer there than a quarter of a level of 8
bits."""


_CHUNK_BYTES = 2**22


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
                _reserve(file, num_bytes)
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


def _reserve(file: IO[bytes], num_bytes: int) -> None:
    """Make an empty file so long, with all of its space taken."""
    # Not on macOS and Windows, where it is written.
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is not None:
        reserve(file.fileno(), 0, num_bytes)
        return
    for start in range(0, num_bytes, _CHUNK_BYTES):
        file.write(bytes(min(_CHUNK_BYTES, num_bytes - start)))
    file.flush()


@runtime_checkable
class TaughtTrainSet(Protocol):
    """Training set whose samples can hold a patch of the teacher's output, as `taught`."""

    teacher_outputs: TeacherOutputs | None
    """Outputs for `whole_inputs`; None: samples have no `taught`."""

    def whole_inputs(self) -> Iterator[np.ndarray]:
        """Yield all images that patches are cut from, uint8 (C, H, W), in a fixed order."""
