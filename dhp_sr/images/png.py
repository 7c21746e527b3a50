"""PNG files: header and color information from the chunks, pixels by libpng (imagecodecs).

Every chunk is checked by its checksum up to the end mark, since the pixels of a damaged file can
decode and be wrong.

Reference:
    Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

import os
import struct
import zlib
from typing import BinaryIO

import imagecodecs

from dhp_sr.images.image import (
    ColorInfo,
    EncodedImage,
    ImageHeader,
    Pixels,
    UnsupportedImageError,
    exif_orientation,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import PNG_SIGNATURE

_COLOR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_USED_CHUNKS = (*_COLOR_CHUNKS, b"IHDR", b"iCCP", b"eXIf", b"acTL")
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Color type -> channels after decoding, alpha aside; a palette (3) becomes RGB."""
_ALPHA_TYPES = (4, 6)
_MAX_PROFILE_BYTES = 16 * 2**20
"""A larger profile is no profile."""


def open_png(file: BinaryIO) -> EncodedImage:
    """Read the chunks of a PNG file, without its pixels.

    Args:
        file: seekable, at its start; it has to stay open until the pixels are decoded.

    Raises:
        UserError: a chunk is damaged or missing.
        UnsupportedImageError: the file is animated (APNG).
    """
    chunks = _read_chunks(file)
    if b"acTL" in chunks:
        (frames,) = struct.unpack_from(">I", chunks[b"acTL"])
        if frames > 1:
            raise UnsupportedImageError(
                f"an animated PNG, {frames} frames; expected a single image, take it apart first"
            )
    width, height, bits, color_type = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    if not (width and height and color_type in _CHANNELS):
        raise UserError(f"damaged: {width} x {height} pixels of color type {color_type}")
    depth = 16 if bits == 16 else 8
    # tRNS marks a gray or RGB value as transparent, or gives entries of the palette an alpha
    alpha = color_type in _ALPHA_TYPES or b"tRNS" in chunks
    samples = _CHANNELS[color_type] + alpha
    color_chunks = [(name, chunks[name]) for name in _COLOR_CHUNKS if name in chunks]
    header = ImageHeader(
        format="PNG",
        height=height,
        width=width,
        channels=_CHANNELS[color_type],
        alpha=alpha,
        depth=depth,
        decode_bytes=file.seek(0, os.SEEK_END) + height * width * samples * depth // 8,
        orientation=exif_orientation(chunks.get(b"eXIf", b"")),
        color_info=ColorInfo(_profile(chunks.get(b"iCCP", b"")), tuple(color_chunks)),
    )

    def decode() -> Pixels:
        file.seek(0)
        data = file.read()
        _check_sums(data)
        # libpng scales 1, 2 and 4 bits to 8, and turns palettes into RGB and tRNS into alpha
        pixels = imagecodecs.png_decode(data)
        return pixels.reshape(height, width, samples)

    return EncodedImage(header, decode)


def _read_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the chunks that are used by name, and the names of all others up to the end mark.

    Raises:
        UserError: the file ends early, or begins with another chunk than IHDR.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    chunks: dict[bytes, bytes] = {}
    position = len(PNG_SIGNATURE)
    # only the heads of chunks are read: a folder of large images is looked through in a moment
    while b"IEND" not in chunks:
        file.seek(position)
        head = file.read(8)
        if len(head) == 8:
            length, name = struct.unpack(">I4s", head)
            position += 12 + length
        if len(head) < 8 or position > file_bytes:
            raise UserError("damaged: the file ends before the end mark of PNG, it is cut short")
        if not chunks and name != b"IHDR":
            raise UserError(f"damaged: the first chunk is {name!r}, expected IHDR")
        content = file.read(length) if name in _USED_CHUNKS else b""
        chunks.setdefault(name, content)
    if b"IDAT" not in chunks:
        raise UserError("damaged: there are no pixels (chunk IDAT)")
    return chunks


def _check_sums(data: bytes) -> None:
    """Check the checksum of every chunk up to the end mark.

    Raises:
        UserError: a chunk is damaged.
    """
    view = memoryview(data)
    position, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            raise UserError(f"damaged: wrong checksum of chunk {name!r}")
        position = end + 4


def _profile(content: bytes) -> bytes | None:
    """Return the ICC profile of chunk iCCP: name, zero, method, compressed profile."""
    _, _, rest = content.partition(b"\0")
    try:
        inflate = zlib.decompressobj()
        # bounded: a few kilobytes can unpack to gigabytes
        profile = inflate.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        # the pixels are well, and viewers ignore such a profile
        return None
    return profile if inflate.eof else None
