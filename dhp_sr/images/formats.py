"""Image formats: those that are read, and the properties that each format of results keeps."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class InputFormat:
    """A format that is decoded; a file's first bytes tell its format."""

    name: str
    """Name that Pillow uses."""
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    """First bytes of a file; `?` stands for any byte."""

    def matches(self, head: bytes) -> bool:
        """Return whether a file that begins with these bytes has the format."""
        for signature in self.signatures:
            pairs = zip(signature, head, strict=False)
            wildcard = ord("?")
            if len(head) >= len(signature) and all(a in (b, wildcard) for a, b in pairs):
                return True
        return False


INPUT_FORMATS = (
    InputFormat("PNG", (".png",), (b"\x89PNG\r\n\x1a\n",)),
    InputFormat("JPEG", (".jpg", ".jpeg"), (b"\xff\xd8\xff",)),
    InputFormat("BMP", (".bmp",), (b"BM",)),
    # the last two are BigTIFF
    InputFormat("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    InputFormat("WEBP", (".webp",), (b"RIFF????WEBP",)),
    InputFormat("GIF", (".gif",), (b"GIF87a", b"GIF89a")),
    InputFormat("PPM", (".ppm", ".pgm"), (b"P2", b"P3", b"P5", b"P6")),
)
"""Formats that are decoded. Others are refused: no file, whatever its name, starts a program."""

SIGNATURE_BYTES = 12
"""Bytes that suffice to tell the formats apart."""

SUFFIXES: tuple[str, ...] = tuple(
    suffix for input_format in INPUT_FORMATS for suffix in input_format.suffixes
)
"""Suffixes, in lower case, of the files of a folder that are taken as images."""


@dataclass(frozen=True)
class Kept:
    """Properties that a format of results keeps of an image, at a depth."""

    exact: bool
    """Whether pixels come back as they were."""
    alpha: bool
    gray: bool
    """Whether gray stays a single channel."""
    gray_profile: bool
    """ICC profile of a gray image."""
    rgb_profile: bool
    """ICC profile of an RGB image."""
    png_chunks: bool
    """Gamma and color space in PNG's words (gAMA, cHRM, sRGB, cICP)."""


@dataclass(frozen=True)
class OutputFormat:
    """A format that results are written in."""

    name: str
    """Name that Pillow uses."""
    max_side: int
    """Largest height or width, in pixels."""
    kept: Mapping[int, Kept]
    """Bits a channel -> what is kept; results of other depths are written with 8 bits."""


_YES = True
_NO = False
OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    # columns of Kept:          exact alpha gray gray profile RGB profile gamma
    "png": OutputFormat(
        "PNG",
        2**31 - 1,
        {
            8: Kept(_YES, _YES, _YES, _YES, _YES, _YES),
            16: Kept(_YES, _YES, _YES, _YES, _YES, _YES),
        },
    ),
    # JPEG's sides are limited by libjpeg, not by the format (65535)
    "jpg": OutputFormat("JPEG", 65500, {8: Kept(_NO, _NO, _YES, _YES, _YES, _NO)}),
    # WebP has no gray: a gray profile would be wrong for the RGB that is stored
    "webp": OutputFormat("WEBP", 16383, {8: Kept(_NO, _YES, _NO, _NO, _YES, _NO)}),
    "tiff": OutputFormat(
        "TIFF",
        2**31 - 1,
        {
            8: Kept(_YES, _YES, _YES, _YES, _YES, _NO),
            16: Kept(_YES, _YES, _YES, _YES, _YES, _NO),
        },
    ),
    # BMP could hold profiles since version 5, but few programs read them
    "bmp": OutputFormat("BMP", 2**31 - 1, {8: Kept(_YES, _NO, _YES, _NO, _NO, _NO)}),
}
"""Format of `infer.py --format` -> what it keeps."""

OUTPUT_SUFFIXES: Mapping[str, str] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
"""Suffix in lower case -> format of results, a key of `OUTPUT_FORMATS`."""


def output_format_of(suffix: str) -> str:
    """Return the format that a suffix such as `.JPEG` names; `png` for all that are not written."""
    return OUTPUT_SUFFIXES.get(suffix.lower(), "png")
