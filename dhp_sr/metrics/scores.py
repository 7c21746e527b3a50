"""Scores of results: PSNR and SSIM of 8-bit images, and the number of correct classes.

PSNR and SSIM are those of BasicSR and the papers.

Shape suffixes: N images, K classes.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhp_sr.utils.errors import UserError

Image = NDArray[np.uint8]

MAX_VALUE = 255.0
WINDOW = 11
"""Height and width of the Gaussian window of SSIM, in pixels."""
SIGMA = 1.5
"""Standard deviation of that window, in pixels."""
LUMINANCE_CONSTANT = (0.01 * MAX_VALUE) ** 2
CONTRAST_CONSTANT = (0.03 * MAX_VALUE) ** 2


def psnr_db(a: Image, b: Image, *, crop_border: int = 0, luma: bool = False) -> float:
    """Peak signal-to-noise ratio in dB, over all channels together.

    Args:
        a: uint8 image, HxWx3 RGB, HxWx1 or HxW gray.
        b: Image of the same shape to compare with.
        crop_border: Pixels to leave out on every side.
        luma: Compare the Y channel (MATLAB's, not rounded), for a gray image the image itself.

    Returns:
        10 log10(255^2 / mean squared error); infinity for equal images.

    Raises:
        UserError: The shapes differ, are not those of images, or the border leaves nothing.
        ValueError: An image is not uint8.
    """
    first = _prepare(a, crop_border, luma)
    second = _prepare(b, crop_border, luma)
    _check_pair(a, b, crop_border, smallest=1)
    # In float64: the mean of squares up to 255^2 over millions of pixels.
    error = float(np.mean(np.square(first - second)))
    if error == 0:
        return float("inf")
    return 10 * float(np.log10(MAX_VALUE**2 / error))


def ssim(a: Image, b: Image, *, crop_border: int = 0, luma: bool = False) -> float:
    """Structural similarity, mean over positions and channels.

    The window is an 11x11 Gaussian of sigma 1.5, only where it fits into the image.

    Args:
        a: uint8 image, HxWx3 RGB, HxWx1 or HxW gray; without the border at least 11x11.
        b: Image of the same shape to compare with.
        crop_border: Pixels to leave out on every side.
        luma: Compare the Y channel (MATLAB's, not rounded), for a gray image the image itself.

    Returns:
        A value up to 1, reached by equal images.

    Raises:
        UserError: The shapes differ, are not those of images, or the window does not fit.
        ValueError: An image is not uint8.

    Reference:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, TIP
        2004, equation 13.
    """
    first = _prepare(a, crop_border, luma)
    second = _prepare(b, crop_border, luma)
    _check_pair(a, b, crop_border, smallest=WINDOW)
    if first.ndim == 2:
        return _plane_ssim(first, second)
    # Plane by plane is 1.6 times faster than interleaved channels.
    channels = range(first.shape[2])
    return float(np.mean([_plane_ssim(first[..., c], second[..., c]) for c in channels]))


def to_uint8(image: torch.Tensor) -> Image:
    """Convert a (C, H, W) tensor in [0, 1] to an (H, W, C) uint8 array, clipped and rounded.

    Raises:
        ValueError: The tensor does not have three axes.
    """
    if image.dim() != 3:
        raise ValueError(f"expected a tensor of shape (C, H, W), got shape {tuple(image.shape)}")
    # Rounded, not truncated: truncation would darken every image by half a level.
    levels = (image.detach().float().clamp(0, 1) * MAX_VALUE).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


def luma_of(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Y channel, HxW, of an HxWx3 RGB image on the 0-255 scale: 16 for black to 235 for white.

    Reference:
        ITU-R BT.601, with the coefficients of MATLAB's rgb2ycbcr.
    """
    return image @ np.array([65.481, 128.553, 24.966]) / MAX_VALUE + 16


def _prepare(image: Image, crop_border: int, luma: bool) -> NDArray[np.float64]:
    if image.dtype != np.uint8:
        hint = "convert a tensor with to_uint8"
        raise ValueError(f"expected a uint8 image, got {image.dtype}; {hint}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise UserError(f"expected an image of shape HxW, HxWx1 or HxWx3, got {image.shape}")
    height, width = image.shape[:2]
    bottom = max(height - crop_border, 0)
    right = max(width - crop_border, 0)
    inside = image[crop_border:bottom, crop_border:right].astype(np.float64)
    if luma and image.ndim == 3 and image.shape[2] == 3:
        return luma_of(inside)
    return inside


def _check_pair(a: Image, b: Image, crop_border: int, smallest: int) -> None:
    if a.shape != b.shape:
        raise UserError(f"expected two images of the same shape, got {a.shape} and {b.shape}")
    if crop_border < 0 or min(a.shape[:2]) - 2 * crop_border < smallest:
        got = f"an image of shape {a.shape} and crop_border={crop_border}"
        raise UserError(f"expected at least {smallest} pixels inside the border, got {got}")


def _plane_ssim(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    mean_x = _blur(x)
    mean_y = _blur(y)
    mean_product = mean_x * mean_y
    mean_squares = mean_x**2 + mean_y**2
    covariance = _blur(x * y) - mean_product
    # The two variances are only needed as their sum, which takes one blur instead of two.
    variances = _blur(x**2 + y**2) - mean_squares
    numerator = (2 * mean_product + LUMINANCE_CONSTANT) * (2 * covariance + CONTRAST_CONSTANT)
    denominator = (mean_squares + LUMINANCE_CONSTANT) * (variances + CONTRAST_CONSTANT)
    return float(np.mean(numerator / denominator))


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    # Where the window hangs over the border, OpenCV mirrors the image; the paper leaves it out.
    margin = WINDOW // 2
    blurred = cv2.GaussianBlur(np.ascontiguousarray(plane), (WINDOW, WINDOW), SIGMA)
    return np.asarray(blurred, np.float64)[margin:-margin, margin:-margin]


def num_correct(scores_NK: Tensor, label_N: Tensor, k: int = 1) -> int:
    """Count the images whose class is among the `k` highest scores.

    Equal scores rank in the order of their classes. An image with a score that is not finite
    counts as wrong.

    Args:
        scores_NK: A score for each image and class.
        label_N: True classes, int64, from 0 to K - 1.
        k: Number of classes allowed; where there are fewer, every image with finite scores counts.

    Raises:
        ValueError: Shapes do not fit, or a label is out of range.
    """
    if scores_NK.dim() != 2 or label_N.shape != scores_NK.shape[:1] or k < 1:
        shapes = f"{tuple(scores_NK.shape)} and {tuple(label_N.shape)}, k={k}"
        raise ValueError(f"expected scores (N, K), labels (N,) and k of at least 1, got {shapes}")
    num_classes = scores_NK.shape[1]
    if len(label_N):
        lowest = int(label_N.min())
        highest = int(label_N.max())
        if lowest < 0 or highest >= num_classes:
            got = f"{lowest} to {highest}"
            raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {got}")
    # Not torch.topk: its order of equal scores depends on the device.
    score_N1 = scores_NK.gather(1, label_N[:, None])
    class_K = torch.arange(num_classes, device=scores_NK.device)
    is_ahead_NK = (scores_NK == score_N1) & (class_K < label_N[:, None])
    rank_N = ((scores_NK > score_N1) | is_ahead_NK).sum(1)
    is_finite_N = scores_NK.isfinite().all(1)
    return int(((rank_N < k) & is_finite_N).sum())
