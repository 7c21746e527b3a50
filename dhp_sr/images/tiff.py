"""TIFF files, read by tifffile (imagecodecs for compressions), with the meaning of their samples.

tifffile gives samples as stored. What they mean is applied here: bits other than 8 and 16,
white-is-zero, palettes, inks, premultiplied alpha, samples without a meaning.

Reference:
    TIFF revision 6.0, Adobe, 1992; tags are named as there.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image as PillowImage

from dhp_sr.images.image import (
    ColorInfo,
    EncodedImage,
    ImageHeader,
    Pixels,
    UnsupportedImageError,
    valid_orientation,
)
from dhp_sr.images.samples import apply_palette, cmyk_to_rgb, divide_by_alpha, scale_bits
from dhp_sr.utils.errors import UserError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INKS, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOR_SAMPLES = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _INKS: 4,
    _YCBCR: 3,
}
"""PhotometricInterpretation -> samples that make the color; others of a pixel are extra."""
_JPEG, _WEBP = 7, 50001
_COMPRESSIONS = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT T.4",
    4: "CCITT T.6",
    5: "LZW",
    _JPEG: "JPEG",
    8: "Deflate",
    32773: "PackBits",
    32946: "Deflate",
    34925: "LZMA",
    50000: "Zstandard",
    _WEBP: "WebP",
}
"""Compression -> its name, for those that are read."""
_PREMULTIPLIED, _ALPHA = 1, 2
_ALPHA_KINDS = (_PREMULTIPLIED, _ALPHA)
_ORIENTATION, _INK_SET, _ICC_PROFILE = 274, 332, 34675


@dataclass(frozen=True)
class _Layout:
    """How the samples of a page make an image."""

    photometric: int
    bits: int
    """Of a sample as stored, 1 to 16."""
    alpha_at: int | None
    """Index of the alpha sample in a pixel."""
    premultiplied: bool
    """Whether colors are stored multiplied by alpha (ExtraSamples 1)."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the decoded samples."""
        return np.dtype(np.uint8 if self.bits <= 8 or self.photometric == _PALETTE else np.uint16)

    @property
    def channels(self) -> int:
        """Channels of the decoded color."""
        return 1 if self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 3


def open_tiff(file: BinaryIO) -> EncodedImage:
    """Read a TIFF file's directory.

    Args:
        file: seekable, at its start; it has to stay open until the pixels are decoded.

    Raises:
        UserError: the directory or the file is damaged.
        UnsupportedImageError: the samples are of a kind that is not decoded.
    """
    tiff = tifffile.TiffFile(file)
    if len(tiff.pages) > 1:
        raise UnsupportedImageError(
            f"a TIFF with {len(tiff.pages)} pages; expected one image, take it apart first"
        )
    page = tiff.pages.first
    file_bytes = file.seek(0, os.SEEK_END)
    layout = _read_layout(page)
    _check_segments(page, file_bytes)
    height, width = page.imagelength, page.imagewidth
    dropped = []
    alpha = layout.alpha_at is not None
    if page.samplesperpixel > _COLOR_SAMPLES[layout.photometric] + alpha:
        dropped.append("extra samples without a meaning")
    icc = page.tags.valueof(_ICC_PROFILE)
    if icc is not None and layout.photometric == _INKS:
        dropped.append("the profile of CMYK")
        icc = None
    header = ImageHeader(
        format="TIFF",
        height=height,
        width=width,
        channels=layout.channels,
        alpha=alpha,
        depth=8 * layout.dtype.itemsize,
        decode_bytes=file_bytes + _pixel_bytes(page, layout),
        orientation=valid_orientation(page.tags.valueof(_ORIENTATION)),
        color_info=ColorInfo(bytes(icc) if icc is not None else None),
        dropped=tuple(dropped),
    )
    return EncodedImage(header, lambda: _decode(page, layout))


def _read_layout(page: Any) -> _Layout:
    """Read what the samples mean.

    Raises:
        UnsupportedImageError: they are of a kind that is not decoded; the message says which.
    """
    refusals = _refusals(page)
    if refusals:
        raise UnsupportedImageError(f"a TIFF with {' and '.join(refusals)}: not supported")
    photometric = int(page.photometric)
    colors = _COLOR_SAMPLES[photometric]
    if page.samplesperpixel < colors:
        raise UserError(f"damaged: {page.samplesperpixel} samples a pixel, expected {colors}")
    alpha_at, premultiplied = None, False
    # ExtraSamples may be missing, and 0 (unspecified) is no alpha: such samples are skipped over
    for number, kind in enumerate(page.extrasamples):
        if kind in _ALPHA_KINDS and colors + number < page.samplesperpixel:
            alpha_at = colors + number
            premultiplied = kind == _PREMULTIPLIED
            break
    if premultiplied and photometric not in (_BLACK_IS_ZERO, _RGB):
        raise UnsupportedImageError(
            "a TIFF with premultiplied alpha on white-is-zero, palette, CMYK or YCbCr: not supported"
        )
    return _Layout(photometric, page.bitspersample, alpha_at, premultiplied)


