"""PGM and PPM files, of 8 and 16 bits, binary and as text.

Pillow and OpenCV cut 16 bits of color to 8, or leave values unscaled where the largest one is not
255 or 65535.

Reference:
    Netpbm, the specifications `pgm` and `ppm`.
"""

import os
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Samples:
    """Layout of a file's values, by its header."""

    height: int
    width: int
    channels: int
    largest: int
    """Value of white."""
    is_text: bool
    """Whether values are written as digits."""
    start: int
    """Position of the first value."""

    @property
    def count(self) -> int:
        """Number of values."""
        return self.height * self.width * self.channels

    @property
    def dtype(self) -> np.dtype:
        """Type of a value, in the machine's byte order."""
        return np.dtype(np.uint8 if self.largest < 256 else np.uint16)

    @property
    def stored_bytes(self) -> int:
        """Size of all values in binary."""
        return self.count * self.dtype.itemsize


def open_netpbm(file: BinaryIO) -> EncodedImage:
    """Read the header of a PGM or PPM file; arguments and errors as for `open_png`."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    samples = parse_header(file.read(_HEADER_BYTES))
    # text has at least a digit and a gap for each value
    least_bytes = 2 * samples.count - 1 if samples.is_text else samples.stored_bytes
    if file_bytes - samples.start < least_bytes:
        raise UserError(
            f"damaged: {file_bytes - samples.start} bytes of pixels, expected {least_bytes}: "
            "the file is cut short"
        )
    parsed_bytes = 0
    if samples.is_text:
        # NumPy parses text into 8 bytes a value; the text is held twice, as bytes and decoded
        parsed_bytes = samples.count * 8 + file_bytes
    else:
        file.seek(samples.start + samples.stored_bytes)
        # the format allows images in a row
        if re.match(rb"\s*P[1-7]\s", file.read(16)):
            raise UnsupportedImageError("several images in one file; take it apart first")
    header = ImageHeader(
        format="PPM",
        height=samples.height,
        width=samples.width,
        channels=samples.channels,
        alpha=False,
        depth=8 * samples.dtype.itemsize,
        decode_bytes=file_bytes + 2 * samples.stored_bytes + parsed_bytes,
    )
    return EncodedImage(header, lambda: read_pixels(file, samples))


def parse_header(head: bytes) -> _Samples:
    """Parse the first bytes of a file.

    Raises:
        UserError: They are no header, or state an image that cannot be.
    """
    match = _HEADER.match(head)
    if match is None:
        raise UserError(
            "damaged: expected width, height and largest value after the first two bytes"
        )
    width, height, largest = (int(match[number]) for number in (2, 3, 4))
    if not (width and height and 0 < largest < 65536):
        raise UserError(f"damaged: {width} x {height} pixels with values up to {largest}")
    kind = match[1]
    return _Samples(height, width, _CHANNELS[kind], largest, kind in _TEXT, match.end())


def read_pixels(file: BinaryIO, samples: _Samples) -> Pixels:
    """Read all values, scaled to 8 or 16 bits.

    Raises:
        UserError: A value is larger than the header's largest, or, of text, missing.
    """
    file.seek(samples.start)
    values: np.ndarray
    if samples.is_text:
        values = parse_text(file.read(), samples.count)
    else:
        big_endian = samples.dtype.newbyteorder(">")
        values = np.frombuffer(file.read(samples.stored_bytes), big_endian, samples.count)
    if int(values.max()) > samples.largest:
        # a table of levels would have no entry for it
        raise UserError(f"damaged: a value of {values.max()}, the largest is {samples.largest}")
    shape = (samples.height, samples.width, samples.channels)
    pixels = values.astype(samples.dtype).reshape(shape)
    if samples.largest in (255, 65535):
        return pixels
    return scale_levels(pixels, samples.largest, samples.dtype)


def parse_text(text: bytes, count: int) -> np.ndarray:
    """Parse numbers that are separated by white space.

    Raises:
        UserError: There are fewer than `count`, or negative ones.
    """
    values = np.fromstring(text.decode("ascii"), dtype=np.int64, count=count, sep=" ")
    if len(values) < count or int(values.min()) < 0:
        raise UserError(f"damaged: {len(values)} of {count} values")
    return values
