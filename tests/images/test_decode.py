"""Files that are opened, and their limits; JPEG, BMP, WebP, GIF and Netpbm."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from spec_files import bmp, bmp_file, exif, netpbm, png, png_chunk, save, shown, tiff

from dhp_sr.images import (
    ImageLimits,
    ImageTooLargeError,
    UnsupportedImageError,
    read_header,
    read_image,
)
from dhp_sr.images.formats import SUFFIXES
from dhp_sr.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ImageLimits(2**28)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stored(pixels, format_name, mode=None, **options):
    pil_image, stream = PillowImage.fromarray(pixels.squeeze()), io.BytesIO()
    (pil_image.convert(mode) if mode else pil_image).save(stream, format_name, **options)
    return stream.getvalue()


def color_of(data):
    return read_image(data, LIMITS).color


def test_bmp():
    pixels = draw(7, 5, 3)
    np.testing.assert_array_equal(color_of(bmp(pixels)), pixels)
    gray = draw(7, 5)
    np.testing.assert_array_equal(color_of(stored(gray, "BMP"))[:, :, 0], gray)
    few = stored(pixels, "BMP", mode="P")
    assert color_of(few).shape == (7, 5, 3)


@pytest.mark.parametrize("layout", ["555", "565"])
def test_few_bits_of_a_bmp_are_rounded(layout):
    bits = np.array([int(digit) for digit in layout])
    values = np.stack([draw(7, 5, seed=seed) % 2**n for seed, n in enumerate(bits)], axis=2)
    red, green, blue = (values[:, :, [channel]].astype(int) for channel in range(3))
    words = red << (bits[1] + bits[2]) | green << bits[2] | blue
    stored_bytes = np.concatenate([words & 255, words >> 8], axis=2)
    data = bmp_file(stored_bytes, 16)
    if layout == "565":
        masks = struct.pack("<4I", 0xF800, 0x7E0, 0x1F, 0)
        data = bmp_file(stored_bytes, 16, compression=3, masks=masks)
    np.testing.assert_array_equal(color_of(data), np.rint(values / (2**bits - 1) * 255))


def test_entries_that_the_palette_of_a_bmp_does_not_have_are_refused():
    data = bmp_file(np.full((4, 4, 1), 9), 8, palette=np.zeros((4, 3), int))
    with pytest.raises(UserError, match="entry 9 of a palette of"):
        read_image(data, LIMITS)


def test_the_profile_of_a_bmp_is_said_to_be_left_out():
    data = bytearray(bmp_file(draw(4, 4, 3), 24, masks=bytes(84)))
    data[14:18] = struct.pack("<I", 124)
    assert read_header(bytes(data)).dropped == ()
    data[70:74] = b"DEBM"
    assert "profile" in " ".join(read_header(bytes(data)).dropped)


@pytest.mark.parametrize(
    ("marker", "bits", "reason"),
    [(0xC1, 12, "12 bits"), (0xC3, 16, "lossless"), (0xF7, 8, "JPEG-LS")],
)
def test_other_kinds_of_jpeg_are_refused_with_the_reason(marker, bits, reason):
    data = bytearray(stored(draw(16, 16, 3), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 1], data[start + 4] = marker, bits
    with pytest.raises(UnsupportedImageError, match=reason):
        read_header(bytes(data))


def test_damage_behind_the_signature_names_the_format():
    with pytest.raises(UserError, match="begins like BMP"):
        read_header(b"BM" + bytes(3))


def test_webp_keeps_alpha_and_profile():
    pixels = draw(7, 5, 4)
    data = stored(pixels, "WEBP", lossless=True, exact=True, icc_profile=b"a profile")
    image = read_image(data, LIMITS)
    np.testing.assert_array_equal(image.color, pixels[:, :, :3])
    np.testing.assert_array_equal(image.alpha, pixels[:, :, 3])
    assert image.color_info.icc == b"a profile"


def test_cmyk_jpeg():
    data = stored(draw(16, 16, 3), "JPEG", mode="CMYK", icc_profile=b"a profile of inks")
    inks = np.array(PillowImage.open(io.BytesIO(data))) / 255
    image = read_image(data, LIMITS)
    expected = np.rint((1 - inks[:, :, :3]) * (1 - inks[:, :, 3:]) * 255)
    np.testing.assert_array_equal(image.color, expected)
    assert image.color_info.icc is None and image.dropped


def test_gif_of_one_frame():
    indices = draw(9, 8) % 5
    palette = draw(5, 3, seed=1)
    pil_image = PillowImage.frombytes("P", (8, 9), indices.tobytes())
    pil_image.putpalette(palette.tobytes())
    for options in ({}, {"transparency": 3}):
        stream = io.BytesIO()
        pil_image.save(stream, "GIF", optimize=False, **options)
        image = read_image(stream.getvalue(), LIMITS)
        opaque = indices != 3 if options else np.ones_like(indices, bool)
        np.testing.assert_array_equal(image.color[opaque], palette[indices][opaque])
        assert (image.alpha is not None) == bool(options)
        if options:
            np.testing.assert_array_equal(image.alpha, np.where(opaque, 255, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "WEBP"])
def test_orientation_is_applied_once(format_name, orientation):
    pixels = draw(16, 24, 3)
    options = {"lossless": True} if format_name == "WEBP" else {"quality": 95}
    plain = color_of(stored(pixels, format_name, **options))
    data = stored(pixels, format_name, exif=b"Exif\0\0" + exif(orientation), **options)
    np.testing.assert_array_equal(color_of(data), shown(plain, orientation))
    assert read_header(data).shape == shown(plain, orientation).shape


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("largest", [1, 15, 100, 255, 256, 1000, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm(channels, largest, binary):
    values = np.random.default_rng(0).integers(0, largest + 1, (6, 5, channels))
    values[0, 0] = largest
    peak = 255 if largest < 256 else 65535
    image = read_image(netpbm(values, largest, binary), LIMITS)
    assert image.depth == (8 if largest < 256 else 16)
    np.testing.assert_array_equal(image.color, np.rint(values / largest * peak))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (netpbm(np.full((2, 2, 1), 9), 7), "largest is 7"),
        (netpbm(np.full((2, 2, 1), 9), 15)[:-1], "cut short"),
        (netpbm(np.full((2, 2, 1), 9), 15, binary=False)[:-3], "damaged"),
        (b"P5 2 2 70000 aaaaaaaa", "70000"),
        (b"P5 2 x 255 aaaa", "damaged"),
        (netpbm(np.full((2, 2, 3), 9), 15) * 2, "several images"),
        (b"P4 8 1 \xff", "not an image of a known kind"),
    ],
)
def test_damaged_and_other_netpbm(data, reason):
    with pytest.raises(UserError, match=reason):
        read_image(data, LIMITS)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff"])
def test_the_content_counts_not_the_name(tmp_path, name):
    pixels = draw(5, 4, 3)
    for data in (png(pixels, 8, 2), bmp(pixels), tiff(pixels, 8, 2), netpbm(pixels, 255)):
        path = save(tmp_path, name, data)
        np.testing.assert_array_equal(read_image(path, LIMITS).color, pixels)


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
    "PDF": b"%PDF-1.4\n",
    "PSD": b"8BPS\0\1" + bytes(20),
    "ICO": b"\0\0\1\0\1\0" + bytes(20),
    "FLI": b"\0\0\0\0\x11\xaf" + bytes(122),
    "DDS": b"DDS " + bytes(124),
    "QOI": b"qoif" + bytes(20),
    "J2K": b"\xff\x4f\xff\x51" + bytes(40),
    "PFM": b"Pf 2 2 -1.0\n" + bytes(16),
    "PBM": b"P1\n2 2\n1 0 0 1\n",
    "XBM": b"#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0xff};\n",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", SUFFIXES[::3])
def test_other_formats_are_never_opened(tmp_path, monkeypatch, name, suffix):
    """Pillow would hand an EPS file, whatever its name, to Ghostscript."""

    def no_program(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", no_program)
    monkeypatch.setattr(os, "system", no_program)
    path = save(tmp_path, f"a{suffix}", OTHERS[name])
    for read in (read_header, lambda path: read_image(path, LIMITS)):
        with pytest.raises(UnsupportedImageError, match="not an image of a known kind"):
            read(path)


def test_what_is_no_image_says_what_it_is(tmp_path):
    for data, reason in ((b"", "empty"), (b"hello, world, a text", "hello, world")):
        with pytest.raises(UserError, match=reason):
            read_header(save(tmp_path, "a.png", data))
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {"none": "no such file", "link": "gone.png", "folder": "folder", "pipe": "regular"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason):
            read_header(tmp_path / f"{name}.png")


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.9])
def test_files_cut_short_are_refused(format_name, kept):
    data = stored(draw(64, 64, 3), format_name)
    with pytest.raises(UserError):
        read_image(data[: int(kept * len(data))], LIMITS)


@pytest.mark.parametrize("format_name", ["GIF", "WEBP"])
def test_animations_are_refused(format_name):
    first, *others = [PillowImage.fromarray(draw(4, 4, 3, seed=seed)) for seed in range(3)]
    stream = io.BytesIO()
    first.save(stream, format_name, save_all=True, append_images=others)
    with pytest.raises(UnsupportedImageError, match="3 frames"):
        read_header(stream.getvalue())


def test_several_views_of_a_photograph_give_the_first():
    first, second = [PillowImage.fromarray(draw(16, 16, 3, seed=seed)) for seed in range(2)]
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    alone = io.BytesIO()
    first.save(alone, "JPEG")
    np.testing.assert_array_equal(color_of(stream.getvalue()), color_of(alone.getvalue()))


def large_headers(side):
    """Small files whose headers promise a large image."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")]
    signature = png(draw(1, 1, 1), 8, 0)[:8]
    whole = bytearray(bmp(draw(2, 2, 3)))
    whole[18:26] = struct.pack("<ii", side, side)
    sides = {256: (4, [side]), 257: (4, [side]), 278: (4, [side])}
    return {
        "PNG": signature + b"".join(png_chunk(*chunk) for chunk in chunks),
        "BMP": bytes(whole),
        "TIFF": tiff(draw(2, 2, 3), 8, 2, compression=8, tags=sides),
        "GIF": b"GIF89a" + struct.pack("<HH", side, side) + stored(draw(2, 2), "GIF")[10:],
    }


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF", "GIF"])
def test_large_images_are_refused_by_their_header(format_name):
    data = large_headers(20000)[format_name]
    for limits in (ImageLimits(2**28), ImageLimits(2**60, max_pixels=10**8)):
        with pytest.raises(ImageTooLargeError, match=r"20000 x 20000|400000000"):
            read_image(data, limits)


