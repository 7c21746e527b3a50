"""TIFF files, read by tifffile (imagecodecs for compressions), with the meaning of their samples.

tifffile gives samples as stored. Their meaning is applied here: bits other than 8 and 16,
white-is-zero, palettes, inks, premultiplied alpha, samples without a meaning.

Reference:
    TIFF revision 6.0, Adobe, 1992; tags are named as there.
"""

import io
import os
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

# PhotometricInterpretation
_WHITE_IS_ZERO = 0
_BLACK_IS_ZERO = 1
_RGB = 2
_PALETTE = 3
_INKS = 5
_YCBCR = 6
_COLOR_SAMPLES = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _INKS: 4,
    _YCBCR: 3,
}
"""PhotometricInterpretation -> samples that make the color; others of a pixel are extra."""

_JPEG = 7
_WEBP = 50001
_COMPRESSIONS = (
    1,  # none
    2,  # CCITT RLE
    3,  # CCITT T.4
    4,  # CCITT T.6
    5,  # LZW
    _JPEG,
    8,  # Deflate
    32773,  # PackBits
    32946,  # Deflate, by its former number
    34925,  # LZMA
    50000,  # Zstandard
    _WEBP,
)
"""Values of Compression that are read."""

# ExtraSamples
_PREMULTIPLIED = 1
_ALPHA = 2

# SampleFormat; 4 is "undefined", which the specification says to read as unsigned
_UNSUPPORTED_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

# numbers of tags
_ORIENTATION = 274
_INK_SET = 332
_SAMPLE_FORMAT = 339
_ICC_PROFILE = 34675


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
            f"a TIFF with {len(tiff.pages)} pages; expected a single image, take it apart first"
        )
    file_bytes = file.seek(0, os.SEEK_END)
    page = TiffPage(tiff.pages.first)
    page.check_segments(file_bytes)
    return EncodedImage(page.header(file_bytes), page.decode)


