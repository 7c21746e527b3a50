"""Images of 8 bits for training and scoring: decoding, PNG encoding, color rules, crops.

Pixels are those of `dhp_sr.images`, so that training and scoring see what inference sees: turned
as the file's orientation says, palettes and CMYK as RGB. Alpha is dropped: colors stay as stored,
nothing is blended. Images of 16 bits are refused whatever their format: the scores of papers, and
the bicubic that makes LR images, are defined for 8 bits; inference keeps 16.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from dhp_sr.images import (
    ImageLimits,
    ImageTooLargeError,
    UnsupportedImageError,
    read_header,
    read_image,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import LUMA

TRAINING_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=89_478_485, max_depth=8)
"""Training and scoring: the share of an image in `infer.py`'s default memory, and the number of
pixels above which Pillow suspects a decompression bomb; several float copies of them are made."""
PREPARATION_LIMITS = ImageLimits(max_bytes=2**30, max_depth=8)
"""`prepare_data.py`, which cuts large images into smaller ones."""


def decode(source: Path | bytes, where: str, limits: ImageLimits = TRAINING_LIMITS) -> np.ndarray:
    """Decode an image file.

    Args:
        source: A file, or the contents of a file.
        where: Its path, or database and key, for messages.
        limits: Checked by the header before anything is decoded.

    Returns:
        uint8 of shape (H, W, 3), RGB, or (H, W, 1), gray.

    Raises:
        UserError: There is no such file, or it is no image, damaged, too large, or of a kind that
            is not supported.
    """
    with _named(where):
        # a copy, where the color is a view: it would keep alpha in memory
        return np.ascontiguousarray(read_image(source, limits).color)


def header_size(
    source: Path | bytes, where: str, limits: ImageLimits = TRAINING_LIMITS
) -> tuple[int, int, int]:
    """Return (height, width, channels) of the decoded image from its header alone.

    Raises:
        UserError: As for `decode`, apart from damage among the pixels.
    """
    with _named(where):
        header = read_header(source)
        header.check(limits)
        return header.shape


def encode_png(image_HWC: np.ndarray, compress_level: int = 1) -> bytes:
    """Return the PNG file of a uint8 image of shape (H, W, 3) or (H, W, 1)."""
    stream = io.BytesIO()
    # Pillow takes gray as (H, W)
    pixels = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
    PillowImage.fromarray(pixels).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def to_color(image_HWC: np.ndarray, color: str) -> np.ndarray:
    """Convert an image to the color that a data set asks for.

    Args:
        image_HWC: uint8 of shape (H, W, 3) or (H, W, 1).
        color: `rgb`: gray is repeated three times. `gray`: RGB becomes its luma as in
            MATLAB's `rgb2gray` (0-255, full range, rounded), gray passes unchanged.

    Returns:
        uint8 of shape (H, W, 3) or (H, W, 1).
    """
    channels = image_HWC.shape[2]
    if color == "rgb":
        return np.repeat(image_HWC, 3, axis=2) if channels == 1 else image_HWC
    return rgb_to_gray(image_HWC) if channels == 3 else image_HWC


def rgb_to_gray(image_HWC: np.ndarray) -> np.ndarray:
    """Return the luma of a uint8 RGB image as uint8 (H, W, 1); BSD68 is made of BSDS this way."""
    # float64, and half is rounded up: the published gray images are reproduced bit for bit
    luma = image_HWC @ np.array(LUMA)
    return np.floor(luma + 0.5).astype(np.uint8)[:, :, None]


def crop_to_multiple(image_HWC: np.ndarray, multiple: int) -> np.ndarray:
    """Cut rows and columns off the bottom and the right until both sides are multiples."""
    height, width = image_HWC.shape[:2]
    return image_HWC[: height - height % multiple, : width - width % multiple]


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put the name of the image before the message of an error, and advice behind it."""
    # the kind of error stays, and so does what callers can tell apart
    try:
        yield
    except ImageTooLargeError as error:
        advice = "cut it into smaller images with `scripts/prepare_data.py crop`"
        raise ImageTooLargeError(f"{where}: {error}: {advice}") from error
    except UnsupportedImageError as error:
        advice = "convert it, for example with `magick in.png -colorspace sRGB -depth 8 out.png`"
        raise UnsupportedImageError(f"{where}: {error}: {advice}") from error
    except UserError as error:
        advice = "copy or download it again, or remove it"
        raise UserError(f"{where}: expected a whole image, got: {error}: {advice}") from error
