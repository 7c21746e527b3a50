"""Decoding: every supported kind of file, every kind of damage."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dhp_sr.data.images import (
    crop_to_multiple,
    decode,
    encode_png,
    header_size,
    rgb_to_grey,
    to_color,
)
from dhp_sr.utils.errors import UserError


def stored(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(picture, channels):
    image = picture(9, 7, channels)
    data = encode_png(image)
    np.testing.assert_array_equal(decode(data, "x.png"), image)
    assert header_size(data, "x.png") == (9, 7, channels)


def test_alpha_is_dropped_and_colours_stay(picture):
    rgba = picture(6, 5, 4)
    data = stored(Image.fromarray(rgba), "PNG")
    np.testing.assert_array_equal(decode(data, "x.png"), rgba[:, :, :3])
    assert header_size(data, "x.png") == (6, 5, 3)


@pytest.mark.parametrize("transparency", [None, bytes(range(200))])
def test_palette_becomes_rgb(picture, transparency):
    palette = Image.fromarray(picture(6, 5)).quantize(200)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(
        decode(stored(palette, "PNG", **options), "x"), np.asarray(palette.convert("RGB"))
    )


def test_bilevel_and_grey_alpha_become_grey(picture):
    grey = picture(6, 5, 1)[:, :, 0]
    assert set(np.unique(decode(stored(Image.fromarray(grey > 99), "PNG"), "x"))) <= {0, 255}
    with_alpha = np.stack([grey, 255 - grey], axis=2)
    np.testing.assert_array_equal(
        decode(stored(Image.fromarray(with_alpha), "PNG"), "x")[:, :, 0], grey
    )


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_16_bits_are_refused(shape, tmp_path):
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), np.full(shape, 999, np.uint16))
    for read in (
        lambda: decode(path.read_bytes(), str(path)),
        lambda: header_size(path, str(path)),
    ):
        with pytest.raises(
            UserError,
            match=r"deep\.png: expected an 8-bit grey or RGB image, found PNG.*convert it",
        ):
            read()


def test_cmyk_is_refused(picture):
    with pytest.raises(UserError, match="found JPEG with mode CMYK"):
        decode(stored(Image.fromarray(picture(8, 8)).convert("CMYK"), "JPEG"), "x.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_refused(picture, kind, kept):
    data = stored(Image.fromarray(picture(64, 64)), kind)
    with pytest.raises(
        UserError, match=r"cut\.img: expected a whole image, found a damaged one or none.*again"
    ):
        decode(data[: int(len(data) * kept)], "cut.img")


def test_damage_inside_a_png_is_refused(picture):
    data = bytearray(encode_png(picture(64, 64)))
    data[len(data) // 2] ^= 1
    with pytest.raises(UserError, match="damaged"):
        decode(bytes(data), "x.png")


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_refused(data):
    for read in (decode, header_size):
        with pytest.raises(UserError, match="damaged one or none"):
            read(data, "x.png")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.png: expected an image file, found none"):
        header_size(tmp_path / "absent.png", str(tmp_path / "absent.png"))


def test_colours(picture):
    grey, rgb = picture(4, 5, 1), picture(4, 5, 3)
    np.testing.assert_array_equal(to_color(grey, "rgb"), np.concatenate([grey] * 3, axis=2))
    assert to_color(rgb, "rgb") is rgb
    assert to_color(grey, "grey") is grey
    assert to_color(rgb, "grey").shape == (4, 5, 1)


def test_luma_of_grey_colours_is_the_grey_itself():
    levels = np.arange(256, dtype=np.uint8)[None, :, None]
    np.testing.assert_array_equal(rgb_to_grey(np.repeat(levels, 3, axis=2)), levels)


@pytest.mark.parametrize(("grey", "colour"), [("test001", "101085"), ("test010", "109053")])
def test_luma_equals_published_grey_images(shared_data, grey, colour):
    rgb = decode((shared_data / "BSDS500" / "val" / f"{colour}.jpg").read_bytes(), colour)
    np.testing.assert_array_equal(
        rgb_to_grey(rgb), decode((shared_data / "BSD68" / f"{grey}.png").read_bytes(), grey)
    )


def test_crop_to_multiple(picture):
    image = picture(11, 9)
    np.testing.assert_array_equal(crop_to_multiple(image, 4), image[:8, :8])
    np.testing.assert_array_equal(crop_to_multiple(image, 1), image)
