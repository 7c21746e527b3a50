"""JPEG, BMP, WebP and GIF files, read by Pillow, and facts in their headers that it does not tell.

References:
    ITU-T T.81 (JPEG), table B.1: markers. T.87 (JPEG-LS) adds one.
    Microsoft, BITMAPV5HEADER.
"""

import os
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageFile, UnidentifiedImageError

from dhp_sr.images.image import (
    ColorInfo,
    EncodedImage,
    ImageHeader,
    Pixels,
    UnsupportedImageError,
    exif_orientation,
)
from dhp_sr.images.samples import cmyk_to_rgb, row_bands
from dhp_sr.utils.errors import UserError

_TARGETS = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}
"""Mode of a file in Pillow's words -> mode that it is converted to."""
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "LA": 4, "RGB": 4, "RGBA": 4, "CMYK": 4}
"""Memory of a pixel inside Pillow, which stores RGB in four bytes."""
_CODEC_BYTES = {"WEBP": 16, "GIF": 4}
"""Memory of a pixel in the decoder itself: frames that may be animated are kept several times."""


def allow_large() -> None:
    """Take Pillow's fixed limit of pixels off for this process; our limits are checked instead."""
    PillowImage.MAX_IMAGE_PIXELS = None


def open_with_pillow(file: BinaryIO, format_name: str) -> EncodedImage:
    """Read the header of a file.

    Args:
        file: Seekable, at its start; it has to stay open until the pixels are decoded.
        format_name: The only format that is tried.

    Raises:
        UnsupportedImageError: The file is animated, or of a mode that is not decoded.
    """
    opened = _open(file, format_name)
    target = _TARGETS[opened.mode]
    # a GIF marks an entry of its palette as transparent
    if "transparency" in opened.info and target in ("L", "RGB"):
        target = "RGBA"
    icc = opened.info.get("icc_profile")
    dropped: tuple[str, ...] = ()
    if format_name == "BMP" and has_bmp_profile(file):
        dropped = ("the profile of a BMP",)
    layout = _layout(opened)
    if target == "CMYK" and icc:
        # the result is RGB, for which a profile of inks would be wrong
        icc = None
        dropped = ("the profile of CMYK",)
    header = ImageHeader(
        format=format_name,
        height=opened.height,
        width=opened.width,
        channels=1 if target == "L" else 3,
        alpha=target == "RGBA",
        depth=8,
        decode_bytes=_decode_bytes(opened, target, file.seek(0, os.SEEK_END)),
        orientation=exif_orientation(opened.info.get("exif", b"")),
        color_info=ColorInfo(icc or None),
        dropped=dropped,
    )

    def decode() -> Pixels:
        opened.load()
        if format_name == "BMP" and opened.mode == "P":
            _check_indices(opened)
        converted: PillowImage.Image = opened
        if opened.mode != target:
            converted = opened.convert(target)
        height, width = opened.height, opened.width
        pixels = np.empty((height, width, len(target)), np.uint8)
        # in bands: of an image as a whole, Pillow would make two more copies on the way
        for rows in row_bands(height, width):
            band = np.asarray(converted.crop((0, rows.start, width, rows.stop)))
            pixels[rows] = band.reshape(pixels[rows].shape)
        if target == "CMYK":
            return cmyk_to_rgb(pixels)
        return round_few_bits(pixels, layout)

    return EncodedImage(header, decode)


def _open(file: BinaryIO, format_name: str) -> ImageFile.ImageFile:
    """Open a file with Pillow.

    Raises:
        UnsupportedImageError: The file is animated, or of a mode or a kind of JPEG that is not
            decoded.
        UserError: The file is damaged.
    """
    try:
        opened = PillowImage.open(file, formats=(format_name,))
    except UnidentifiedImageError as error:
        # of these Pillow says only that it does not know them
        kind = describe_jpeg(file) if format_name == "JPEG" else ""
        if kind:
            raise UnsupportedImageError(f"{kind}: not supported") from error
        raise UserError(f"damaged: it begins like {format_name}, but does not go on so") from error
    frames = getattr(opened, "n_frames", 1)
    # MPO: several views, of which the first is the photograph
    if frames > 1 and opened.format != "MPO":
        raise UnsupportedImageError(
            f"an animated {format_name}, {frames} frames; expected a single image, "
            "take it apart first"
        )
    if opened.mode not in _TARGETS:
        raise UnsupportedImageError(f"{format_name} of mode {opened.mode}: not supported")
    return opened


