"""PNG files written row by row, so that a picture of any size needs no more memory than some of its rows."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dhp_sr.utils.pixels import PNG_SIGNATURE

_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> the format's number for grey, grey with alpha, RGB, RGBA."""
_LEVEL = 3
_PIECE = 2**18
LARGEST_SIDE = 2**31 - 1


def write_png(
    stream: IO[bytes],
    shape: tuple[int, int, int],
    depth: int,
    strips: Iterable[NDArray],
    icc: bytes | None = None,
) -> None:
    """Write one picture.

    Args:
        stream: binary, written from the front to the back.
        shape: (height, width, channels) of the whole picture; 1 to 4 channels, the last one of 2 or 4 is alpha.
        depth: 8 or 16 bits a channel.
        strips: its rows from top to bottom, any number at a time, (rows, width, channels) of uint8 or uint16.
        icc: colour profile.

    Reference:
        Portable Network Graphics (PNG) Specification, third edition, W3C.
    """
    height, width, channels = shape
    stream.write(PNG_SIGNATURE)
    _chunk(
        stream, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _KINDS[channels], 0, 0, 0)
    )
    if icc:
        _chunk(stream, b"iCCP", b"profile\0\0" + zlib.compress(icc))
    for content in _pieces(_packed(strips, width, channels * depth // 8)):
        _chunk(stream, b"IDAT", content)
    _chunk(stream, b"IEND", b"")


def _packed(strips: Iterable[NDArray], width: int, step: int) -> Iterator[bytes]:
    packer, above = zlib.compressobj(_LEVEL), np.zeros((1, width * step), dtype=np.uint8)
    for strip in strips:
        rows = _row_bytes(strip)
        yield packer.compress(_filtered(rows, above, step))
        above = rows[-1:]
    yield packer.flush()


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Divide bytes into pieces of one length, so that the file does not depend on how many rows came at a time."""
    held = bytearray()
    for part in parts:
        held += part
        while len(held) >= _PIECE:
            yield bytes(held[:_PIECE])
            del held[:_PIECE]
    yield bytes(held)


def _chunk(stream: IO[bytes], name: bytes, content: bytes) -> None:
    stream.write(struct.pack(">I", len(content)) + name)
    stream.write(content)
    stream.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


def _row_bytes(strip: NDArray) -> NDArray[np.uint8]:
    """Return the bytes of each row, the higher byte of 16 bits first."""
    ordered = np.ascontiguousarray(strip, dtype=strip.dtype.newbyteorder(">"))
    return ordered.reshape(len(strip), -1).view(np.uint8)


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Replace every row by its difference to the left or to the row above, whichever is smaller, with its number."""
    left = rows.copy()
    left[:, step:] -= rows[:, :-step]
    up = rows.copy()
    up[1:] -= rows[:-1]
    up[:1] -= above
    upwards = _size(up) < _size(left)
    result = np.empty((len(rows), rows.shape[1] + 1), dtype=np.uint8)
    result[:, 0] = np.where(upwards, 2, 1)
    result[:, 1:] = np.where(upwards[:, None], up, left)
    return result.tobytes()


def _size(differences: NDArray[np.uint8]) -> NDArray:
    """Return a measure of how well each row will pack: the sum of its differences, taken as small signed numbers."""
    return np.abs(differences.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
