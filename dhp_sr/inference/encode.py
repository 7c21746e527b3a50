"""Results as image files: complete or absent; PNG strip by strip, other formats as a whole.

What each format keeps is the table `OUTPUT_FORMATS` in `dhp_sr.images.formats`.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image as PillowImage

from dhp_sr.images.formats import OUTPUT_FORMATS, Kept
from dhp_sr.images.image import ColorInfo, Pixels
from dhp_sr.inference import png
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write


@dataclass(frozen=True)
class Result:
    """An image that is about to be written."""

    format: str
    """Key of `OUTPUT_FORMATS`."""
    height: int
    width: int
    channels: int
    """Channels of color: 1 or 3."""
    alpha: bool
    depth: int
    """Bits a channel: 8 or 16."""
    color_info: ColorInfo = field(default_factory=ColorInfo)
    quality: int = 95
    """Quality of JPEG and WebP, 1 to 100."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, and channels with alpha."""
        return self.height, self.width, self.channels + self.alpha

    @property
    def whole_bytes(self) -> int:
        """Memory of the whole image."""
        height, width, channels = self.shape
        return height * width * channels * self.depth // 8

    @property
    def written_depth(self) -> int:
        """Bits a channel in the file."""
        return self.depth if self.depth in OUTPUT_FORMATS[self.format].kept else 8

    @property
    def kept(self) -> Kept:
        """Properties of this image that the format keeps."""
        return OUTPUT_FORMATS[self.format].kept[self.written_depth]

    @property
    def icc(self) -> bytes | None:
        """ICC profile that goes into the file."""
        kept = self.kept
        profile_kept = kept.gray_profile if self.channels == 1 else kept.rgb_profile
        return self.color_info.icc if profile_kept else None

    def losses(self) -> list[str]:
        """List what the format cannot keep of the image, in words."""
        losses = []
        if self.alpha and not self.kept.alpha:
            losses.append("transparency")
        if self.written_depth < self.depth:
            losses.append("16 bits a channel")
        if self.color_info.icc and not self.icc:
            losses.append("the color profile")
        if not self.kept.png_chunks and not self.color_info.png_chunks_say_srgb:
            losses.append("gamma or color space of a PNG")
        return losses

    def check(self, max_bytes: int) -> None:
        """Check that the image can be written.

        Raises:
            UserError: A side is longer than the format allows, or the image takes more than
                `max_bytes` in a format that needs it as a whole.
        """
        output_format = OUTPUT_FORMATS[self.format]
        size = f"{self.width} x {self.height}"
        if max(self.height, self.width) > output_format.max_side:
            raise UserError(
                f"the result, {size}, is larger than {output_format.name} allows "
                f"({output_format.max_side} a side); use --format png"
            )
        if self.format != "png" and self.whole_bytes > max_bytes:
            raise UserError(
                f"the result, {size}, does not fit into --memory as {output_format.name}; "
                "use --format png, or raise it"
            )


def write_result(path: Path, result: Result, strips: Iterable[Pixels]) -> None:
    """Write an image whose rows arrive from top to bottom.

    Args:
        path: The file; it appears when it is complete.
        result: What is written.
        strips: (rows, width, channels with alpha), uint8 or uint16 as `result.depth` says.

    Raises:
        OSError: The file cannot be written.
        Exception: Whatever `strips` raises; nothing is left then.
    """
    with atomic_write(path) as file:
        if result.format == "png":
            # strip by strip: the only format whose results are larger than memory
            png.write_png(file, result.shape, result.depth, strips, result.color_info)
            return
        pixels = np.empty(result.shape, f"u{result.depth // 8}")
        top = 0
        for strip in strips:
            pixels[top : top + len(strip)] = strip
            top += len(strip)
        pixels = fit_to_format(pixels, result)
        if result.format == "tiff":
            write_tiff(file, pixels, result)
        else:
            write_with_pillow(file, pixels, result)


def fit_to_format(pixels: Pixels, result: Result) -> Pixels:
    """Leave out channels and bits that the format cannot keep."""
    kept = result.kept
    if result.alpha and not kept.alpha:
        pixels = pixels[:, :, : result.channels]
    elif result.alpha and result.channels == 1 and not kept.gray:
        # gray three times, and alpha
        pixels = pixels[:, :, [0, 0, 0, 1]]
    if result.written_depth < result.depth:
        # 65535 / 255 = 257: rounded, where dropping the low byte would darken
        pixels = np.rint(pixels / 257).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def write_with_pillow(file: IO[bytes], pixels: Pixels, result: Result) -> None:
    """Write JPEG, WebP or BMP."""
    settings: dict[str, object] = {}
    if result.icc:
        settings["icc_profile"] = result.icc
    if result.format in ("jpg", "webp"):
        settings["quality"] = result.quality
    if result.format == "jpg":
        settings["subsampling"] = 0  # color at full resolution: restored detail must not blur
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    name = OUTPUT_FORMATS[result.format].name
    # In memory first: into a file, Pillow writes past Python, and a full disk that takes only the
    # beginning of the last block is no error to it.
    encoded = io.BytesIO()
    PillowImage.fromarray(pixels).save(encoded, name, **settings)
    file.write(encoded.getbuffer())


_MAX_TIFF_BYTES = 2**32 - 2**25
"""Larger files are BigTIFF, whose positions have 64 bits. tifffile goes by this by itself, too, but
not where it compresses."""


def write_tiff(file: IO[bytes], pixels: Pixels, result: Result) -> None:
    """Write a TIFF, compressed without loss."""
    settings: dict[str, Any] = {"photometric": "minisblack"}
    if result.channels == 3:
        settings["photometric"] = "rgb"
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    else:
        # stated, or an image of 3 rows could be taken for three planes
        settings["planarconfig"] = "contig"
    if result.alpha:
        settings["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(
        file,
        pixels,
        # noise does not shrink
        bigtiff=pixels.nbytes > _MAX_TIFF_BYTES,
        compression="adobe_deflate",
        predictor=True,  # differences of neighbors pack better than values
        iccprofile=result.icc,
        # no text of tifffile's: equal results are equal files
        software=False,
        metadata=None,
        **settings,
    )
