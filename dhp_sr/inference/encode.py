"""Results as image files: whole or not there, PNG by strips, other formats from the whole picture."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhp_sr.inference import png
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write


@dataclass(frozen=True)
class _Kind:
    name: str
    side: int
    """Largest side of a picture, in pixels."""
    alpha: bool
    deep: bool
    """Whether it takes 16 bits a channel."""
    grey_alpha: bool = True


KINDS = {
    "png": _Kind("PNG", png.LARGEST_SIDE, alpha=True, deep=True),
    "jpg": _Kind("JPEG", 65500, alpha=False, deep=False),
    "webp": _Kind("WEBP", 16383, alpha=True, deep=False, grey_alpha=False),
    "tiff": _Kind("TIFF", 2**31 - 1, alpha=True, deep=True),
    "bmp": _Kind("BMP", 2**31 - 1, alpha=False, deep=False),
}
"""Format of `--format` -> what it can hold."""
_SUFFIXES = {"jpeg": "jpg", "tif": "tiff"}


def kind_of(suffix: str) -> str:
    """Return the format that a suffix such as `.JPEG` stands for; `png` where it is none of `KINDS`."""
    name = suffix.lower().lstrip(".")
    name = _SUFFIXES.get(name, name)
    return name if name in KINDS else "png"


@dataclass(frozen=True)
class Result:
    """A picture that is about to be written."""

    kind: str
    height: int
    width: int
    channels: int
    """Of the colours: 1 or 3."""
    alpha: bool
    depth: int
    icc: bytes | None = None
    quality: int = 95

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels with alpha."""
        return self.height, self.width, self.channels + self.alpha

    @property
    def whole_bytes(self) -> int:
        """Memory of the whole picture."""
        return self.height * self.width * (self.channels + self.alpha) * self.depth // 8

    def losses(self) -> list[str]:
        """Return what the format cannot hold of the picture."""
        kind = KINDS[self.kind]
        lost = ["transparency"] if self.alpha and not kind.alpha else []
        return lost + (["16 bits a channel"] if self.depth == 16 and not kind.deep else [])

    def check(self, most_bytes: int) -> None:
        """Check that the picture can be written.

        Raises:
            UserError: a side is longer than the format allows, or it takes more than `most_bytes` in a format that
                needs the whole picture.
        """
        kind = KINDS[self.kind]
        size = f"{self.width} x {self.height}"
        if max(self.height, self.width) > kind.side:
            raise UserError(
                f"the result, {size}, is larger than {kind.name} allows ({kind.side} a side); use --format png"
            )
        if self.kind != "png" and self.whole_bytes > most_bytes:
            raise UserError(
                f"the result, {size}, does not fit into --memory as {kind.name}; use --format png, or raise it"
            )


def write_result(path: Path, result: Result, strips: Iterable[NDArray]) -> None:
    """Write a picture whose rows arrive from top to bottom.

    Args:
        path: the file; it appears when it is complete.
        result: what is written.
        strips: (rows, width, channels with alpha), uint8 or uint16 as `result.depth` says.

    Raises:
        OSError: the file cannot be written.
        Whatever `strips` raises; nothing is left then.
    """
    with atomic_write(path) as stream:
        if result.kind == "png":
            png.write_png(stream, result.shape, result.depth, strips, result.icc)
        else:
            _write_whole(stream, result, strips)


def _write_whole(stream: IO[bytes], result: Result, strips: Iterable[NDArray]) -> None:
    pixels = np.empty(result.shape, dtype=np.uint8 if result.depth == 8 else np.uint16)
    done = 0
    for strip in strips:
        pixels[done : done + len(strip)] = strip
        done += len(strip)
    pixels, kind = _suited(pixels, result), KINDS[result.kind]
    if pixels.dtype == np.uint16:
        _write_deep_tiff(stream, pixels)
        return
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    chosen = {"icc_profile": result.icc} if result.icc else {}
    if result.kind in ("jpg", "webp"):
        chosen |= {"quality": result.quality}
    if result.kind == "jpg":
        chosen |= {"subsampling": 0}
    if result.kind == "tiff":
        chosen |= {"compression": "tiff_deflate"}
    picture.save(stream, kind.name, **chosen)


def _suited(pixels: NDArray, result: Result) -> NDArray:
    """Leave out what the format cannot hold."""
    kind = KINDS[result.kind]
    if result.alpha and not kind.alpha:
        pixels = pixels[:, :, : result.channels]
    elif result.alpha and result.channels == 1 and not kind.grey_alpha:
        pixels = pixels[:, :, [0, 0, 0, 1]]
    if pixels.dtype == np.uint16 and not kind.deep:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _write_deep_tiff(stream: IO[bytes], pixels: NDArray) -> None:
    if pixels.shape[2] == 2:
        pixels = pixels[:, :, [0, 0, 0, 1]]
    if pixels.shape[2] >= 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    done, content = cv2.imencode(".tiff", np.ascontiguousarray(pixels))
    if not done:
        raise UserError("the picture cannot be written as TIFF; use --format png")
    stream.write(memoryview(content))
