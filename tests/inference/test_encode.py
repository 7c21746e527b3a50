"""Results as files: every row of the table of formats, read by decoders of the tests' own."""

import errno
import io
import struct

import numpy as np
import pytest
from PIL import Image as PillowImage
from spec_files import read_png

from dhp_sr.images import ImageLimits, read_image
from dhp_sr.images.formats import OUTPUT_FORMATS, output_format_of
from dhp_sr.images.image import ColorInfo
from dhp_sr.inference.encode import Result, write_result
from dhp_sr.utils.errors import UserError

PLENTY = 2**28
ROWS = [
    (name, depth, channels, alpha)
    for name in OUTPUT_FORMATS
    for depth in (8, 16)
    for channels in (1, 3)
    for alpha in (False, True)
]
CHUNKS = (
    (b"gAMA", struct.pack(">I", 100000)),
    (b"cHRM", struct.pack(">8I", *range(1, 9))),
)


def write(folder, result, pixels):
    path = folder / f"a.{result.format}"
    write_result(path, result, [pixels[:3], pixels[3:]])
    return path


def result_of(name, pixels, alpha, color_info=None):
    height, width, channels = pixels.shape
    depth = 8 * pixels.itemsize
    return Result(name, height, width, channels - alpha, alpha, depth, color_info or ColorInfo())


def test_large_tiffs_have_positions_of_64_bits(tmp_path, noise, monkeypatch):
    """Compressed as well: noise does not shrink."""
    pixels = noise(64, 64, 3)
    for limit, signature in ((pixels.nbytes, b"II*\0"), (pixels.nbytes - 1, b"II+\0")):
        monkeypatch.setattr("dhp_sr.inference.encode._MAX_TIFF_BYTES", limit)
        path = write(tmp_path, result_of("tiff", pixels, False), pixels)
        assert path.read_bytes()[:4] == signature
        assert np.array_equal(read_image(path, ImageLimits(PLENTY)).color, pixels)


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_a_disk_that_takes_only_a_part_is_an_error(tmp_path, noise, name):
    """The last block may be cut off in the middle, which the system reports as success."""
    resource = pytest.importorskip("resource")
    pixels = noise(64, 64, 3)
    length = write(tmp_path, result_of(name, pixels, False), pixels).stat().st_size
    kind = resource.RLIMIT_FSIZE
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (length - 10, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(tmp_path / "full", result_of(name, pixels, False), pixels)
    finally:
        resource.setrlimit(kind, before)
    assert caught.value.errno == errno.EFBIG
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize(("name", "depth", "channels", "alpha"), ROWS)
def test_every_row_of_the_table(tmp_path, noise, name, depth, channels, alpha):
    """The file has what the table says is kept, and the loss of the rest is reported."""
    dtype = np.uint16 if depth == 16 else np.uint8
    pixels = noise(8, 6, channels + alpha, dtype=dtype)
    if name in ("jpg", "webp"):
        pixels[:, :, :channels] = 90 * (257 if depth == 16 else 1)  # lossy, but not for one color
    if alpha and name == "webp":
        pixels[:, :, -1] |= 1  # colors of invisible pixels are not kept
    info = ColorInfo(b"a profile", CHUNKS)
    result = result_of(name, pixels, alpha, info)
    path = write(tmp_path, result, pixels)
    kept = OUTPUT_FORMATS[name].kept.get(depth) or OUTPUT_FORMATS[name].kept[8]
    profile_kept = kept.gray_profile if channels == 1 else kept.rgb_profile
    expected_losses = {
        "transparency": alpha and not kept.alpha,
        "16 bits a channel": depth not in OUTPUT_FORMATS[name].kept,
        "the color profile": not profile_kept,
        "gamma or color space of a PNG": not kept.png_chunks,
    }
    assert set(result.losses()) == {loss for loss, lost in expected_losses.items() if lost}

    image = read_image(path, ImageLimits(PLENTY))
    written_depth = depth if depth in OUTPUT_FORMATS[name].kept else 8
    assert image.depth == written_depth
    expected = pixels if written_depth == depth else np.rint(pixels / 257)
    color = expected[:, :, :channels]
    if channels == 1 and not kept.gray:
        color = np.repeat(color, 3, axis=2)
    assert image.color.shape == color.shape
    assert np.abs(image.color.astype(int) - color).max() <= (0 if kept.exact else 2)
    assert (image.alpha is not None) == (alpha and kept.alpha)
    if image.alpha is not None:
        np.testing.assert_array_equal(image.alpha, expected[:, :, -1])
    assert image.color_info.icc == (b"a profile" if profile_kept else None)
    assert image.color_info.png_chunks == (CHUNKS if kept.png_chunks else ())


def test_chunks_that_say_srgb_are_no_loss():
    """Files without any are taken as sRGB."""
    srgb = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    chunks = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", *srgb)),
        (b"sRGB", b"\0"),
        (b"cICP", bytes([1, 13, 0, 1])),
    ]
    result = Result("jpg", 8, 8, 3, False, 8, ColorInfo(None, tuple(chunks)))
    assert result.losses() == []
    linear = ColorInfo(None, (chunks[1], (b"gAMA", struct.pack(">I", 100000))))
    assert Result("jpg", 8, 8, 3, False, 8, linear).losses() != []


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_by_its_specification(tmp_path, noise, channels, depth):
    pixels = noise(8, 6, channels, dtype=np.uint16 if depth == 16 else np.uint8)
    info = ColorInfo(None, CHUNKS)
    path = write(tmp_path, result_of("png", pixels, channels in (2, 4), info), pixels)
    samples, found_depth, _, chunks = read_png(path.read_bytes())
    assert found_depth == depth and chunks[b"gAMA"] == CHUNKS[0][1]
    np.testing.assert_array_equal(samples, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_is_read_by_others(tmp_path, noise, channels):
    """By libtiff (in Pillow), which knows the tags alone."""
    pixels = noise(8, 6, channels)
    path = write(tmp_path, result_of("tiff", pixels, channels in (2, 4)), pixels)
    with PillowImage.open(io.BytesIO(path.read_bytes())) as opened:
        assert opened.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        np.testing.assert_array_equal(np.array(opened).reshape(pixels.shape), pixels)


def test_a_failure_leaves_nothing(tmp_path, noise):
    def rows():
        yield noise(4, 6, 3)
        raise ValueError("the network stopped")

    for name in ("png", "tiff"):
        with pytest.raises(ValueError, match="the network stopped"):
            write_result(tmp_path / f"a.{name}", Result(name, 8, 6, 3, False, 8), rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "side", "fact"),
    [("webp", 20000, "16383"), ("jpg", 70000, "65500"), ("tiff", 60000, "--memory")],
)
def test_sizes_that_a_format_cannot_hold_are_refused_before_the_work(name, side, fact):
    with pytest.raises(UserError, match=f"{fact}.*--format png"):
        Result(name, side, side, 3, False, 8).check(PLENTY)
    Result("png", side, side, 3, False, 8).check(PLENTY)


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".JPEG", "jpg"),
        (".tif", "tiff"),
        (".WebP", "webp"),
        (".gif", "png"),
        (".ppm", "png"),
        ("", "png"),
    ],
)
def test_formats_of_suffixes(suffix, name):
    assert output_format_of(suffix) == name
