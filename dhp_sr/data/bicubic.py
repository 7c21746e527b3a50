"""Bicubic resizing that equals MATLAB's `imresize` on uint8 images, bit for bit.

Cubic kernel with a = -0.5, widened when shrinking, weights normalized, mirrored border; rows first,
then columns, rounded to uint8 after each of the two passes.

Reference:
    Keys, Cubic convolution interpolation for digital image processing, 1981, equation 15.
"""

from functools import lru_cache

import numpy as np


def downscale(image_HWC: np.ndarray, scale: int) -> np.ndarray:
    """Shrink an image by a whole factor.

    Args:
        image_HWC: uint8 of shape (H, W, C) or (H, W), H and W multiples of `scale`.
        scale: The factor, at least 1.

    Returns:
        uint8 of shape (H / scale, W / scale, C) or (H / scale, W / scale).

    Raises:
        ValueError: The image is not uint8, or its sides are not multiples of `scale`.
    """
    height, width = image_HWC.shape[:2]
    if height % scale or width % scale:
        raise ValueError(
            f"expected sides that are multiples of scale (={scale}), got {height}x{width}: "
            "crop first"
        )
    return _resize(image_HWC, height // scale, width // scale)


def upscale(image_HWC: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an image by a whole factor.

    Args:
        image_HWC: uint8 of shape (H, W, C) or (H, W).
        scale: The factor, at least 1.

    Returns:
        uint8 of shape (scale H, scale W, C) or (scale H, scale W).

    Raises:
        ValueError: The image is not uint8.
    """
    height, width = image_HWC.shape[:2]
    return _resize(image_HWC, height * scale, width * scale)


def _resize(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    if image_HWC.dtype != np.uint8:
        raise ValueError(f"expected a uint8 image, got {image_HWC.dtype}")
    rows_resized = _resize_rows(image_HWC, height)
    # the second pass works on rows, too: they are contiguous in memory
    columns_resized = _resize_rows(np.ascontiguousarray(rows_resized.swapaxes(0, 1)), width)
    return np.ascontiguousarray(columns_resized.swapaxes(0, 1))


def _resize_rows(image: np.ndarray, length: int) -> np.ndarray:
    """Resize the first axis to `length` and round to uint8."""
    if image.shape[0] == length:
        return image
    flat = image.reshape(image.shape[0], -1)
    indices, weights = _taps(image.shape[0], length)
    total = np.zeros((length, flat.shape[1]))
    product = np.empty_like(total)
    # tap by tap, in the same order for all pixels: a matrix product would round otherwise
    for tap in range(indices.shape[1]):
        np.multiply(flat[indices[:, tap]], weights[:, tap, None], out=product)
        total += product
    total += 0.5  # rounds half away from zero as MATLAB; values below zero are clipped anyway
    np.clip(total, 0, 255, out=total)
    return total.astype(np.uint8).reshape(length, *image.shape[1:])


@lru_cache(maxsize=64)
def _taps(length_in: int, length_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights, both (length_out, taps), of every output sample."""
    ratio = length_out / length_in
    # when shrinking, the kernel is widened by the scale: that is the antialiasing
    stretch = min(ratio, 1.0)
    kernel_width = 4.0 / stretch
    # 1-based, as MATLAB counts: the order of operations decides about the last bit
    center = np.arange(1, length_out + 1) / ratio + 0.5 * (1 - 1 / ratio)
    left = np.floor(center - kernel_width / 2)
    indices = left[:, None] + np.arange(int(np.ceil(kernel_width)) + 2)
    weights = stretch * _cubic(stretch * (center[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    # beyond the border the image is mirrored, the edge pixel included, as often as needed
    mirrored = np.concatenate([np.arange(length_in), np.arange(length_in)[::-1]])
    indices = mirrored[(indices.astype(np.int64) - 1) % (2 * length_in)]
    # MATLAB drops taps that are zero for all samples, too
    used = (weights != 0).any(axis=0)
    return indices[:, used], weights[:, used]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return near * (x <= 1) + far * ((x > 1) & (x <= 2))
