"""Facts in the headers of JPEG and BMP files that Pillow does not tell.

References:
    ITU-T T.81 (JPEG), table B.1: markers. T.87 (JPEG-LS) adds one.
    Microsoft, BITMAPV5HEADER.
"""

import struct
from typing import BinaryIO

import numpy as np

from dhp_sr.images.image import Pixels

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
        layout: of the file, Pillow's name; others are returned as they are.
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