def _layout(opened: ImageFile.ImageFile) -> str:
    """Return the layout of a BMP's pixels, in Pillow's words; empty for other formats."""
    if opened.format != "BMP" or not opened.tile:
        return ""
    arguments = opened.tile[0].args
    return str(arguments[0]) if isinstance(arguments, tuple) else ""


def _check_indices(opened: PillowImage.Image) -> None:
    """Check that a palette has an entry for every pixel; Pillow takes black for the others.

    Raises:
        UserError: It has not.
    """
    entries = len(opened.getpalette() or ()) // 3
    largest = opened.getextrema()[1]
    if int(largest) >= entries:  # type: ignore[arg-type] # a single band has no pairs
        raise UserError(f"damaged: a pixel has entry {largest} of a palette of {entries}")


def _decode_bytes(opened: PillowImage.Image, target: str, file_bytes: int) -> int:
    """Peak memory: the codec's, Pillow's image, the converted one, and the array."""
    of_a_pixel = _MODE_BYTES[opened.mode] + len(target)
    if target != opened.mode:
        of_a_pixel += _MODE_BYTES[target]
    if target == "CMYK":
        of_a_pixel += 3  # RGB, made while the inks are still held
    if "progressive" in opened.info:
        of_a_pixel += 2 * len(opened.getbands())  # all coefficients of the JPEG, 16 bits each
    of_a_pixel += _CODEC_BYTES.get(str(opened.format), 0)
    return file_bytes + opened.height * opened.width * of_a_pixel


_NO_LENGTH = (0x01, *range(0xD0, 0xD9))
"""Markers of JPEG that stand alone."""
_START_OF_SCAN = 0xDA
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_JPEG_LS = 0xF7
_START_OF_FRAME = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA, *_LOSSLESS, *_HIERARCHICAL, _JPEG_LS)

_V5_BYTES = 124
_V5_COLOR_SPACE = 14 + 56
"""Position of bV5CSType: the header follows 14 bytes of the file's own."""
_V5_PROFILES = (b"DEBM", b"KNIL")
"""PROFILE_EMBEDDED and PROFILE_LINKED, whose letters stand backwards in the file."""

_CHANNEL_BITS = {"BGR;15": (5, 5, 5), "BGR;16": (5, 6, 5)}
"""Pillow's name of a layout of 16 bits a pixel -> bits of red, green and blue."""


def describe_jpeg(file: BinaryIO) -> str:
    """Describe the kind of a JPEG in words; empty where there is no start of a frame."""
    file.seek(2)
    while True:
        head = file.read(2)
        if len(head) < 2 or head[0] != 0xFF or head[1] == _START_OF_SCAN:
            return ""
        marker = head[1]
        if marker in _NO_LENGTH:
            continue
        if marker == 0xFF:
            file.seek(-1, 1)  # a filler in front of a marker
            continue
        length = int.from_bytes(file.read(2), "big")
        if marker in _START_OF_FRAME:
            bits = int.from_bytes(file.read(1), "big")
            break
        file.seek(length - 2, 1)
    words = [f"{bits} bits a sample"]
    if marker in _LOSSLESS:
        words.append("the lossless process")
    if marker in _HIERARCHICAL:
        words.append("the hierarchical process")
    if marker == _JPEG_LS:
        words.append("the process of JPEG-LS")
    return f"JPEG of {' and '.join(words)}"


def has_bmp_profile(file: BinaryIO) -> bool:
    """Return whether a BMP holds, or names, an ICC profile."""
    file.seek(14)
    head = file.read(_V5_BYTES)
    if len(head) < _V5_BYTES or struct.unpack_from("<I", head)[0] < _V5_BYTES:
        return False
    at = _V5_COLOR_SPACE - 14
    return head[at : at + 4] in _V5_PROFILES


def round_few_bits(pixels: Pixels, layout: str) -> Pixels:
    """Return a BMP's channels of 5 and 6 bits scaled to 8, rounded; Pillow rounds them down.

    Args:
        pixels: (H, W, 3) of Pillow.
        layout: Layout of the file, Pillow's name; others are returned as they are.
    """
    if layout not in _CHANNEL_BITS:
        return pixels
    rounded = np.empty_like(pixels)
    for channel, bits in enumerate(_CHANNEL_BITS[layout]):
        stored = np.arange(2**bits)
        table = np.zeros(256, np.uint8)
        table[stored * 255 // stored[-1]] = np.rint(stored * 255 / stored[-1])
        rounded[:, :, channel] = table[pixels[:, :, channel]]
    return rounded
