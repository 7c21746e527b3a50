"""PSNR and SSIM of 8-bit images, as BasicSR and the papers state them."""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.utils.errors import UserError

Image = NDArray[np.uint8]

PEAK = 255.0
WINDOW = 11  # side of the Gaussian window of SSIM, in pixels
SIGMA = 1.5
STABILIZERS = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def psnr_db(a: Image, b: Image, *, shave: int = 0, luma: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, over all channels together.

    Args:
        a: uint8 image, HxWx3 RGB, HxWx1 or HxW grey.
        b: The other image, of the same shape.
        shave: Pixels to leave out on every side.
        luma: Compare the Y channel (MATLAB's, not rounded); a grey image is its own Y.

    Returns:
        10 log10(255^2 / mean squared error); infinity for equal images.

    Raises:
        UserError: the shapes differ, are no image's, or nothing is left after shaving.
        ValueError: an image is not uint8.
    """
    first, second = _prepare(a, shave, luma), _prepare(b, shave, luma)
    _check_pair(a, b, shave, smallest=1)
    error = float(np.mean(np.square(first - second)))
    return 10 * float(np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(a: Image, b: Image, *, shave: int = 0, luma: bool = False) -> float:
    """Structural similarity: 11x11 Gaussian window of sigma 1.5, only where it fits, mean over positions and channels.

    Args:
        a: uint8 image, HxWx3 RGB, HxWx1 or HxW grey; at least 11 pixels on each side after shaving.
        b: The other image, of the same shape.
        shave: Pixels to leave out on every side.
        luma: Compare the Y channel (MATLAB's, not rounded); a grey image is its own Y.

    Returns:
        A value up to 1, which equal images reach.

    Raises:
        UserError: the shapes differ, are no image's, or the window does not fit.
        ValueError: an image is not uint8.

    Reference:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, TIP 2004, equation 13.
    """
    first, second = _prepare(a, shave, luma), _prepare(b, shave, luma)
    _check_pair(a, b, shave, smallest=WINDOW)
    if first.ndim == 2:
        return _plane_ssim(first, second)
    planes = range(first.shape[2])  # one at a time: 1.6 times faster than interleaved
    return float(np.mean([_plane_ssim(first[..., plane], second[..., plane]) for plane in planes]))


def to_uint8(image: torch.Tensor) -> Image:
    """Turn a (C, H, W) tensor in [0, 1] into an (H, W, C) uint8 array: clipped, then rounded.

    Raises:
        ValueError: the tensor does not have three axes.
    """
    if image.dim() != 3:
        raise ValueError(f"expected a tensor of shape (C, H, W), found shape {tuple(image.shape)}")
    levels = (image.detach().float().clamp(0, 1) * PEAK).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def luma_of(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return Y, of shape HxW, of an HxWx3 RGB image on the 0-255 scale: 16 for black to 235 for white.

    Reference:
        ITU-R BT.601, with the coefficients of MATLAB's rgb2ycbcr.
    """
    return image @ np.array([65.481, 128.553, 24.966]) / PEAK + 16


def _prepare(image: Image, shave: int, luma: bool) -> NDArray[np.float64]:
    if image.dtype != np.uint8:
        raise ValueError(
            f"expected a uint8 image, found {image.dtype}; convert a tensor with to_uint8"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise UserError(f"expected an image of shape HxW, HxWx1 or HxWx3, found {image.shape}")
    height, width = image.shape[:2]
    inside = image[shave : max(height - shave, 0), shave : max(width - shave, 0)].astype(np.float64)
    if luma and image.ndim == 3 and image.shape[2] == 3:
        return luma_of(inside)
    return inside


def _check_pair(a: Image, b: Image, shave: int, smallest: int) -> None:
    if a.shape != b.shape:
        raise UserError(f"expected two images of the same shape, found {a.shape} and {b.shape}")
    if shave < 0 or min(a.shape[:2]) - 2 * shave < smallest:
        raise UserError(
            f"expected at least {smallest} pixels on each side after shaving, found an image of shape {a.shape} "
            f"and shave={shave}"
        )


def _plane_ssim(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    mean_first, mean_second = _blur(first), _blur(second)
    product, squares = mean_first * mean_second, mean_first**2 + mean_second**2
    covariance = _blur(first * second) - product
    variances = (
        _blur(first**2 + second**2) - squares
    )  # the two variances are only ever needed as their sum
    luminance, contrast = STABILIZERS
    numerator = (2 * product + luminance) * (2 * covariance + contrast)
    return float(np.mean(numerator / ((squares + luminance) * (variances + contrast))))


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    margin = WINDOW // 2
    blurred: NDArray[Any] = cv2.GaussianBlur(np.ascontiguousarray(plane), (WINDOW, WINDOW), SIGMA)
    return blurred[margin:-margin, margin:-margin]
