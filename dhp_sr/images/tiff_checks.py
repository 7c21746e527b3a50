"""Checks of a TIFF file's directory: kinds that are not decoded, and what is damaged.

tifffile decodes far more than an image can be made of, and fills up what is missing. All of that
is refused here, with the reason, before anything is decoded.

Reference:
    TIFF revision 6.0, Adobe, 1992; tags are named as there.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import tifffile
from PIL import Image as PillowImage

from dhp_sr.images.image import UnsupportedImageError
from dhp_sr.utils.errors import UserError

# PhotometricInterpretation
WHITE_IS_ZERO = 0
BLACK_IS_ZERO = 1
RGB = 2
PALETTE = 3
INKS = 5
YCBCR = 6
COLOR_SAMPLES = {
    WHITE_IS_ZERO: 1,
    BLACK_IS_ZERO: 1,
    RGB: 3,
    PALETTE: 1,
    INKS: 4,
    YCBCR: 3,
}
"""PhotometricInterpretation -> samples that make the color; others of a pixel are extra."""

_LZW = 5
_JPEG = 7
_WEBP = 50001
_WITH_PREDICTOR = (
    _LZW,
    8,  # Deflate
    32946,  # Deflate, by its former number
    34925,  # LZMA
    50000,  # Zstandard
)
"""Values of Compression that the tag Predictor has a meaning for, as in libtiff."""
_COMPRESSIONS = (
    1,  # none
    2,  # CCITT RLE
    3,  # CCITT T.4
    4,  # CCITT T.6
    32773,  # PackBits
    *_WITH_PREDICTOR,
    _JPEG,
    _WEBP,
)
"""Values of Compression that are read."""

# SampleFormat; 4 is "undefined", which the specification says to read as unsigned
_UNSUPPORTED_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}

# numbers of tags
_SINGLE = (256, 257, 259, 262, 266, 277, 278, 284, 317)
"""Those with a single value: sizes, kinds, PlanarConfiguration and the like."""
_PHOTOMETRIC = 262
_PREDICTOR = 317
_INK_SET = 332
_SAMPLE_FORMAT = 339


def open_page(file: BinaryIO) -> tifffile.TiffPage:
    """Open the image of a TIFF file, a page in tifffile's words.

    Raises:
        UserError: The directory is damaged.
        UnsupportedImageError: There are several images in the file.
    """
    try:
        tiff = tifffile.TiffFile(file)
    except TypeError as error:
        # tifffile takes such values for single numbers
        raise UserError(
            "damaged: samples of several formats, or a tag with several values where one is "
            f"expected ({error})"
        ) from error
    if len(tiff.pages) > 1:
        raise UnsupportedImageError(
            f"a TIFF with {len(tiff.pages)} pages; expected a single image, take it apart first"
        )
    page = tiff.pages.first
    if tiff.is_imagej or tiff.is_shaped or tiff.is_stk:
        # these programs store many images behind the directory of the first
        images = sum(series.size for series in tiff.series) // max(1, page.size)
        if images > 1:
            raise UnsupportedImageError(
                f"a TIFF with {images} images behind a single directory; expected a single image, "
                "take it apart first"
            )
    return page


def check_kind(page: tifffile.TiffPage) -> None:
    """Check that an image can be made of the samples.

    Raises:
        UserError: The directory is damaged.
        UnsupportedImageError: The samples are of a kind that is not decoded; all reasons are named.
    """
    for number in _SINGLE:
        value = page.tags.valueof(number)
        if isinstance(value, tuple):
            raise UserError(f"damaged: {len(value)} values of tag {number}, expected one")
    if not (page.imagelength and page.imagewidth):
        raise UserError(f"damaged: {page.imagewidth} x {page.imagelength} pixels")
    refusals = [*_refusals_of_layout(page), *_refusals_of_samples(page)]
    refusals += _refusals_of_compression(page)
    if refusals:
        raise UnsupportedImageError(f"a TIFF with {' and '.join(refusals)}: not supported")


def _refusals_of_layout(page: tifffile.TiffPage) -> Iterator[str]:
    if page.subfiletype & 1:
        # cameras' raw formats begin with a small preview
        yield "a thumbnail as its first image (a raw photograph?)"
    if page.imagedepth > 1:
        yield f"{page.imagedepth} slices (a volume)"
    if page.planarconfig not in (1, 2):
        yield f"PlanarConfiguration {page.planarconfig}"


def _refusals_of_samples(page: tifffile.TiffPage) -> Iterator[str]:
    if _PHOTOMETRIC not in page.tags:
        # tifffile takes gray then, whatever the samples are
        yield "no statement of its kind of color (tag 262)"
    elif int(page.photometric) not in COLOR_SAMPLES:
        yield f"colors of kind {getattr(page.photometric, 'name', page.photometric)}"
    if page.photometric == INKS and page.tags.valueof(_INK_SET, default=1) != 1:
        yield "inks other than CMYK"
    stated = page.tags.valueof(_SAMPLE_FORMAT, default=1)
    formats = stated if isinstance(stated, tuple) else (stated,)
    for number, name in _UNSUPPORTED_FORMATS.items():
        # their range is not known: floats are in use from 0 to 1, to 255 and to others
        if number in formats:
            yield f"{name} samples"
    bits = page.bitspersample
    if not isinstance(bits, int) or not 1 <= bits <= 16:
        yield f"{bits} bits a sample"


def _refusals_of_compression(page: tifffile.TiffPage) -> Iterator[str]:
    compression = int(page.compression)
    if compression not in _COMPRESSIONS:
        yield f"compression {getattr(page.compression, 'name', page.compression)}"
    if page.photometric == YCBCR and (compression != _JPEG or page.planarconfig != 1):
        # JPEG's decoder turns it into RGB; otherwise color is stored at another resolution
        yield "YCbCr that is not compressed as JPEG"
    expected = COLOR_SAMPLES.get(int(page.photometric))
    if compression == _JPEG and page.samplesperpixel != expected:
        yield "extra samples compressed as JPEG"
    predictor = int(page.tags.valueof(_PREDICTOR, default=1))
    if predictor not in (1, 2):
        yield f"predictor {predictor}, for other kinds of samples"
    elif predictor == 2 and (
        compression not in _WITH_PREDICTOR or page.bitspersample not in (8, 16)
    ):
        # libtiff ignores it there, other programs apply it
        yield "differences (predictor 2) of samples that cannot have any"


def segment_size(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return the height and width of a strip or tile."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def check_segments(page: tifffile.TiffPage, file_bytes: int) -> None:
    """Check that every strip or tile lies in the file and says no other size than the page.

    Raises:
        UserError: The file is cut short or damaged. tifffile would fill missing segments.
    """
    if not page.dataoffsets or len(page.dataoffsets) != len(page.databytecounts):
        raise UserError("damaged: strips or tiles are missing")
    embedded = {_JPEG: "JPEG", _WEBP: "WEBP"}.get(int(page.compression))
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if not length or not offset:
            raise UserError("damaged: a strip or tile is empty")
        if offset + length > file_bytes:
            raise UserError(
                f"damaged: a strip or tile ends at byte {offset + length} of {file_bytes}, "
                "the file is cut short"
            )
        if embedded is not None:
            page.parent.filehandle.seek(offset)
            _check_embedded(page, embedded, page.parent.filehandle.read(length))


def _check_embedded(page: tifffile.TiffPage, format_name: str, content: bytes) -> None:
    # decoders of embedded images allocate memory for the size that these state
    height, width = segment_size(page)
    with PillowImage.open(io.BytesIO(content), formats=(format_name,)) as image:
        if image.width > width or image.height > height:
            raise UserError(
                f"damaged: {format_name} data of {image.width} x {image.height} pixels "
                f"in a strip or tile of {width} x {height}"
            )
