"""Outputs of a teacher on whole training images, which patches are cut from as from the truths."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.data.augment import orient
from dhp_sr.utils.errors import UserError

HalfImage = NDArray[np.float16]
"""(C, H, W), values about 0 to 1; half precision is finer there than a quarter of a level of 8
bits."""


class TeacherOutputs:
    """Images by number, in a mapped file without a name, which is gone when the process ends.

    Args:
        shapes: (C, H, W) of every image.
        folder: where the file takes its space.

    Raises:
        UserError: there is not enough space.
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
