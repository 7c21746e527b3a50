"""PNG files written row by row, so that an image of any size needs the memory of some rows.

Reference:
    Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dhp_sr.images.image import ColorInfo, Pixels
from dhp_sr.utils.pixels import PNG_SIGNATURE

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> color type: gray, gray with alpha, RGB, RGBA."""
# filter types
_SUB = 1
_UP = 2
_COMPRESSION_LEVEL = 3  # higher ones take longer than small networks and save a few percent
_CHUNK_BYTES = 2**18


def write_png(
    file: IO[bytes],
    shape: tuple[int, int, int],
    depth: int,
    strips: Iterable[Pixels],
    color_info: ColorInfo | None = None,
) -> None:
    """Write an image.

    Args:
        file: Binary, written from the front to the back.
        shape: (height, width, channels) of the whole image; of 2 or 4 channels the last is alpha.
        depth: 8 or 16 bits a channel.
        strips: Rows from top to bottom, any number at a time, (rows, width, channels) of uint8 or
            uint16.
        color_info: Profile and color chunks.
    """
    height, width, channels = shape
    file.write(PNG_SIGNATURE)
    color_type = _COLOR_TYPES[channels]
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    if color_info is not None:
        for name, content in color_info.png_chunks:
            _write_chunk(file, name, content)
        if color_info.icc:
            _write_chunk(file, b"iCCP", b"profile\0\0" + zlib.compress(color_info.icc))
    bytes_per_pixel = channels * depth // 8
    for content in _equal_pieces(compress_rows(strips, width, bytes_per_pixel)):
        _write_chunk(file, b"IDAT", content)
    _write_chunk(file, b"IEND", b"")


def compress_rows(strips: Iterable[Pixels], width: int, bytes_per_pixel: int) -> Iterator[bytes]:
    """Yield the compressed pixels of an image, strip by strip."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    row_above = np.zeros((1, width * bytes_per_pixel), dtype=np.uint8)
    for strip in strips:
        # the higher byte of 16 bits comes first
        big_endian = np.ascontiguousarray(strip, dtype=strip.dtype.newbyteorder(">"))
        rows = big_endian.reshape(len(strip), -1).view(np.uint8)
        yield compressor.compress(filter_rows(rows, row_above, bytes_per_pixel))
        # the filter Up of the next strip's first row needs it
        row_above = rows[-1:]
    yield compressor.flush()


def _equal_pieces(contents: Iterable[bytes]) -> Iterator[bytes]:
    """Divide bytes into chunks of equal length, apart from the last."""
    # the file must not depend on the height of strips, which the memory decides
    pending = bytearray()
    for content in contents:
        pending += content
        while len(pending) >= _CHUNK_BYTES:
            yield bytes(pending[:_CHUNK_BYTES])
            del pending[:_CHUNK_BYTES]
    yield bytes(pending)


def _write_chunk(file: IO[bytes], name: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + name)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


def filter_rows(
    rows: NDArray[np.uint8], row_above: NDArray[np.uint8], bytes_per_pixel: int
) -> bytes:
    """Apply the filter Sub or Up to every row, whichever has the smaller sum of differences."""
    # bytes wrap around, as the specification asks
    sub = rows.copy()
    sub[:, bytes_per_pixel:] -= rows[:, :-bytes_per_pixel]
    up = rows.copy()
    up[1:] -= rows[:-1]
    up[:1] -= row_above
    use_up = _sum_of_differences(up) < _sum_of_differences(sub)
    filtered = np.empty((len(rows), rows.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = np.where(use_up, _UP, _SUB)
    filtered[:, 1:] = np.where(use_up[:, None], up, sub)
    return filtered.tobytes()


def _sum_of_differences(filtered: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum of absolute values of each row, read as signed bytes (the heuristic of section 12.7)."""
    return np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
