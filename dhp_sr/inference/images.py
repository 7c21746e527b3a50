"""Image files as arrays, whatever they hold: 8 or 16 bits, grey or colour, with or without transparency.

The pixels are turned as the EXIF tag says, since viewers show them so and results carry no tag. CMYK, YCbCr and LAB
become RGB, palettes too. Animations and files of several pages are refused.
"""

import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhp_sr.utils.errors import UserError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
_SIGNED = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
}
_CONVERTED = {"P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}
_ORIENTATION, _BITS = 0x0112, 258


@dataclass(frozen=True)
class Picture:
    """One image."""

    colours: Pixels
    """(H, W, 1) grey or (H, W, 3) RGB."""
    alpha: Pixels | None
    """(H, W), of the same type."""
    icc: bytes | None
    """Colour profile."""


def allow_large() -> None:
    """Take Pillow's fixed limit off for this process; `read` has its own, in bytes."""
    Image.MAX_IMAGE_PIXELS = None


def decoded_bytes(path: Path) -> int:
    """Return how much memory a picture will take, from its header; 0 where that cannot be read."""
    try:
        _check_file(path)  # a pipe would be waited for
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as opened:
            return opened.width * opened.height * _pixel_bytes(opened)
    except Exception:  # `read` says what is wrong
        return 0


def read(path: Path, most_bytes: int) -> Picture:
    """Decode a whole image file.

    Args:
        path: The file.
        most_bytes: What its pixels may take, by what its header says.

    Raises:
        UserError: there is no such file, or it is no image, damaged, of a kind that is not supported, or too large. The
            message does not name the file.
    """
    with _explained(path):
        _check_file(path)
        with Image.open(path, formats=FORMATS) as opened:
            _check_header(opened, most_bytes)
            _check_sums(path, opened)
            turn = _orientation(opened)
            icc = opened.info.get("icc_profile") if opened.mode != "CMYK" else None
            pixels = _deep(path, opened) if _depth(opened) == 16 else _plain(path, opened)
    return _picture(_turned(pixels, turn), icc)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about metadata that it cannot read
            yield
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"not an image of a known kind (it begins with {_head(path)!r})") from None
    except OSError as error:
        raise UserError(f"damaged, or it cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError("not enough memory to decode it") from error
    except (
        SyntaxError,
        ValueError,
        struct.error,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        cv2.error,
    ) as error:
        raise UserError(f"damaged: {str(error)[:200]}") from error


def _check_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UserError(f"a link to a file that is not there ({path.readlink()})")
    if not path.exists():
        raise UserError("there is no such file")
    if path.is_dir():
        raise UserError("a folder, though it is named like an image")
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError("not a regular file")
    if path.stat().st_size == 0:
        raise UserError("the file is empty (0 bytes)")


def _check_header(opened: Image.Image, most_bytes: int) -> None:
    frames = getattr(opened, "n_frames", 1)
    if (
        frames > 1 and opened.format != "MPO"
    ):  # of several views of one photograph the first is the photograph
        what = f"{frames} pages" if opened.format == "TIFF" else f"animated, {frames} frames"
        raise UserError(f"{opened.format} with {what}; expected one picture, take it apart first")
    size = opened.width * opened.height * _pixel_bytes(opened)
    if size > most_bytes:
        raise UserError(
            f"{opened.width} x {opened.height} pixels would take {size / 2**30:.1f} GiB, more than the "
            f"{most_bytes / 2**30:.1f} GiB that --memory leaves for one image; raise it if it is really that large"
        )


def _check_sums(path: Path, opened: Image.Image) -> None:
    """Check a PNG's chunks up to its end mark: its pixels alone can decode and be wrong."""
    if opened.format == "PNG":
        with Image.open(path, formats=("PNG",)) as whole:
            whole.verify()


def _pixel_bytes(opened: Image.Image) -> int:
    channels = {"1": 1, "L": 1, "LA": 2, "P": 3, "I;16": 1}.get(
        opened.mode, max(3, len(opened.getbands()))
    )
    return channels * _depth(opened) // 8


def _depth(opened: Image.Image) -> int:
    """Return 16 for files of 16 bits a channel: once decoded, Pillow shows colour of 16 bits as one of 8."""
    if opened.format == "PNG":
        with open(opened.filename, "rb") as stream:
            return 16 if stream.read(25)[24] == 16 else 8
    if opened.format == "TIFF":
        return 16 if opened.tag_v2.get(_BITS, (8,))[0] == 16 else 8
    return 8


def _orientation(opened: Image.Image) -> int:
    try:
        return int(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata: the pixels may be well
        return 1


def _plain(path: Path, opened: Image.Image) -> Pixels:
    """Decode 8 bits a channel; (H, W, 1 to 4)."""
    mode = _SIGNED.get(opened.mode) or _CONVERTED.get(opened.mode)
    if mode is None:
        raise UserError(
            f"{opened.format} of kind {opened.mode} is not supported; convert it to 8 or 16 bits a channel"
        )
    if "transparency" in opened.info and not mode.endswith("A"):
        mode = "LA" if mode == "L" else "RGBA"
    opened.load()
    if opened.mode == "L" and mode == "LA":
        return np.array(opened.convert("RGBA"))[:, :, [0, 3]]
    pixels = np.array(opened if opened.mode == mode else opened.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _deep(path: Path, opened: Image.Image) -> Pixels:
    """Decode 16 bits a channel; (H, W, 1 to 4)."""
    grey_alpha = opened.format == "PNG" and opened.mode in ("LA", "La")
    if opened.format == "TIFF" and opened.mode.startswith("I"):
        return np.asarray(opened).astype(np.uint16)[:, :, None]
    decoded = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        raise UserError(f"damaged, or {opened.format} with 16 bits of a kind that is not supported")
    if decoded.ndim == 2:
        return decoded[:, :, None]
    if grey_alpha and decoded.shape[2] == 4:
        return np.ascontiguousarray(decoded[:, :, [0, 3]])
    return np.ascontiguousarray(decoded[:, :, [2, 1, 0, 3][: decoded.shape[2]]])


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror as EXIF's tag says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _picture(pixels: Pixels, icc: bytes | None) -> Picture:
    channels = pixels.shape[2]
    if channels in (1, 3):
        return Picture(pixels, None, icc)
    return Picture(pixels[:, :, : channels - 1], pixels[:, :, -1], icc)


def _head(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(12)
