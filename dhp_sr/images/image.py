"""An image in memory, and what a file states about it before its pixels are decoded."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from dhp_sr.utils.errors import UserError

Pixels = NDArray[np.uint8 | np.uint16]

_ORIENTATION_TAG = 274
_SRGB_CHUNKS = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"cICP": bytes([1, 13, 0, 1]),
}
"""Contents that mean sRGB (PNG specification, 11.3.2)."""


class UnsupportedImageError(UserError):
    """The file is an image, but of a kind that is not decoded; the message says which."""


class ImageTooLargeError(UserError):
    """Decoding the file would take more memory or more pixels than is allowed."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits that a file's header is checked against before anything is decoded."""

    max_bytes: int
    """Peak memory of decoding, in bytes."""
    max_pixels: int | None = None
    """Height times width; None: limited by `max_bytes` alone."""
    max_depth: int = 16
    """Bits a channel."""


@dataclass(frozen=True)
class ColorInfo:
    """Color profile of an image: kept with the pixels and never applied."""

    icc: bytes | None = None
    """ICC profile."""
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """Name and content of PNG's chunks gAMA, cHRM, sRGB, cICP, mDCV and cLLI."""

    @property
    def png_chunks_say_srgb(self) -> bool:
        """Whether the chunks say what programs assume of files without any: sRGB."""
        for name, content in self.png_chunks:
            # of the chunk sRGB the content is the rendering intent, which plays no role on screens
            if name != b"sRGB" and content != _SRGB_CHUNKS.get(name):
                return False
        return True


@dataclass(frozen=True)
class Image:
    """A decoded image, turned as its EXIF or TIFF orientation says."""

    color: Pixels
    """(H, W, 1) gray or (H, W, 3) RGB."""
    alpha: Pixels | None = None
    """(H, W), of the same type, not premultiplied; the largest value is opaque."""
    color_info: ColorInfo = field(default_factory=ColorInfo)
    dropped: tuple[str, ...] = ()
    """Contents of the file that this image does not have, in words."""

    @property
    def depth(self) -> int:
        """Bits a channel: 8 or 16."""
        return 8 * self.color.itemsize


@dataclass(frozen=True)
class ImageHeader:
    """Facts of an image file, known without decoding its pixels."""

    format: str
    """Name in `formats.INPUT_FORMATS`."""
    height: int
    """Rows as stored, before the orientation is applied."""
    width: int
    channels: int
    """1 for gray, 3 for RGB, after decoding; without alpha."""
    alpha: bool
    depth: int
    """Bits a channel after decoding: 8 or 16."""
    decode_bytes: int
    """Peak memory of decoding."""
    orientation: int = 1
    """EXIF's and TIFF's tag 274: 1 to 8."""
    color_info: ColorInfo = field(default_factory=ColorInfo)
    dropped: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the decoded image, without alpha."""
        if self.orientation in (5, 6, 7, 8):
            return self.width, self.height, self.channels
        return self.height, self.width, self.channels

    def check(self, limits: ImageLimits) -> None:
        """Check depth and size before anything is decoded.

        Raises:
            UnsupportedImageError: There are too many bits a channel.
            ImageTooLargeError: The size exceeds a limit.
        """
        if self.depth > limits.max_depth:
            raise UnsupportedImageError(
                f"{self.format} of {self.depth} bits a channel, expected {limits.max_depth}"
            )
        size = f"{self.width} x {self.height} pixels"
        if limits.max_pixels is not None and self.height * self.width > limits.max_pixels:
            raise ImageTooLargeError(
                f"{size} are more than the {limits.max_pixels / 1e6:.1f} megapixels allowed"
            )
        if self.decode_bytes > limits.max_bytes:
            raise ImageTooLargeError(
                f"{size} would take {self.decode_bytes / 2**30:.1f} GiB to decode, more than the "
                f"{limits.max_bytes / 2**30:.1f} GiB allowed for an image"
            )


@dataclass(frozen=True)
class EncodedImage:
    """An open image file: its header, and the function that decodes its pixels."""

    header: ImageHeader
    decode: Callable[[], Pixels]
    """Gives (H, W, channels + alpha) as stored, before the orientation is applied."""


def exif_orientation(exif: bytes | memoryview) -> int:
    """Return the orientation that EXIF data state; 1 where there is none or the data are damaged.

    Args:
        exif: A TIFF directory, with or without the prefix of JPEG files; may be empty.
    """
    parsed = PillowImage.Exif()
    try:
        parsed.load(bytes(exif))
        return valid_orientation(parsed.get(_ORIENTATION_TAG))
    except Exception:  # damaged metadata in any way: the pixels may be well
        return 1


def valid_orientation(value: object) -> int:
    """Return an orientation tag's value; 1 (as stored) where it is none of 1 to 8."""
    if isinstance(value, int) and 1 <= value <= 8:
        return int(value)
    return 1