def _refusals(page: Any) -> list[str]:
    """List the properties of a page that are not supported."""
    refusals = []
    if page.subfiletype & 1:
        refusals.append("a thumbnail as its first image (a raw photograph?)")
    if page.imagedepth > 1:
        refusals.append(f"{page.imagedepth} slices (a volume)")
    if int(page.photometric) not in _COLOR_SAMPLES:
        refusals.append(f"colors of kind {_name(page.photometric)}")
    formats = set(_as_tuple(page.tags.valueof(339, default=1)))
    # 4 is "undefined", which the specification says to read as unsigned
    for number, name in ((2, "signed"), (3, "floating-point"), (5, "complex"), (6, "complex")):
        if number in formats:
            refusals.append(f"{name} samples")
    bits = page.bitspersample
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        refusals.append(f"{bits} bits a sample")
    compression = int(page.compression)
    if compression not in _COMPRESSIONS:
        refusals.append(f"compression {_name(page.compression)}")
    if page.photometric == _INKS and page.tags.valueof(_INK_SET, default=1) != 1:
        refusals.append("inks other than CMYK")
    if page.photometric == _YCBCR and compression != _JPEG:
        refusals.append("YCbCr that is not compressed as JPEG")
    if page.photometric == _YCBCR and page.planarconfig != 1:
        refusals.append("YCbCr in separate planes")
    if compression == _JPEG and page.samplesperpixel != _COLOR_SAMPLES.get(int(page.photometric)):
        refusals.append("extra samples compressed as JPEG")
    return refusals


def _name(value: Any) -> str:
    return getattr(value, "name", str(value))


def _as_tuple(value: Any) -> Sequence[int]:
    return value if isinstance(value, tuple) else (value,)


def _check_segments(page: Any, file_bytes: int) -> None:
    """Check that every strip or tile lies in the file and says no other size than the page.

    Raises:
        UserError: the file is cut short or damaged. tifffile would fill missing segments.
    """
    if not page.dataoffsets or len(page.dataoffsets) != len(page.databytecounts):
        raise UserError("damaged: strips or tiles are missing")
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if not length or not offset:
            raise UserError("damaged: a strip or tile is empty")
        if offset + length > file_bytes:
            raise UserError(
                f"damaged: a strip or tile ends at byte {offset + length} of {file_bytes}, "
                "the file is cut short"
            )
    if page.compression in (_JPEG, _WEBP):
        _check_embedded_images(page)


def _check_embedded_images(page: Any) -> None:
    """Check the sizes of embedded JPEG or WebP images, for which their decoders allocate memory."""
    height, width = _segment_size(page)
    format_name = "JPEG" if page.compression == _JPEG else "WEBP"
    file = page.parent.filehandle
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        with PillowImage.open(io.BytesIO(file.read(length)), formats=(format_name,)) as embedded:
            if embedded.width > width or embedded.height > height:
                raise UserError(
                    f"damaged: {format_name} data of {embedded.width} x {embedded.height} pixels "
                    f"in a strip or tile of {width} x {height}"
                )


def _segment_size(page: Any) -> tuple[int, int]:
    """Height and width of a strip or tile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _is_plain(page: Any, layout: _Layout) -> bool:
    """Return whether samples as tifffile gives them are the image, without another step."""
    expected = layout.channels + (layout.alpha_at is not None)
    return (
        layout.photometric in (_BLACK_IS_ZERO, _RGB)
        and layout.bits in (8, 16)
        and page.samplesperpixel == expected
        and not layout.premultiplied
        and (page.planarconfig == 1 or page.samplesperpixel == 1)
    )


def _pixel_bytes(page: Any, layout: _Layout) -> int:
    """Peak memory: samples as stored, a segment packed and unpacked, the image made of them."""
    sample_bytes = 1 if layout.bits <= 8 else 2
    samples = page.samplesperpixel
    pixels = page.imagelength * page.imagewidth
    peak = pixels * samples * sample_bytes
    if not page.is_contiguous:
        # strips and tiles are decoded one by one and copied into the whole
        segment_height, segment_width = _segment_size(page)
        segment_samples = samples if page.planarconfig == 1 else 1
        peak += 2 * segment_height * segment_width * segment_samples * sample_bytes
    if not _is_plain(page, layout):
        channels = layout.channels + (layout.alpha_at is not None)
        peak += pixels * channels * layout.dtype.itemsize
    return peak


def _decode(page: Any, layout: _Layout) -> Pixels:
    """Decode a page into (H, W, channels + alpha)."""
    samples_HWS = page.asarray(maxworkers=1)
    height, width, count = page.imagelength, page.imagewidth, page.samplesperpixel
    if page.planarconfig == 2 and count > 1:
        samples_HWS = samples_HWS.reshape(count, height, width).transpose(1, 2, 0)
    samples_HWS = samples_HWS.reshape(height, width, count)
    if _is_plain(page, layout):
        return samples_HWS
    if samples_HWS.dtype == bool:
        samples_HWS = samples_HWS.view(np.uint8)
    alpha_HW = None
    if layout.alpha_at is not None:
        alpha_HW = scale_bits(samples_HWS[:, :, layout.alpha_at], layout.bits)
    colors_HWS = samples_HWS[:, :, : _COLOR_SAMPLES[layout.photometric]]
    if layout.photometric == _PALETTE:
        color_HWC = apply_palette(colors_HWS[:, :, 0], page.colormap)
        if alpha_HW is not None:
            # alpha has as many bits as the index, a palette gives 8
            alpha_HW = (alpha_HW >> (0 if layout.bits <= 8 else 8)).astype(np.uint8)
    else:
        color_HWC = scale_bits(colors_HWS, layout.bits)
    if layout.photometric == _WHITE_IS_ZERO:
        color_HWC = np.iinfo(color_HWC.dtype).max - color_HWC  # never in place: it may be a view
    if layout.photometric == _INKS:
        return cmyk_to_rgb(color_HWC, alpha_HW)
    if alpha_HW is None:
        return np.ascontiguousarray(color_HWC)
    if layout.premultiplied:
        color_HWC = divide_by_alpha(color_HWC, alpha_HW)
    result = np.empty((height, width, color_HWC.shape[2] + 1), color_HWC.dtype)
    result[:, :, :-1] = color_HWC
    result[:, :, -1] = alpha_HW
    return result
