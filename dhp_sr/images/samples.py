"""Stored samples as colors: bits, palettes, inks, premultiplied alpha, orientation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dhp_sr.images.image import Pixels
from dhp_sr.utils.errors import UserError

_BAND_PIXELS = 2**16


def row_bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an image in bands: intermediate values of large images stay small."""
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror stored pixels so that they look as they are meant to.

    Args:
        pixels: (H, W, ...).
        orientation: 1 to 8; it says where the stored row 0 and column 0 belong.

    Returns:
        A view; (W, H, ...) for 5 to 8.

    Reference:
        TIFF 6.0, tag 274 (Orientation); Exif 3.0 takes it over.
    """
    # Swap first: then the flips are the same for values with and without a swap.
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def cmyk_to_rgb(inks_HW4: Pixels) -> Pixels:
    """Turn amounts of ink into RGB without a profile: R = (1 - C)(1 - K), and so on.

    Args:
        inks_HW4: (H, W, 4), 0 for no ink.

    Returns:
        (H, W, 3) of the same type, rounded.
    """
    height, width = inks_HW4.shape[:2]
    peak = int(np.iinfo(inks_HW4.dtype).max)
    result = np.empty((height, width, 3), inks_HW4.dtype)
    for rows in row_bands(height, width):
        # uint64: the product of two 16-bit values plus the rounding term exceeds 32 bits
        paper = peak - inks_HW4[rows].astype(np.uint64)
        result[rows] = (paper[:, :, :3] * paper[:, :, 3:] + peak // 2) // peak
    return result


def scale_bits(samples: Pixels, bits: int) -> Pixels:
    """Scale samples of 1 to 7 bits to 8, and of 9 to 15 bits to 16, rounded; others stay."""
    if bits in (8, 16):
        return samples
    dtype = np.uint8 if bits < 8 else np.uint16
    return scale_levels(samples, 2**bits - 1, np.dtype(dtype))


def scale_levels(samples: Pixels, largest: int, dtype: np.dtype) -> Pixels:
    """Scale samples from 0 to `largest` to the whole range of a type, rounded."""
    levels = np.arange(largest + 1) / largest
    return _look_up(samples, np.rint(levels * np.iinfo(dtype).max).astype(dtype))


def apply_palette(indices_HW: Pixels, colormap_CN: NDArray[np.uint16] | None) -> Pixels:
    """Look indices up in TIFF's ColorMap, whose 16-bit values become 8 bits.

    Raises:
        UserError: An index has no entry.
    """
    if colormap_CN is None or int(indices_HW.max(initial=0)) >= colormap_CN.shape[1]:
        raise UserError("damaged: the palette has no entry for a pixel")
    # writers store 257 * v or 256 * v: the high byte is v in both cases
    return _look_up(indices_HW, (colormap_CN >> 8).astype(np.uint8).T)


def _look_up(indices: Pixels, table: Pixels) -> Pixels:
    """Return `table[indices]`, computed band by band."""
    # NumPy turns indices into eight bytes each before it looks them up
    result = np.empty((*indices.shape, *table.shape[1:]), table.dtype)
    for rows in row_bands(*indices.shape[:2]):
        result[rows] = table[indices[rows]]
    return result


def divide_by_alpha(color_HWC: Pixels, alpha_HW: Pixels) -> Pixels:
    """Undo premultiplication, rounded; where nothing is visible, the color is black."""
    peak = int(np.iinfo(color_HWC.dtype).max)
    result = np.empty(color_HWC.shape, color_HWC.dtype)
    for rows in row_bands(*alpha_HW.shape):
        alpha = alpha_HW[rows, :, None].astype(np.uint64)
        divisor = np.maximum(alpha, 1)
        # half of the divisor rounds to nearest; a color above its alpha is clipped
        quotient = (color_HWC[rows].astype(np.uint64) * peak + divisor // 2) // divisor
        result[rows] = np.minimum(quotient, peak) * (alpha > 0)
    return result
