"""Image files as arrays: one decoder for training, scoring, data preparation and inference.

Start with `decode.py`; `formats.py` lists what is read and what each format of results keeps.
"""

from dhp_sr.images.decode import read_header, read_image
from dhp_sr.images.image import (
    Image,
    ImageHeader,
    ImageLimits,
    ImageTooLargeError,
    Pixels,
    UnsupportedImageError,
)

__all__ = [
    "Image",
    "ImageHeader",
    "ImageLimits",
    "ImageTooLargeError",
    "Pixels",
    "UnsupportedImageError",
    "read_header",
    "read_image",
]
