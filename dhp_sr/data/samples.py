"""Samples of image restoration: what data sets give for training and for scoring."""

from collections.abc import Mapping
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Batch = Mapping[str, Any]
"""Samples, stacked: tensors by the names that a task calls them (`Task.batch_keys`).

Those of image restoration are `lq` and `gt`, float32 (N, C, H, W), with `key`, a list of names."""


class TrainSample(TypedDict):
    """A patch and its target, float32 (C, H, W)."""

    lq: Tensor
    gt: Tensor
    key: str
    """Name of the image."""
    taught: NotRequired[Tensor]
    """A teacher's output, where it was computed before."""


class ValSample(TypedDict):
    """A whole image and its target, float32 (C, H, W), and both as uint8 (H, W, C)."""

    lq: Tensor
    gt: NotRequired[Tensor]
    key: str
    """Name of the image."""
    lq_uint8: NDArray[np.uint8]
    gt_uint8: NDArray[np.uint8]
    gray_file: NotRequired[bool]
    """Whether the file of the target is gray, whatever the color that it is read in."""


class ValSamples(Protocol):
    """Whole images, a list of them or a data set that decodes them."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> ValSample:
        """Return an image."""
