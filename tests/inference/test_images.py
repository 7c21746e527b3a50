"""Image files of every kind, as arrays or as a reason."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from dhp_sr.inference.images import allow_large, decoded_bytes, read
from dhp_sr.utils.errors import UserError

PLENTY = 2**28


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
    allow_large()


def saved(folder, pixels, name="a.png", mode=None, **options):
    picture = Image.fromarray(pixels.squeeze())
    (picture.convert(mode) if mode else picture).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_lossless_formats(tmp_path, noise, name):
    pixels = noise(7, 5, 3)
    options = {"lossless": True} if name.endswith("webp") else {}
    found = read(saved(tmp_path, pixels, name, **options), PLENTY)
    assert np.array_equal(found.colours, pixels) and found.alpha is None


@pytest.mark.parametrize(
    ("mode", "channels", "alpha"),
    [
        ("1", 1, False),
        ("L", 1, False),
        ("LA", 1, True),
        ("P", 3, False),
        ("RGBA", 3, True),
        ("RGB", 3, False),
    ],
)
def test_kinds_of_png(tmp_path, noise, mode, channels, alpha):
    path = saved(tmp_path, noise(6, 4, 3), mode=mode)
    found = read(path, PLENTY)
    assert found.colours.shape == (6, 4, channels) and (found.alpha is not None) == alpha
    expected = Image.open(path).convert("L" if channels == 1 else "RGB")
    assert np.array_equal(found.colours.squeeze(), np.array(expected))


def test_a_transparent_colour_becomes_alpha(tmp_path, noise):
    for mode, transparent in (("L", 0), ("RGB", (0, 0, 0)), ("P", 0)):
        pixels = noise(6, 4, 3)
        pixels[0, 0] = 0
        found = read(saved(tmp_path, pixels, mode=mode, transparency=transparent), PLENTY)
        assert found.alpha is not None and found.alpha.max() == 255, mode


@pytest.mark.parametrize(
    ("name", "channels"), [(n, c) for n in ("a.png", "a.tiff") for c in (1, 3, 4)]
)
def test_sixteen_bits(tmp_path, noise, name, channels):
    pixels = noise(6, 4, channels, dtype=np.uint16)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    cv2.imwrite(str(tmp_path / name), pixels[:, :, order])
    found = read(tmp_path / name, PLENTY)
    assert found.colours.dtype == np.uint16 and np.array_equal(
        found.colours, pixels[:, :, : min(channels, 3)]
    )
    assert (found.alpha is None) == (channels < 4)


def test_sixteen_bits_big_endian(tmp_path, noise):
    pixels = noise(6, 4, dtype=np.uint16)
    Image.fromarray(pixels.astype(">u2")).save(tmp_path / "a.tiff")
    assert np.array_equal(read(tmp_path / "a.tiff", PLENTY).colours[:, :, 0], pixels)


def test_cmyk_becomes_rgb(tmp_path, noise):
    found = read(saved(tmp_path, noise(16, 16, 3), "a.jpg", mode="CMYK"), PLENTY)
    assert found.colours.shape == (16, 16, 3) and found.icc is None
    assert np.array_equal(found.colours, np.array(Image.open(tmp_path / "a.jpg").convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_exif_says(tmp_path, noise, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, noise(6, 4, 3), "a.png", exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(read(path, PLENTY).colours, expected)


def test_colour_profiles_are_kept(tmp_path, noise):
    assert read(saved(tmp_path, noise(4, 4, 3), icc_profile=b"profile"), PLENTY).icc == b"profile"


def test_the_content_counts_not_the_suffix(tmp_path, noise):
    pixels = noise(5, 5, 3)
    saved(tmp_path, pixels).rename(tmp_path / "a.jpg")
    assert np.array_equal(read(tmp_path / "a.jpg", PLENTY).colours, pixels)


def test_one_frame_of_a_gif_is_a_picture(tmp_path, noise):
    assert read(saved(tmp_path, noise(5, 4), "a.gif"), PLENTY).colours.shape == (5, 4, 3)


def animated(folder, noise, name):
    first, *others = [Image.fromarray(noise(4, 4, 3, seed=seed)) for seed in range(3)]
    first.save(folder / name, save_all=True, append_images=others)
    return folder / name


def bomb(path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def refused(path, most=PLENTY):
    with pytest.raises(UserError) as found:
        read(path, most)
    return str(found.value)


def test_what_is_no_image_says_what_it_is(tmp_path):
    path = tmp_path / "a.png"
    assert "no such file" in refused(path)
    path.write_bytes(b"")
    assert "empty (0 bytes)" in refused(path)
    path.write_text("hello, world, this is a text")
    assert "hello, world" in refused(path) and "not an image" in refused(path)
    path.unlink()
    path.mkdir()
    assert "a folder" in refused(path)
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert "gone.png" in refused(tmp_path / "b.png")
    os.mkfifo(tmp_path / "c.png")
    assert "not a regular file" in refused(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, noise, name, kept):
    path = saved(tmp_path, noise(64, 64, 3), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert refused(path)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_truncated_deep_files_are_refused(tmp_path, noise, name):
    path = tmp_path / name
    cv2.imwrite(str(path), noise(64, 64, 3, dtype=np.uint16))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert refused(path)


def test_a_flipped_byte_of_a_png_is_found(tmp_path, noise):
    path = saved(tmp_path, noise(64, 64, 3), compress_level=0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_several_frames_are_refused(tmp_path, noise, name):
    reason = refused(animated(tmp_path, noise, name))
    assert ("3 pages" if name == "a.tiff" else "3 frames") in reason


def test_a_huge_declared_size_is_refused_before_it_is_decoded(tmp_path):
    path = bomb(tmp_path / "a.png", 60000)
    assert "60000 x 60000 pixels would take 10.1 GiB" in refused(path)
    assert decoded_bytes(path) == 60000**2 * 3
    assert "damaged" in refused(bomb(tmp_path / "b.png", 100))
    assert decoded_bytes(tmp_path / "none") == 0


def test_floats_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    assert "kind F" in refused(tmp_path / "a.tiff")


def test_one_pixel(tmp_path, noise):
    Image.fromarray(noise(1, 1, 3)).save(tmp_path / "a.bmp")
    assert read(tmp_path / "a.bmp", PLENTY).colours.shape == (1, 1, 3)