def test_limits_hold_exactly():
    data = png(draw(10, 10, 3), 8, 2)
    needed = read_header(data).decode_bytes
    assert needed == len(data) + 300
    assert read_image(data, ImageLimits(needed, max_pixels=100)).color.shape == (10, 10, 3)
    for limits in (ImageLimits(needed - 1), ImageLimits(needed, max_pixels=99)):
        with pytest.raises(ImageTooLargeError):
            read_image(data, limits)


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from dhp_sr.images import ImageLimits, read_header, read_image
small, path = map(Path, sys.argv[1:])


def peak_kilobytes():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


read_image(small, ImageLimits(2**40))  # libraries are loaded
before = peak_kilobytes()
image = read_image(path, ImageLimits(2**40))
grown = peak_kilobytes() - before
print(grown * 1024, read_header(path).decode_bytes)
"""
SIDE = 3000


def of_many_pixels(kind, side):
    """A file that compresses well, so that its own size plays no role."""
    rows = np.arange(side, dtype=np.uint8)[:, None] // 2
    gray = np.broadcast_to(rows, (side, side))
    rgb = np.repeat(gray[:, :, None], 3, axis=2)
    deep = rgb.astype(np.uint16) * 257
    stream = io.BytesIO()
    if kind == "png16":
        return png(deep, 16, 2)
    if kind == "png gray":
        return png(gray[:, :, None], 8, 0)
    if kind == "jpeg progressive":
        return stored(rgb, "JPEG", progressive=True, subsampling=0)
    if kind == "jpeg cmyk":
        return stored(rgb, "JPEG", mode="CMYK")
    if kind == "ppm16":
        return netpbm(deep, 65535)
    if kind == "tiff16":
        tifffile.imwrite(stream, deep, compression="deflate", photometric="rgb")
        return stream.getvalue()
    if kind == "tiff planes":
        planes = np.ascontiguousarray(np.moveaxis(deep, -1, 0))
        tifffile.imwrite(stream, planes, planarconfig="separate", photometric="rgb")
        return stream.getvalue()
    return stored(rgb, kind)


KINDS = ["png16", "png gray", "JPEG", "jpeg progressive", "tiff16"]
SLOW_KINDS = ["jpeg cmyk", "ppm16", "tiff planes", "BMP", "WEBP", "GIF", "TIFF", "PNG"]


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW_KINDS)]
)
def test_the_memory_that_is_checked_is_the_memory_that_decoding_takes(tmp_path, kind):
    small = save(tmp_path, "small", of_many_pixels(kind, 16))
    path = save(tmp_path, "large", of_many_pixels(kind, SIDE))
    command = [sys.executable, "-c", MEASURE, str(small), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.returncode, done.stderr
    grown, promised = map(int, done.stdout.split())
    slack = 2**23
    assert grown <= promised + slack, "more than was checked"
    assert promised <= 2 * grown + slack, "far more was checked than is needed"


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_gives_an_image_or_a_message(seed):
    """Never another exception; the fault suite does the same on a larger scale."""
    generator = np.random.default_rng(seed)
    pixels = draw(24, 20, 3)
    files = [png(pixels, 8, 2), tiff(pixels, 8, 2, compression=5), bmp(pixels), netpbm(pixels, 255)]
    files += [stored(pixels, name) for name in ("JPEG", "WEBP", "GIF")]
    for data in files:
        for _ in range(30):
            damaged = bytearray(data)
            for position in generator.integers(0, min(len(data), 400), 3):
                damaged[position] = generator.integers(0, 256)
            try:
                image = read_image(bytes(damaged), ImageLimits(2**24))
            except UserError as error:
                assert str(error)
            else:
                assert image.color.ndim == 3
