"""Everything that a PNG can say, against files built from the specification."""

import struct
import zlib

import numpy as np
import pytest
from spec_files import PNG_SAMPLES, exif, png, png_chunk, read_png, shown

from dhp_sr.images import ImageLimits, UnsupportedImageError, read_header, read_image
from dhp_sr.utils.errors import UserError

LIMITS = ImageLimits(2**28)
KINDS = [(0, depth) for depth in (1, 2, 4, 8, 16)]
KINDS += [(3, depth) for depth in (1, 2, 4, 8)]
KINDS += [(color_type, depth) for color_type in (2, 4, 6) for depth in (8, 16)]
"""Color types and depths that the specification allows (table 11.1)."""


def samples_of(color_type, depth, shape=(11, 9), seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 1 << depth, (*shape, PNG_SAMPLES[color_type]))


def expected(samples, color_type, depth, palette=None, transparent=None):
    """Color (H, W, C) and alpha (H, W) or None, by the specification's words."""
    peak = 65535 if depth == 16 else 255
    if color_type == 3:
        color = np.array(palette).reshape(-1, 3)[samples[:, :, 0]]
        if transparent is None:
            return color, None
        alphas = list(transparent) + [255] * (2**depth - len(transparent))
        return color, np.array(alphas)[samples[:, :, 0]]
    # "linear scaling" of 12.5: the largest sample becomes the largest value
    values = samples * peak // (2**depth - 1)
    if color_type in (4, 6):
        return values[:, :, :-1], values[:, :, -1]
    if transparent is None:
        return values, None
    return values, np.where((samples == transparent).all(axis=2), 0, peak)


def assert_decodes(data, color, alpha, depth):
    image, header = read_image(data, LIMITS), read_header(data)
    dtype = np.uint16 if depth == 16 else np.uint8
    assert image.color.dtype == dtype and header.depth == 8 * image.color.itemsize
    np.testing.assert_array_equal(image.color, color)
    assert header.shape == image.color.shape
    assert header.alpha == (alpha is not None) == (image.alpha is not None)
    if alpha is not None:
        assert image.alpha.dtype == dtype
        np.testing.assert_array_equal(image.alpha, alpha)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("color_type", "depth", "transparent"),
    # tRNS is not allowed beside an alpha channel
    [(*kind, False) for kind in KINDS] + [(*kind, True) for kind in KINDS if kind[0] < 4],
)
def test_color_types_depths_and_transparency(color_type, depth, transparent, interlaced, capfd):
    samples = samples_of(color_type, depth)
    before, palette, marked = [], None, None
    if color_type == 3:
        palette = samples_of(2, 8, (1, 2**depth), seed=1).reshape(-1)
        before.append((b"PLTE", bytes(palette.tolist())))
    if transparent:
        if color_type == 3:
            marked = bytes(range(0, 256, 7))[: 2**depth - 1]  # fewer entries than the palette
            before.append((b"tRNS", marked))
        else:
            marked = samples[3, 2]
            before.append((b"tRNS", struct.pack(f">{len(marked)}H", *marked)))
    data = png(samples, depth, color_type, before, interlaced=interlaced)
    assert_decodes(data, *expected(samples, color_type, depth, palette, marked), depth)
    assert capfd.readouterr() == ("", "")  # the libraries say nothing past Python either


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
def test_orientation_is_applied_once(orientation, order, depth):
    samples = samples_of(6, depth)
    chunk = (b"eXIf", exif(orientation, order))
    for where in ({"before": [chunk]}, {"after": [chunk]}):
        turned = shown(samples, orientation)
        assert_decodes(png(samples, depth, 6, **where), turned[:, :, :3], turned[:, :, 3], depth)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_mean_as_stored(value):
    samples = samples_of(2, 8)
    data = png(samples, 8, 2, [(b"eXIf", exif(value))])
    np.testing.assert_array_equal(read_image(data, LIMITS).color, samples)
    damaged = png(samples, 8, 2, [(b"eXIf", b"II*\0\xff\xff")])
    np.testing.assert_array_equal(read_image(damaged, LIMITS).color, samples)


def test_profile_and_color_chunks_are_carried_along():
    samples = samples_of(0, 8)
    profile = bytes(range(256)) * 4
    chunks = [
        (b"gAMA", struct.pack(">I", 100000)),
        (b"cHRM", struct.pack(">8I", *range(1, 9))),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"mDCV", bytes(range(24))),
        (b"cLLI", bytes(range(8))),
    ]
    named = (b"iCCP", b"a name\0\0" + zlib.compress(profile))
    image = read_image(png(samples, 8, 0, [*chunks, named]), LIMITS)
    assert image.color_info.icc == profile
    assert image.color_info.png_chunks == tuple(chunks)
    np.testing.assert_array_equal(image.color, samples)  # none of it is applied
    only = read_image(png(samples, 8, 0, [(b"sRGB", b"\1")]), LIMITS)
    assert only.color_info.png_chunks == ((b"sRGB", b"\1"),)


