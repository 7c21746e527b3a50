"""The decoder of image files: every command sees the same pixels of the same file.

- Color is 8 or 16 bits a channel, gray or RGB. Palettes become RGB; CMYK becomes RGB without a
  profile, R = (1 - C)(1 - K). Alpha is separate and never premultiplied.
- The orientation that EXIF or TIFF states is applied, once: results carry no such tag, and
  viewers show the image turned. Training, scoring and inference all see it like that.
- ICC profiles and PNG's gamma are carried along, not applied.
- Animations, files of several pages and samples without a fixed range (signed, floating-point)
  are refused with the reason.
- Only the formats of `formats.INPUT_FORMATS` are opened, by their first bytes, whatever the name
  of the file; the memory that a header implies is checked before anything is decoded.
"""

import io
import logging
import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image as PillowImage

from dhp_sr.images.formats import INPUT_FORMATS, SIGNATURE_BYTES
from dhp_sr.images.image import (
    EncodedImage,
    Image,
    ImageHeader,
    ImageLimits,
    ImageTooLargeError,
    UnsupportedImageError,
)
from dhp_sr.images.netpbm import open_netpbm
from dhp_sr.images.pillow import open_with_pillow
from dhp_sr.images.png import open_png
from dhp_sr.images.samples import apply_orientation
from dhp_sr.images.tiff import open_tiff
from dhp_sr.utils.errors import UserError

_NO_LOG = logging.NullHandler()


def read_header(source: Path | bytes) -> ImageHeader:
    """Read the facts of an image file without decoding its pixels.

    Args:
        source: A file, or the contents of a file.

    Raises:
        UserError: There is no such file, or it is no image, damaged or not supported. The message
            does not name the file.
    """
    with _opened(source) as encoded:
        return encoded.header


def read_image(source: Path | bytes, limits: ImageLimits) -> Image:
    """Decode an image file.

    Args:
        source: A file, or the contents of a file.
        limits: Checked by the header before anything is decoded.

    Returns:
        The image, turned as its orientation says.

    Raises:
        UserError: As for `read_header`.
        ImageTooLargeError: A limit is exceeded.
    """
    with _opened(source) as encoded:
        header = encoded.header
        header.check(limits)
        pixels = apply_orientation(encoded.decode(), header.orientation)
    color = pixels[:, :, : header.channels]
    alpha = None
    if header.alpha:
        alpha = pixels[:, :, -1]
    return Image(color, alpha, header.color_info, header.dropped)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[EncodedImage]:
    """Open a file with the decoder of its format; what a decoder raises becomes a UserError."""
    for library in ("imagecodecs", "tifffile"):  # they log oddities that do no harm
        logging.getLogger(library).addHandler(_NO_LOG)
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # of Pillow about metadata that it cannot read
            file: BinaryIO
            if isinstance(source, bytes):
                file = io.BytesIO(source)
            else:
                check_regular_file(source)
                file = stack.enter_context(open(source, "rb"))
            # the file stays open while the caller decodes
            yield _open_by_signature(file)
    except UserError:
        raise
    except PillowImage.DecompressionBombError as error:
        raise ImageTooLargeError(str(error)) from error
    except MemoryError as error:
        raise UserError("not enough memory to decode it") from error
    except OSError as error:
        # Pillow raises OSError for damage, too
        raise UserError(f"damaged, or it cannot be read: {error.strerror or error}") from error
    except Exception as error:  # four libraries raise anything at all on damaged data
        raise UserError(f"damaged: {str(error)[:200] or type(error).__name__}") from error


def check_regular_file(path: Path) -> None:
    """Check that a path leads to a file that can be read; a pipe would be waited for.

    Raises:
        UserError: It does not; the message says what is there and does not name the path.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"a link to a file that is not there ({path.readlink()})")
    if not path.exists():
        raise UserError("there is no such file")
    if path.is_dir():
        raise UserError("a folder, though it is named like an image")
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError("not a regular file")


def _open_by_signature(file: BinaryIO) -> EncodedImage:
    # The name plays no role: many files are named after another format than their contents.
    head = file.read(SIGNATURE_BYTES)
    file.seek(0)
    if not head:
        raise UserError("the file is empty (0 bytes)")
    for input_format in INPUT_FORMATS:
        if not input_format.matches(head):
            continue
        if input_format.name == "PNG":
            return open_png(file)
        if input_format.name == "TIFF":
            return open_tiff(file)
        if input_format.name == "PPM":
            return open_netpbm(file)
        return open_with_pillow(file, input_format.name)
    known = ", ".join(input_format.name for input_format in INPUT_FORMATS)
    raise UnsupportedImageError(f"not an image of a known kind ({known}); it begins with {head!r}")
