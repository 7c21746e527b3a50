"""Images that int8 is calibrated with, and scores on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dhp_sr.deploy.runner import Images

Run = Callable[[Images], Images]
"""Function that computes a network."""


@dataclass(frozen=True)
class CalibrationImage:
    """An input of the network and the image that it should give."""

    lq: Tensor
    """(1, C, H, W) in [0, 1]."""
    gt: Tensor
    """(1, C, scale H, scale W) in [0, 1]."""


def mean_psnr(run: Run, images: Sequence[CalibrationImage]) -> float:
    """Return the mean PSNR of clipped results in dB, over all channels."""
    values = []
    for image in images:
        result = np.clip(run(image.lq.numpy()), 0, 1)
        error = float(np.mean((result - image.gt.numpy()) ** 2, dtype=np.float64))
        values.append(-10 * np.log10(max(error, 1e-12)))
    return float(np.mean(values))