@pytest.mark.parametrize(
    "content", [b"name", b"name\0\0no zlib", b"n\0\0" + zlib.compress(bytes(2**25))]
)
def test_profiles_that_are_none_are_ignored(content):
    image = read_image(png(samples_of(2, 8), 8, 2, [(b"iCCP", content)]), LIMITS)
    assert image.color_info.icc is None


def test_animations_are_refused_and_a_single_frame_is_not():
    control = struct.pack(">II", 3, 0)
    with pytest.raises(UnsupportedImageError, match="3 frames"):
        read_header(png(samples_of(2, 8), 8, 2, [(b"acTL", control)]))
    samples = samples_of(2, 8)
    frame = struct.pack(">IIIIIHHBB", 0, 9, 11, 0, 0, 1, 1, 0, 0)
    before = [(b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", frame)]
    np.testing.assert_array_equal(read_image(png(samples, 8, 2, before), LIMITS).color, samples)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.9, 0.99])
def test_files_cut_short_are_refused(depth, kept):
    data = png(samples_of(2, depth, (40, 40)), depth, 2)
    for read in (read_header, lambda data: read_image(data, LIMITS)):
        with pytest.raises(UserError, match="damaged"):
            read(data[: int(kept * len(data))])


def test_a_flipped_byte_anywhere_is_found():
    data = png(samples_of(2, 8), 8, 2, [(b"tEXt", b"Title\0a text")])
    for position in range(8, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1
        with pytest.raises(UserError):
            read_image(bytes(flipped), LIMITS)


def test_pixels_that_do_not_fill_the_image_are_refused():
    header = (b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 2, 0, 0, 0))
    for rows in (b"", bytes(100)):
        chunks = [header, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
        data = png(samples_of(2, 8), 8, 2)[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)
        with pytest.raises(UserError, match="damaged"):
            read_image(data, LIMITS)


PALETTE_OF_FOUR = (b"PLTE", bytes(range(12)))


@pytest.mark.parametrize(
    ("color_type", "depth", "chunks", "reason"),
    [
        (3, 2, [], "palette of 0 entries"),
        (3, 2, [(b"PLTE", bytes(11))], "palette of 3 entries and 2 bytes"),
        (3, 4, [PALETTE_OF_FOUR], "a pixel has entry 15 of a palette of 4"),
        (3, 8, [PALETTE_OF_FOUR], "a pixel has entry 255 of a palette of 4"),
        (3, 2, [PALETTE_OF_FOUR, (b"tRNS", bytes(5))], "tRNS of 5 bytes"),
        (3, 2, [(b"tRNS", bytes(4)), PALETTE_OF_FOUR], "tRNS stands before"),
        (0, 8, [(b"tRNS", bytes(4))], "tRNS of 4 bytes"),
        (2, 8, [(b"tRNS", bytes(2))], "tRNS of 2 bytes"),
        (2, 8, [(b"IHDR", bytes(13))], "IHDR"),
        (2, 8, [(b"ABCD", b"")], "ABCD.*not known"),
        (2, 8, [(b"CgBI", bytes(4))], "Apple"),
    ],
)
def test_chunks_that_contradict_the_image_are_refused(color_type, depth, chunks, reason):
    """libpng shows black for a missing entry, and leaves a tRNS of the wrong length out."""
    samples = samples_of(color_type, depth)
    samples[0, 0] = 2**depth - 1
    with pytest.raises(UserError, match=reason):
        read_image(png(samples, depth, color_type, chunks), LIMITS)


def test_transparency_behind_the_pixels_is_refused():
    with pytest.raises(UserError, match="tRNS stands"):
        read_header(png(samples_of(0, 8), 8, 0, after=[(b"tRNS", bytes(2))]))


@pytest.mark.parametrize(
    "name", [b"sBIT", b"bKGD", b"pHYs", b"tIME", b"hIST", b"sPLT", b"gAMA", b"cHRM"]
)
@pytest.mark.parametrize("content", [b"", b"x", bytes(24)])
def test_chunks_that_do_not_change_the_pixels_may_be_damaged(name, content):
    samples = samples_of(2, 8)
    image = read_image(png(samples, 8, 2, [(name, content)]), LIMITS)
    np.testing.assert_array_equal(image.color, samples)


def test_the_reader_of_these_tests_reads_what_they_write():
    for color_type, depth in ((0, 8), (2, 16), (6, 8)):
        samples = samples_of(color_type, depth)
        found, *facts, _ = read_png(png(samples, depth, color_type))
        np.testing.assert_array_equal(found, samples)
        assert facts == [depth, color_type]
