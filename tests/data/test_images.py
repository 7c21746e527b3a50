"""Images for training and scoring: the same pixels as inference, 8 bits, within limits."""

import io
import subprocess
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from spec_files import ORIENTATION, RGB, SHORT, bmp, exif, netpbm, png, save, shown, tiff

from dhp_sr.data.images import (
    PREPARATION_LIMITS,
    TRAINING_LIMITS,
    crop_to_multiple,
    decode,
    encode_png,
    header_size,
    rgb_to_gray,
    to_color,
)
from dhp_sr.images import ImageLimits, ImageTooLargeError, UnsupportedImageError, read_image
from dhp_sr.utils.errors import UserError


def stored(image: PillowImage.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(make_image, channels):
    image = make_image(9, 7, channels)
    data = encode_png(image)
    np.testing.assert_array_equal(decode(data, "x.png"), image)
    assert header_size(data, "x.png") == (9, 7, channels)


def files_of_every_format(make_image) -> dict[str, bytes]:
    image = make_image(12, 10)
    pillow = PillowImage.fromarray(image)
    turned = exif(6)
    return {
        "gray png": png(image[:, :, :1], 8, 0),
        "alpha png": png(make_image(12, 10, 4), 8, 6),
        "4 bit png": png(image[:, :, :1] % 16, 4, 0),
        "palette png": stored(pillow.quantize(50), "PNG"),
        "turned png": png(image, 8, 2, [(b"eXIf", turned)]),
        "jpeg": stored(pillow, "JPEG"),
        "turned jpeg": stored(pillow, "JPEG", exif=b"Exif\0\0" + turned),
        "cmyk jpeg": stored(pillow.convert("CMYK"), "JPEG"),
        "webp": stored(pillow, "WEBP"),
        "bmp": bmp(image),
        "ppm": netpbm(image, 255),
        "pgm of 100 levels": netpbm(image[:, :, :1] % 101, 100),
        "tiff": tiff(image, 8, RGB),
        "turned tiff": tiff(image, 8, RGB, tags={ORIENTATION: (SHORT, [6])}, compression=5),
        "white-is-zero tiff": tiff(image[:, :, :1], 8, 0),
        "gif": stored(pillow.quantize(9), "GIF"),
    }


def test_training_sees_the_pixels_that_inference_sees(make_image):
    for name, data in files_of_every_format(make_image).items():
        expected = read_image(data, ImageLimits(2**28)).color
        found = decode(data, name)
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        assert header_size(data, name) == found.shape, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(make_image, orientation):
    image = make_image(12, 10)
    for data in (
        png(image, 8, 2, [(b"eXIf", exif(orientation))]),
        tiff(image, 8, RGB, tags={ORIENTATION: (SHORT, [orientation])}),
    ):
        np.testing.assert_array_equal(decode(data, "x"), shown(image, orientation))


def test_alpha_is_dropped_and_colors_stay(make_image):
    rgba = make_image(6, 5, 4)
    np.testing.assert_array_equal(decode(png(rgba, 8, 6), "x.png"), rgba[:, :, :3])
    assert header_size(png(rgba, 8, 6), "x.png") == (6, 5, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_refused_whatever_the_format(tmp_path, channels):
    """Nothing may be cut to 8 bits in silence."""
    pixels = np.full((6, 5, channels), 999, np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels.squeeze(), photometric="rgb" if channels == 3 else None)
    files = {
        "a.png": png(pixels, 16, 2 if channels == 3 else 0),
        "a.tiff": stream.getvalue(),
        "b.tiff": tiff(pixels, 12, RGB if channels == 3 else 1),
        "a.ppm": netpbm(pixels, 65535),
        "b.ppm": netpbm(pixels, 1000, binary=False),
    }
    for name, data in files.items():
        path = save(tmp_path, name, data)
        for read in (decode, header_size):
            with pytest.raises(UnsupportedImageError, match=rf"{name}: .*16 bits.*expected 8"):
                read(path, str(path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(make_image, kind, kept):
    data = stored(PillowImage.fromarray(make_image(64, 64)), kind)
    with pytest.raises(UserError, match=r"^cut\.img: "):
        decode(data[: int(len(data) * kept)], "cut.img")


def test_damage_inside_a_png_is_refused(make_image):
    data = bytearray(encode_png(make_image(64, 64)))
    data[len(data) // 2] ^= 1
    with pytest.raises(UserError, match=r"^x\.png: .*damaged"):
        decode(bytes(data), "x.png")


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_refused(data):
    for read in (decode, header_size):
        with pytest.raises(UserError, match=r"^x\.png: "):
            read(data, "x.png")


def test_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.png"
    with pytest.raises(UserError, match=r"absent\.png: .*no such file"):
        header_size(path, str(path))


def test_postscript_never_starts_a_program(tmp_path, monkeypatch):
    def no_program(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", no_program)
    path = save(tmp_path, "a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for read in (decode, header_size):
        with pytest.raises(UnsupportedImageError, match=r"a\.png: .*known kind"):
            read(path, str(path))


def test_large_images_are_refused_before_they_are_decoded():
    """The same limit of memory as `infer.py` by default, and one of pixels."""
    megapixels_177 = png(np.zeros((1, 1, 3), int), 8, 2)
    header = (13300).to_bytes(4, "big") * 2
    body = b"IHDR" + header + megapixels_177[24:29]
    checked = body + zlib.crc32(body).to_bytes(4, "big")
    large = megapixels_177[:12] + checked + megapixels_177[33:]
    for read in (decode, header_size):
        with pytest.raises(ImageTooLargeError, match=r"^a\.png: 13300 x 13300 .*prepare_data"):
            read(large, "a.png")
    assert header_size(large, "a.png", PREPARATION_LIMITS) == (13300, 13300, 3)
    assert TRAINING_LIMITS.max_bytes == PREPARATION_LIMITS.max_bytes == 2**30


def test_colors(make_image):
    gray, rgb = make_image(4, 5, 1), make_image(4, 5, 3)
    np.testing.assert_array_equal(to_color(gray, "rgb"), np.concatenate([gray] * 3, axis=2))
    assert to_color(rgb, "rgb") is rgb
    assert to_color(gray, "gray") is gray
    assert to_color(rgb, "gray").shape == (4, 5, 1)


def test_luma_of_gray_colors_is_the_gray_itself():
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    np.testing.assert_array_equal(rgb_to_gray(np.repeat(levels, 3, axis=2)), levels)


@pytest.mark.parametrize(("gray", "color"), [("test001", "101085"), ("test010", "109053")])
def test_luma_equals_published_gray_images(shared_data, gray, color):
    rgb = decode(shared_data / "BSDS500" / "val" / f"{color}.jpg", color)
    published = decode(shared_data / "BSD68" / f"{gray}.png", gray)
    np.testing.assert_array_equal(rgb_to_gray(rgb), published)


def test_crop_to_multiple(make_image):
    image = make_image(11, 9)
    np.testing.assert_array_equal(crop_to_multiple(image, 4), image[:8, :8])
    np.testing.assert_array_equal(crop_to_multiple(image, 1), image)
