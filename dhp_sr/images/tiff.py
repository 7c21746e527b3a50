"""TIFF files, read by tifffile (imagecodecs for compressions), with the meaning of their samples.

tifffile gives samples as stored. Their meaning is applied here: bits other than 8 and 16,
white-is-zero, palettes, inks, premultiplied alpha, samples without a meaning. What is not decoded
is refused in `tiff_checks.py`.

Reference:
    TIFF revision 6.0, Adobe, 1992; tags are named as there.
"""

import os
from typing import BinaryIO

import numpy as np
import tifffile

from dhp_sr.images.image import (
    ColorInfo,
    EncodedImage,
    ImageHeader,
    Pixels,
    UnsupportedImageError,
    valid_orientation,
)
from dhp_sr.images.samples import apply_palette, cmyk_to_rgb, divide_by_alpha, scale_bits
from dhp_sr.images.tiff_checks import (
    BLACK_IS_ZERO,
    COLOR_SAMPLES,
    INKS,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    check_kind,
    check_segments,
    open_page,
    segment_size,
)
from dhp_sr.utils.errors import UserError

# ExtraSamples
_PREMULTIPLIED = 1
_ALPHA = 2

# numbers of tags
_ORIENTATION = 274
_ICC_PROFILE = 34675
_COLOR_TAGS = (
    301,  # TransferFunction
    318,  # WhitePoint
    319,  # PrimaryChromaticities
)


def open_tiff(file: BinaryIO) -> EncodedImage:
    """Read a TIFF file's directory.

    Args:
        file: Seekable, at its start; it has to stay open until the pixels are decoded.

    Raises:
        UserError: The directory or the file is damaged.
        UnsupportedImageError: The samples are of a kind that is not decoded.
    """
    page = open_page(file)
    check_kind(page)
    file_bytes = file.seek(0, os.SEEK_END)
    check_segments(page, file_bytes)
    samples = TiffSamples(page)
    return EncodedImage(samples.header(file_bytes), samples.decode)


