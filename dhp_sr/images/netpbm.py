"""PGM and PPM files, of 8 and 16 bits, binary and as text.

Pillow and OpenCV cut 16 bits of color to 8, or leave values unscaled where the largest one is not
255 or 65535.

Reference:
    Netpbm, the specifications `pgm` and `ppm`.
"""

import os
import re
from typing import BinaryIO

import numpy as np

from dhp_sr.images.image import EncodedImage, ImageHeader, Pixels, UnsupportedImageError
from dhp_sr.images.samples import scale_levels
from dhp_sr.utils.errors import UserError

# comments run from # to the end of the line, anywhere between the numbers
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(
    rb"P([2356])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)(?:#[^\r\n]*[\r\n])?\s"
)
_CHANNELS = {b"2": 1, b"3": 3, b"5": 1, b"6": 3}
_TEXT = (b"2", b"3")
_HEADER_BYTES = 4096


def open_netpbm(file: BinaryIO) -> EncodedImage:
    """Read the header of a PGM or PPM file; arguments and errors as for `open_png`."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    match = _HEADER.match(file.read(_HEADER_BYTES))
    if match is None:
        raise UserError(
            "damaged: expected width, height and largest value after the first two bytes"
        )
    kind = match[1]
    width, height, largest = (int(match[number]) for number in (2, 3, 4))
    if not (width and height and 0 < largest < 65536):
        raise UserError(f"damaged: {width} x {height} pixels with values up to {largest}")
    channels = _CHANNELS[kind]
    count = height * width * channels
    dtype = np.dtype(np.uint8 if largest < 256 else np.uint16)
    text = kind in _TEXT
    start = match.end()
    stored_bytes = count * dtype.itemsize
    # text has at least a digit and a gap for each value
    least_bytes = 2 * count - 1 if text else stored_bytes
    if file_bytes - start < least_bytes:
        raise UserError(
            f"damaged: {file_bytes - start} bytes of pixels, expected {least_bytes}: "
            "the file is cut short"
        )
    if not text:
        file.seek(start + stored_bytes)
        # the format allows images in a row
        if re.match(rb"\s*P[1-7]\s", file.read(16)):
            raise UnsupportedImageError("several images in one file; take it apart first")
    parsed_bytes = 0
    if text:
        # NumPy parses text into 8 bytes a value; the text is held twice, as bytes and decoded
        parsed_bytes = count * 8 + file_bytes
    header = ImageHeader(
        format="PPM",
        height=height,
        width=width,
        channels=channels,
        alpha=False,
        depth=8 * dtype.itemsize,
        decode_bytes=file_bytes + 2 * stored_bytes + parsed_bytes,
    )

    def decode() -> Pixels:
        file.seek(start)
        values: np.ndarray
        if text:
            values = parse_text(file.read(), count)
        else:
            values = np.frombuffer(file.read(stored_bytes), dtype.newbyteorder(">"), count)
        if int(values.max()) > largest:
            # a table of levels would have no entry for it
            raise UserError(f"damaged: a value of {values.max()}, the largest is {largest}")
        pixels = values.astype(dtype).reshape(height, width, channels)
        if largest in (255, 65535):
            return pixels
        return scale_levels(pixels, largest, dtype)

    return EncodedImage(header, decode)


def parse_text(text: bytes, count: int) -> np.ndarray:
    """Parse numbers that are separated by white space.

    Raises:
        UserError: there are fewer than `count`, or negative ones.
    """
    values = np.fromstring(text.decode("ascii"), dtype=np.int64, count=count, sep=" ")
    if len(values) < count or int(values.min()) < 0:
        raise UserError(f"damaged: {len(values)} of {count} values")
    return values
