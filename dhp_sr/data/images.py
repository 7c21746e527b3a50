"""Images as uint8 arrays: strict decoding, PNG encoding, colour rules.

An image is (H, W, 3) RGB or (H, W, 1) grey. Alpha is dropped: colours stay as stored, nothing is blended. Palettes
become RGB. More than 8 bits a channel, CMYK and float images are refused. EXIF rotation is not applied.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import LUMA, PNG_SIGNATURE

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_MODES = {
    "L": "L",
    "LA": "L",
    "1": "L",
    "RGB": "RGB",
    "RGBA": "RGB",
    "RGBX": "RGB",
    "P": "RGB",
    "PA": "RGB",
}


def decode(data: bytes, where: str) -> np.ndarray:
    """Decode a whole file.

    Args:
        data: The file's bytes.
        where: Its path, or database and key, for messages.

    Returns:
        uint8 of shape (H, W, 3), RGB, or (H, W, 1), grey.

    Raises:
        UserError: The data are no image, truncated or damaged, or of a kind that is not supported.
    """
    with _explained(where):
        _check_whole(data)
        with Image.open(io.BytesIO(data)) as opened:
            picture: Image.Image = opened
            mode = _plain_mode(picture, data, where)
            if picture.mode in (
                "P",
                "PA",
            ):  # a palette may hold transparency, which PIL converts to RGB under protest
                picture = picture.convert("RGBA")
            pixels = np.array(picture.convert(mode))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def header_size(source: str | Path | bytes, where: str) -> tuple[int, int, int]:
    """Return (height, width, channels after decoding) from an image's header alone.

    Raises:
        UserError: There is no readable header, or the kind of image is not supported.
    """
    with (
        _explained(where),
        Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture,
    ):
        mode = _plain_mode(picture, source if isinstance(source, bytes) else Path(source), where)
        return picture.height, picture.width, len(mode)


def encode_png(image_HWC: np.ndarray, compress_level: int = 1) -> bytes:
    """Return the PNG file of a uint8 image of shape (H, W, 3) or (H, W, 1)."""
    stream = io.BytesIO()
    pixels = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
    Image.fromarray(pixels).save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def to_color(image_HWC: np.ndarray, color: str) -> np.ndarray:
    """Return the image in the colour that a dataset asks for.

    Args:
        image_HWC: uint8 of shape (H, W, 3) or (H, W, 1).
        color: `rgb`: grey is repeated three times. `grey`: RGB becomes its luma as in MATLAB's `rgb2gray` (0-255, full
            range, rounded), grey passes as it is.

    Returns:
        uint8 of shape (H, W, 3) or (H, W, 1).
    """
    channels = image_HWC.shape[2]
    if color == "rgb":
        return np.repeat(image_HWC, 3, axis=2) if channels == 1 else image_HWC
    return rgb_to_grey(image_HWC) if channels == 3 else image_HWC


def rgb_to_grey(image_HWC: np.ndarray) -> np.ndarray:
    """Return the luma of a uint8 RGB image as uint8 of shape (H, W, 1): the grey BSD68 comes from BSDS this way."""
    luma = image_HWC @ np.array(LUMA)
    return np.floor(luma + 0.5).astype(np.uint8)[:, :, None]


def crop_to_multiple(image_HWC: np.ndarray, multiple: int) -> np.ndarray:
    """Cut rows and columns off the bottom and the right until both sides are multiples of `multiple`."""
    height, width = image_HWC.shape[:2]
    return image_HWC[: height - height % multiple, : width - width % multiple]


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what a decoder raises into one message with the file's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{where}: expected an image file, found none: check the path") from None
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        advice = "copy or download it again, or remove it"
        raise UserError(
            f"{where}: expected a whole image, found a damaged one or none ({error}): {advice}"
        ) from error


def _check_whole(data: bytes) -> None:
    """Check a PNG's chunks by their checksums up to its end mark: its pixels alone can decode and be wrong."""
    if data.startswith(PNG_SIGNATURE):
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()


def _plain_mode(picture: Image.Image, source: bytes | Path, where: str) -> str:
    """Return L or RGB, what the image decodes to."""
    mode = _MODES.get(picture.mode)
    if mode is None or _png_bit_depth(picture, source) > 8:
        found = f"mode {picture.mode}" if mode is None else "16 bits a channel"
        advice = (
            "convert it first, for example with `magick in.png -colorspace sRGB -depth 8 out.png`"
        )
        raise UserError(
            f"{where}: expected an 8-bit grey or RGB image, found {picture.format} with {found}: {advice}"
        )
    return mode


def _png_bit_depth(picture: Image.Image, source: bytes | Path) -> int:
    """Return the bit depth in a PNG's header (its 25th byte): 16-bit RGB is shown as plain RGB once opened."""
    if picture.format != "PNG":
        return 8
    if isinstance(source, bytes):
        return source[24]
    with open(source, "rb") as stream:
        return stream.read(25)[24]