class TiffSamples:
    """Samples of a TIFF file and their meaning.

    Args:
        page: Page of tifffile, of a kind that `check_kind` lets pass.

    Raises:
        UserError: Tags contradict each other.
        UnsupportedImageError: Alpha is premultiplied where that is not defined.
    """

    def __init__(self, page: tifffile.TiffPage) -> None:
        self.page = page
        self.photometric = int(page.photometric)
        self.bits: int = page.bitspersample
        self.height: int = page.imagelength
        self.width: int = page.imagewidth
        self.samples: int = page.samplesperpixel
        self.color_samples = COLOR_SAMPLES[self.photometric]
        if self.samples < self.color_samples:
            raise UserError(
                f"damaged: {self.samples} samples a pixel, expected {self.color_samples}"
            )
        self.channels = 1 if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) else 3
        # a palette has 8 bits a channel, however many bits its indices have
        deep = self.bits > 8 and self.photometric != PALETTE
        self.dtype = np.dtype(np.uint16 if deep else np.uint8)
        self.alpha_index: int | None = None
        self.premultiplied = False
        # The tag may be missing, and 0 (unspecified) is no alpha: such samples are skipped over,
        # as the specification asks of readers that do not know them.
        for index, kind in enumerate(page.extrasamples, start=self.color_samples):
            if kind in (_PREMULTIPLIED, _ALPHA) and index < self.samples:
                self.alpha_index = index
                self.premultiplied = kind == _PREMULTIPLIED
                break
        if self.premultiplied and self.photometric not in (BLACK_IS_ZERO, RGB):
            # the specification defines premultiplication for light, where 0 is black
            raise UnsupportedImageError(
                "a TIFF with premultiplied alpha on white-is-zero, palette, CMYK or YCbCr: "
                "not supported"
            )

    @property
    def is_plain(self) -> bool:
        """Whether samples as tifffile gives them are the image, without another step."""
        expected = self.channels + (self.alpha_index is not None)
        return (
            self.photometric in (BLACK_IS_ZERO, RGB)
            and self.bits in (8, 16)
            and self.samples == expected
            and not self.premultiplied
            and (self.page.planarconfig == 1 or self.samples == 1)
        )

    def header(self, file_bytes: int) -> ImageHeader:
        """Return the facts that are known without decoding."""
        tags = self.page.tags
        dropped = []
        alpha = self.alpha_index is not None
        if self.samples > self.color_samples + alpha:
            dropped.append("extra samples without a meaning")
        icc = tags.valueof(_ICC_PROFILE)
        if icc is not None and self.photometric == INKS:
            # the result is RGB, for which a profile of inks would be wrong
            dropped.append("the profile of CMYK")
            icc = None
        if any(tag in tags for tag in _COLOR_TAGS):
            dropped.append("gamma or primaries of a TIFF")
        return ImageHeader(
            format="TIFF",
            height=self.height,
            width=self.width,
            channels=self.channels,
            alpha=alpha,
            depth=8 * self.dtype.itemsize,
            decode_bytes=file_bytes + self.peak_bytes(),
            orientation=valid_orientation(tags.valueof(_ORIENTATION)),
            color_info=ColorInfo(icc),
            dropped=tuple(dropped),
        )

    def peak_bytes(self) -> int:
        """Peak memory: samples as stored, a segment packed and unpacked, the image of them."""
        stored_bytes = 1 if self.bits <= 8 else 2
        pixels = self.height * self.width
        peak = pixels * self.samples * stored_bytes
        if not self.page.is_contiguous:
            # strips and tiles are decoded in turn and copied into the whole; a header may state
            # tiles that are far larger than the image
            height, width = segment_size(self.page)
            peak += 2 * height * width * stored_bytes * self.samples
        if not self.is_plain:
            channels = self.channels + (self.alpha_index is not None)
            peak += pixels * channels * self.dtype.itemsize
        return peak

    def decode(self) -> Pixels:
        """Decode the pixels into (H, W, channels + alpha), as stored."""
        # a single thread: loaders and commands have theirs
        samples_HWS = self.page.asarray(maxworkers=1)
        if self.page.planarconfig == 2 and self.samples > 1:
            planes_SHW = samples_HWS.reshape(self.samples, self.height, self.width)
            samples_HWS = planes_SHW.transpose(1, 2, 0)
        samples_HWS = samples_HWS.reshape(self.height, self.width, self.samples)
        if self.is_plain:
            return samples_HWS
        if samples_HWS.dtype == bool:
            samples_HWS = samples_HWS.view(np.uint8)
        alpha_HW = None
        if self.alpha_index is not None:
            alpha_HW = scale_bits(samples_HWS[:, :, self.alpha_index], self.bits)
        color_HWC = self.decode_color(samples_HWS[:, :, : self.color_samples])
        if alpha_HW is None:
            return np.ascontiguousarray(color_HWC)
        if alpha_HW.dtype != self.dtype:
            # of a palette, whose colors have 8 bits
            alpha_HW = (alpha_HW >> 8).astype(np.uint8)
        if self.premultiplied:
            color_HWC = divide_by_alpha(color_HWC, alpha_HW)
        result = np.empty((self.height, self.width, self.channels + 1), self.dtype)
        result[:, :, :-1] = color_HWC
        result[:, :, -1] = alpha_HW
        return result

    def decode_color(self, samples_HWS: Pixels) -> Pixels:
        """Turn the samples of the color into gray or RGB, apart from premultiplication."""
        if self.photometric == PALETTE:
            return apply_palette(samples_HWS[:, :, 0], self.page.colormap)
        color_HWC = scale_bits(samples_HWS, self.bits)
        if self.photometric == WHITE_IS_ZERO:
            # never in place: the samples may be a view that alpha is read from, too
            return np.iinfo(color_HWC.dtype).max - color_HWC
        if self.photometric == INKS:
            return cmyk_to_rgb(color_HWC)
        return color_HWC