class TiffPage:
    """The image of a TIFF file and the meaning of its samples.

    Args:
        page: of tifffile.

    Raises:
        UserError: tags contradict each other.
        UnsupportedImageError: the samples are of a kind that is not decoded; the message says
            which.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        refusals = self.refusals()
        if refusals:
            raise UnsupportedImageError(f"a TIFF with {' and '.join(refusals)}: not supported")
        self.photometric = int(page.photometric)
        self.bits: int = page.bitspersample
        self.height: int = page.imagelength
        self.width: int = page.imagewidth
        self.samples: int = page.samplesperpixel
        self.color_samples = _COLOR_SAMPLES[self.photometric]
        if self.samples < self.color_samples:
            raise UserError(
                f"damaged: {self.samples} samples a pixel, expected {self.color_samples}"
            )
        self.channels = 1 if self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) else 3
        # a palette has 8 bits a channel, however many bits its indices have
        deep = self.bits > 8 and self.photometric != _PALETTE
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
        if self.premultiplied and self.photometric not in (_BLACK_IS_ZERO, _RGB):
            # the specification defines premultiplication for light, where 0 is black
            raise UnsupportedImageError(
                "a TIFF with premultiplied alpha on white-is-zero, palette, CMYK or YCbCr: "
                "not supported"
            )

    def refusals(self) -> list[str]:
        """List the properties that are not supported, in words."""
        page = self.page
        refusals = []
        if page.subfiletype & 1:
            # cameras' raw formats begin with a small preview
            refusals.append("a thumbnail as its first image (a raw photograph?)")
        if page.imagedepth > 1:
            refusals.append(f"{page.imagedepth} slices (a volume)")
        if int(page.photometric) not in _COLOR_SAMPLES:
            refusals.append(f"colors of kind {getattr(page.photometric, 'name', page.photometric)}")
        stated = page.tags.valueof(_SAMPLE_FORMAT, default=1)
        formats = stated if isinstance(stated, tuple) else (stated,)
        for number, name in _UNSUPPORTED_FORMATS.items():
            # their range is not known: floats are in use from 0 to 1, to 255 and to others
            if number in formats:
                refusals.append(f"{name} samples")
        bits = page.bitspersample
        if not isinstance(bits, int) or not 1 <= bits <= 16:
            refusals.append(f"{bits} bits a sample")
        compression = int(page.compression)
        if compression not in _COMPRESSIONS:
            name = getattr(page.compression, "name", page.compression)
            refusals.append(f"compression {name}")
        if page.photometric == _INKS and page.tags.valueof(_INK_SET, default=1) != 1:
            refusals.append("inks other than CMYK")
        if page.photometric == _YCBCR and (compression != _JPEG or page.planarconfig != 1):
            # JPEG's decoder turns it into RGB; otherwise color is stored at another resolution
            refusals.append("YCbCr that is not compressed as JPEG")
        expected = _COLOR_SAMPLES.get(int(page.photometric))
        if compression == _JPEG and page.samplesperpixel != expected:
            refusals.append("extra samples compressed as JPEG")
        return refusals

    @property
    def segment_size(self) -> tuple[int, int]:
        """Height and width of a strip or tile."""
        if self.page.is_tiled:
            return self.page.tilelength, self.page.tilewidth
        return min(self.page.rowsperstrip, self.height), self.width

    @property
    def is_plain(self) -> bool:
        """Whether samples as tifffile gives them are the image, without another step."""
        expected = self.channels + (self.alpha_index is not None)
        return (
            self.photometric in (_BLACK_IS_ZERO, _RGB)
            and self.bits in (8, 16)
            and self.samples == expected
            and not self.premultiplied
            and (self.page.planarconfig == 1 or self.samples == 1)
        )

    def check_segments(self, file_bytes: int) -> None:
        """Check that every strip or tile lies in the file and says no other size than the page.

        Raises:
            UserError: the file is cut short or damaged. tifffile would fill missing segments.
        """
        page = self.page
        if not page.dataoffsets or len(page.dataoffsets) != len(page.databytecounts):
            raise UserError("damaged: strips or tiles are missing")
        height, width = self.segment_size
        embedded = {_JPEG: "JPEG", _WEBP: "WEBP"}.get(int(page.compression))
        for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not length or not offset:
                raise UserError("damaged: a strip or tile is empty")
            if offset + length > file_bytes:
                raise UserError(
                    f"damaged: a strip or tile ends at byte {offset + length} of {file_bytes}, "
                    "the file is cut short"
                )
            if embedded is None:
                continue
            # decoders of embedded images allocate memory for the size that these state
            page.parent.filehandle.seek(offset)
            content = io.BytesIO(page.parent.filehandle.read(length))
            with PillowImage.open(content, formats=(embedded,)) as image:
                if image.width > width or image.height > height:
                    raise UserError(
                        f"damaged: {embedded} data of {image.width} x {image.height} pixels "
                        f"in a strip or tile of {width} x {height}"
                    )

    def header(self, file_bytes: int) -> ImageHeader:
        """Return the facts that are known without decoding."""
        tags = self.page.tags
        dropped = []
        alpha = self.alpha_index is not None
        if self.samples > self.color_samples + alpha:
            dropped.append("extra samples without a meaning")
        icc = tags.valueof(_ICC_PROFILE)
        if icc is not None and self.photometric == _INKS:
            # the result is RGB, for which a profile of inks would be wrong
            dropped.append("the profile of CMYK")
            icc = None
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
            height, width = self.segment_size
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
        if self.photometric == _PALETTE:
            return apply_palette(samples_HWS[:, :, 0], self.page.colormap)
        color_HWC = scale_bits(samples_HWS, self.bits)
        if self.photometric == _WHITE_IS_ZERO:
            # never in place: the samples may be a view that alpha is read from, too
            return np.iinfo(color_HWC.dtype).max - color_HWC
        if self.photometric == _INKS:
            return cmyk_to_rgb(color_HWC)
        return color_HWC
