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

_COLOR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_CRITICAL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_USED_CHUNKS = (*_COLOR_CHUNKS, b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL")
_PALETTE = 3
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Color type -> channels after decoding, alpha aside; a palette (3) becomes RGB."""
_ALPHA_TYPES = (4, 6)
_MAX_PROFILE_BYTES = 16 * 2**20
"""A larger profile is no profile."""


def open_png(file: BinaryIO) -> EncodedImage:
    """Read the chunks of a PNG file, without its pixels.

    Args:
        file: Seekable, at its start; it has to stay open until the pixels are decoded.

    Raises:
        UserError: A chunk is damaged or missing.
        UnsupportedImageError: The file is animated (APNG).
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
    entries = _count_palette(chunks) if color_type == _PALETTE else 0
    depth = 16 if bits == 16 else 8
    alpha = color_type in _ALPHA_TYPES or _has_transparency(chunks, color_type, entries)
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
        if color_type == _PALETTE and entries < 2**bits:
            _check_indices(data, entries, bits)
        # libpng scales 1, 2 and 4 bits to 8, and turns palettes into RGB and tRNS into alpha
        pixels = imagecodecs.png_decode(data)
        return pixels.reshape(height, width, samples)

    return EncodedImage(header, decode)


def _read_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the chunks that are used by name, and the names of all others up to the end mark.

    Raises:
        UserError: The file ends early, or begins with another chunk than IHDR.
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
        if name == b"CgBI":
            raise UnsupportedImageError("a PNG of Apple's own kind (chunk CgBI): not supported")
        if (name == b"IHDR") == bool(chunks):
            raise UserError(
                f"damaged: chunk number {len(chunks) + 1} is {name!r}, expected IHDR "
                "in front and nowhere else"
            )
        # a capital letter: who does not know the chunk must not show the image
        if name[:1].isupper() and name not in _CRITICAL_CHUNKS:
            raise UnsupportedImageError(f"a PNG with chunk {name!r}, which is not known")
        content = file.read(length) if name in _USED_CHUNKS else b""
        chunks.setdefault(name, content)
    if b"IDAT" not in chunks:
        raise UserError("damaged: there are no pixels (chunk IDAT)")
    return chunks


def _count_palette(chunks: dict[bytes, bytes]) -> int:
    """Return the number of a palette's entries."""
    entries, rest = divmod(len(chunks.get(b"PLTE", b"")), 3)
    if not entries or rest:
        raise UserError(f"damaged: a palette of {entries} entries and {rest} bytes")
    return entries


def _has_transparency(chunks: dict[bytes, bytes], color_type: int, entries: int) -> bool:
    """Return whether tRNS marks a gray or RGB value, or gives entries of the palette an alpha.

    Raises:
        UserError: The chunk stands elsewhere, or has another length, than the specification says.
            libpng would leave it out.
    """
    if b"tRNS" not in chunks or color_type in _ALPHA_TYPES:
        return False
    order = list(chunks)
    at = order.index(b"tRNS")
    if at > order.index(b"IDAT") or (entries and at < order.index(b"PLTE")):
        raise UserError("damaged: chunk tRNS stands before the palette or behind the pixels")
    length = len(chunks[b"tRNS"])
    allowed = range(1, entries + 1)
    if color_type != _PALETTE:
        allowed = range(2 * _CHANNELS[color_type], 2 * _CHANNELS[color_type] + 1)
    if length not in allowed:
        raise UserError(f"damaged: chunk tRNS of {length} bytes")
    return True


def _check_indices(data: bytes, entries: int, bits: int) -> None:
    """Check that a palette has an entry for every pixel; libpng takes black for the others.

    Raises:
        UserError: It has not.
    """
    # as gray of the same depth, without the chunks of the palette, pixels are their indices
    position = len(PNG_SIGNATURE)
    gray = [PNG_SIGNATURE]
    name = b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name == b"IHDR":
            content = data[position + 4 : position + 17] + b"\0" + data[position + 18 : end - 4]
            gray.append(data[position : position + 4] + content)
            gray.append(struct.pack(">I", zlib.crc32(content)))
        elif name in (b"IDAT", b"IEND"):
            gray.append(data[position:end])
        position = end
    # libpng scales them to 8 bits
    largest = int(imagecodecs.png_decode(b"".join(gray)).max()) // (255 // (2**bits - 1))
    if largest >= entries:
        raise UserError(f"damaged: a pixel has entry {largest} of a palette of {entries}")


def _check_sums(data: bytes) -> None:
    """Check the checksum of every chunk up to the end mark.

    Raises:
        UserError: A chunk is damaged.
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
