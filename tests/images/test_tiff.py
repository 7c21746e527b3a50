"""TIFF files of every kind, against files built from the specification: right, or refused."""

import contextlib
import io
import resource
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from spec_files import (
    BLACK_IS_ZERO,
    CMYK,
    COLOR_MAP,
    COMPRESSIONS,
    EXTRA_SAMPLES,
    ICC,
    LONG,
    ORIENTATION,
    PALETTE,
    RGB,
    SAMPLE_FORMAT,
    SHORT,
    UNDEFINED,
    WHITE_IS_ZERO,
    shown,
    tiff,
    tiff_file,
)

from dhp_sr.images import ImageLimits, UnsupportedImageError, read_header, read_image
from dhp_sr.utils.errors import UserError

LIMITS = ImageLimits(2**28)
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2


def draw(bits, count, shape=(11, 9), seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (*shape, count))


def extra(*kinds):
    return {EXTRA_SAMPLES: (SHORT, list(kinds))}


def assert_decodes(data, color, alpha=None):
    image, header = read_image(data, LIMITS), read_header(data)
    np.testing.assert_array_equal(image.color, color)
    assert header.shape == image.color.shape and header.depth == 8 * image.color.itemsize
    assert header.alpha == (alpha is not None) == (image.alpha is not None)
    if alpha is not None:
        assert image.alpha.dtype == image.color.dtype
        np.testing.assert_array_equal(image.alpha, alpha)
    return image


def scaled(samples, bits):
    if bits in (8, 16):
        return samples
    return np.rint(samples / (2**bits - 1) * (255 if bits < 8 else 65535)).astype(int)


STORAGE = [
    {"compression": number, "planar": planar, **cut}
    for number in COMPRESSIONS
    for planar in (1, 2)
    for cut in ({}, {"rows_per_strip": 4}, {"tile": 16})
] + [{"compression": 8, "predictor": 2}, {"compression": 5, "predictor": 2, "planar": 2}]


@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_compressions_planes_strips_and_tiles(bits, byteorder, storage):
    rgb, gray = draw(bits, 3), draw(bits, 1)
    options = {"byteorder": byteorder, **storage}
    image = assert_decodes(tiff(rgb, bits, RGB, **options), rgb)
    assert image.depth == bits
    rgba = draw(bits, 4)
    with_alpha = tiff(rgba, bits, RGB, tags=extra(ALPHA), **options)
    assert_decodes(with_alpha, rgba[:, :, :3], rgba[:, :, 3])
    if options.get("planar") != 2:
        assert_decodes(tiff(gray, bits, BLACK_IS_ZERO, **options), gray)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(("bits", "count"), [(8, 1), (8, 3), (16, 1), (16, 3), (16, 4)])
def test_orientation_is_applied_once(orientation, compression, bits, count):
    samples = draw(bits, count)
    kind = BLACK_IS_ZERO if count == 1 else RGB
    tags = {ORIENTATION: (SHORT, [orientation])} | (extra(ALPHA) if count == 4 else {})
    turned = shown(samples, orientation)
    alpha = turned[:, :, 3] if count == 4 else None
    data = tiff(samples, bits, kind, compression=compression, tags=tags)
    assert_decodes(data, turned[:, :, : min(count, 3)], alpha)


@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8, 10, 12, 14, 16])
def test_bits_and_white_is_zero(bits):
    samples = draw(bits, 1)
    values = scaled(samples, bits)
    assert_decodes(tiff(samples, bits, BLACK_IS_ZERO), values)
    peak = 255 if bits <= 8 else 65535
    assert_decodes(tiff(samples, bits, WHITE_IS_ZERO), peak - values)
    with_alpha = draw(bits, 2)
    data = tiff(with_alpha, bits, WHITE_IS_ZERO, tags=extra(ALPHA))
    values = scaled(with_alpha, bits)
    assert_decodes(data, peak - values[:, :, :1], values[:, :, 1])


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", [BLACK_IS_ZERO, RGB])
def test_premultiplied_alpha_is_divided_out(kind, bits, planar):
    peak = 2**bits - 1
    colors = 1 if kind == BLACK_IS_ZERO else 3
    straight = draw(bits, colors, (40, 30))
    alpha = draw(bits, 1, (40, 30), seed=1)
    alpha[0, :3, 0] = (0, 1, peak)
    stored = np.rint(straight * (alpha / peak)).astype(int)
    samples = np.concatenate([stored, alpha], axis=2)
    data = tiff(samples, bits, kind, planar=planar, tags=extra(PREMULTIPLIED))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(alpha == 0, 0, stored * peak / alpha)
    image = assert_decodes(data, np.floor(np.minimum(exact, peak) + 0.5), alpha[:, :, 0])
    visible = alpha[:, :, 0] == peak
    np.testing.assert_array_equal(image.color[visible], straight[visible])


def test_premultiplied_colors_above_alpha_are_clipped():
    data = tiff(np.array([[[200, 100]]]), 8, BLACK_IS_ZERO, tags=extra(PREMULTIPLIED))
    assert_decodes(data, [[[255]]], [[100]])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("kind", "colors", "kinds", "alpha_at"),
    [
        (RGB, 3, (UNSPECIFIED,), None),
        (RGB, 3, (UNSPECIFIED, ALPHA), 4),
        (RGB, 3, (ALPHA, UNSPECIFIED), 3),
        (RGB, 3, (UNSPECIFIED, UNSPECIFIED), None),
        (RGB, 3, None, None),
        (BLACK_IS_ZERO, 1, (UNSPECIFIED,), None),
        (BLACK_IS_ZERO, 1, (ALPHA,), 1),
    ],
)
def test_extra_samples_are_alpha_only_if_the_file_says_so(bits, kind, colors, kinds, alpha_at):
    """TIFF 6.0, RGB images: extra components without a meaning are skipped over."""
    samples = draw(bits, colors + len(kinds or (0,)))
    data = tiff(samples, bits, kind, tags=extra(*kinds) if kinds else None)
    alpha = None if alpha_at is None else samples[:, :, alpha_at]
    image = assert_decodes(data, samples[:, :, :colors], alpha)
    unexplained = samples.shape[2] - colors - (alpha_at is not None)
    assert bool(image.dropped) == bool(unexplained)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("factor", [256, 257])
def test_palettes(bits, factor):
    palette = draw(8, 3, (1, 2**bits), seed=2)[0]
    tags = {COLOR_MAP: (SHORT, (palette.T.reshape(-1) * factor).tolist())}
    indices = draw(bits, 1)
    assert_decodes(tiff(indices, bits, PALETTE, tags=tags), palette[indices[:, :, 0]])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [1, 2])
def test_cmyk(bits, planar):
    peak = 2**bits - 1
    samples = draw(bits, 5)
    inks = samples / peak
    expected = np.rint((1 - inks[:, :, :3]) * (1 - inks[:, :, 3:4]) * peak)
    tags = {ICC: (UNDEFINED, b"a profile of inks")}
    image = assert_decodes(tiff(samples[:, :, :4], bits, CMYK, planar=planar, tags=tags), expected)
    assert image.color_info.icc is None and "profile" in " ".join(image.dropped)
    data = tiff(samples, bits, CMYK, planar=planar, tags=extra(ALPHA))
    assert_decodes(data, expected, samples[:, :, 4])


def test_profiles_are_carried_along():
    data = tiff(draw(16, 3), 16, RGB, tags={ICC: (UNDEFINED, b"a profile")})
    assert read_image(data, LIMITS).color_info.icc == b"a profile"


def formats(kind, count):
    return {SAMPLE_FORMAT: (SHORT, [kind] * count)}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("count", "kind", "tags", "reason"),
    [
        (1, BLACK_IS_ZERO, formats(2, 1), "signed"),
        (3, RGB, formats(2, 3), "signed"),
        (3, 8, {}, "CIELAB"),
        (1, 32803, {}, "CFA"),
        (4, CMYK, {332: (SHORT, [2])}, "inks"),
        (3, 6, {}, "YCbCr"),
        (1, BLACK_IS_ZERO, {254: (SHORT, [1])}, "thumbnail"),
        (2, WHITE_IS_ZERO, extra(PREMULTIPLIED), "premultiplied"),
        (3, RGB, {259: (SHORT, [34712])}, "JPEG2000"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(bits, count, kind, tags, reason):
    data = tiff(draw(bits, count), bits, kind, tags=tags)
    for read in (read_header, lambda data: read_image(data, LIMITS)):
        with pytest.raises(UnsupportedImageError, match=reason):
            read(data)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({SAMPLE_FORMAT: (SHORT, [1, 1, 2])}, "several formats"),
        ({256: (LONG, [9, 9])}, "2 values of tag 256|several values"),
        ({262: (SHORT, [2, 2])}, "2 values of tag 262|several values"),
        ({256: (LONG, [0])}, "0 x 11"),
        ({284: (SHORT, [3])}, "PlanarConfiguration 3"),
        ({317: (SHORT, [3])}, "predictor 3"),
        ({317: (SHORT, [2])}, "predictor 2"),
        ({259: (SHORT, [32773]), 317: (SHORT, [2])}, "predictor 2"),
    ],
)
def test_tags_that_do_not_fit_are_refused(tags, reason):
    with pytest.raises(UserError, match=reason):
        read_header(tiff(draw(8, 3), 8, RGB, tags=tags))


def test_differences_of_few_bits_are_refused():
    with pytest.raises(UnsupportedImageError, match="predictor 2"):
        read_header(tiff(draw(12, 3), 12, RGB, compression=5, predictor=2))


def test_an_unknown_kind_of_color_is_not_guessed():
    fields = {
        256: (LONG, [9]),
        257: (LONG, [11]),
        258: (SHORT, [8, 8, 8]),
        273: (LONG, [8]),
        277: (SHORT, [3]),
        279: (LONG, [297]),
    }
    with pytest.raises(UnsupportedImageError, match="tag 262"):
        read_header(tiff_file(bytes(297), fields))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 5, 7, 10, 12, 14])
@pytest.mark.parametrize("planar", [1, 2])
def test_few_bits_of_color(bits, planar, byteorder):
    samples = draw(bits, 3)
    data = tiff(samples, bits, RGB, planar=planar, byteorder=byteorder)
    assert_decodes(data, scaled(samples, bits))


@pytest.mark.parametrize("options", [{"imagej": True}, {}], ids=["ImageJ", "tifffile"])
def test_stacks_behind_a_single_directory_are_refused(options):
    stream = io.BytesIO()
    stack = np.zeros((5, 20, 30), np.uint8)
    tifffile.imwrite(stream, stack, photometric="minisblack", truncate=True, **options)
    with pytest.raises(UnsupportedImageError, match="5 images"):
        read_header(stream.getvalue())
    stream = io.BytesIO()
    tifffile.imwrite(stream, stack[:1], photometric="minisblack", truncate=True, **options)
    assert_decodes(stream.getvalue(), stack[0, :, :, None])


def test_gamma_of_a_tiff_is_said_to_be_left_out():
    image = read_image(tiff(draw(8, 3), 8, RGB, tags={301: (SHORT, [0] * 768)}), LIMITS)
    assert "gamma" in " ".join(image.dropped)


def test_floating_point_is_refused():
    """Its range is not known: 0 to 1, 0 to 255 and others are in use."""
    with pytest.raises(UnsupportedImageError, match="floating-point"):
        read_header(tiff(draw(16, 3), 16, RGB, tags=formats(3, 3)))


def test_undefined_samples_are_read_as_unsigned():
    samples = draw(16, 3)
    assert_decodes(tiff(samples, 16, RGB, tags=formats(4, 3)), samples)


def test_wide_and_unequal_samples_are_refused():
    with pytest.raises(UnsupportedImageError, match="32 bits"):
        read_header(
            tiff(draw(16, 2), 16, BLACK_IS_ZERO, tags={258: (SHORT, [32]), 277: (SHORT, [1])})
        )
    with pytest.raises(UnsupportedImageError, match="bits a sample"):
        read_header(tiff(draw(8, 3), 8, RGB, tags={258: (SHORT, [5, 6, 5])}))


def test_several_pages_are_refused():
    pages = [PillowImage.fromarray(draw(8, 3, seed=seed).astype(np.uint8)) for seed in range(3)]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(UnsupportedImageError, match="3 pages"):
        read_header(stream.getvalue())


def stored_by_pillow(pixels, mode=None, **options):
    pil_image, stream = PillowImage.fromarray(pixels.squeeze()), io.BytesIO()
    (pil_image.convert(mode) if mode else pil_image).save(stream, "TIFF", **options)
    return stream.getvalue()


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax_compressions(compression):
    """No encoder of ours: written by libtiff."""
    white = draw(1, 1, (40, 50))[:, :, 0].astype(bool)
    data = stored_by_pillow(white, compression=compression)
    assert_decodes(data, white[:, :, None] * 255)


@pytest.mark.parametrize("compression", ["tiff_lzw", "zstd", "lzma", "tiff_adobe_deflate"])
def test_compressions_written_by_libtiff(compression):
    rgb = draw(8, 3, (70, 50)).astype(np.uint8)
    assert_decodes(stored_by_pillow(rgb, compression=compression), rgb)


@pytest.mark.parametrize("compression", ["jpeg", "webp"])
def test_lossy_compressions(compression):
    smooth = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8)
    stream = io.BytesIO()
    options = {"lossless": False} if compression == "webp" else {}
    tifffile.imwrite(
        stream, smooth, compression=compression, compressionargs={"level": 95} | options
    )
    found = read_image(stream.getvalue(), LIMITS).color
    assert np.abs(found.astype(int) - smooth).max() <= 12
    assert np.abs(found.astype(int) - smooth).mean() < 2
    pillow = stored_by_pillow(smooth, compression="jpeg", quality=95)  # chroma at half resolution
    assert np.abs(read_image(pillow, LIMITS).color.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("storage", STORAGE[::3], ids=str)
@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_files_cut_short_are_refused(storage, kept):
    """The directory stands before the pixels, as in files of scanners."""
    samples = draw(16, 3, (64, 64))
    whole = tiff(samples, 16, RGB, **storage)
    with pytest.raises(UserError):
        read_image(whole[: int(kept * len(whole))], LIMITS)
    pillow = stored_by_pillow(samples.astype(np.uint8))  # the directory is in front
    with pytest.raises(UserError, match="damaged"):
        read_header(pillow[: int(kept * len(pillow))])


def test_strips_beyond_the_file_or_empty_are_refused():
    for tags in ({273: (4, [10**9])}, {279: (4, [10**9])}, {279: (4, [0])}, {273: (4, [0])}):
        with pytest.raises(UserError, match="damaged"):
            read_header(tiff(draw(8, 3), 8, RGB, tags=tags))


def test_memory_of_large_tiles_counts():
    huge = tiff(draw(8, 3), 8, RGB, tile=16, tags={322: (LONG, [2**20]), 323: (LONG, [2**20])})
    assert read_header(huge).decode_bytes > 2**40


def test_embedded_images_larger_than_their_strip_are_refused():
    """Their decoder would allocate what they say, not what the page says."""
    jpeg = io.BytesIO()
    PillowImage.new("L", (4000, 4000)).save(jpeg, "JPEG")
    fields = {
        256: (LONG, [9]),
        257: (LONG, [11]),
        258: (SHORT, [8]),
        259: (SHORT, [7]),
        262: (SHORT, [BLACK_IS_ZERO]),
        273: (LONG, [8]),
        277: (SHORT, [1]),
        278: (LONG, [11]),
        279: (LONG, [len(jpeg.getvalue())]),
    }
    with pytest.raises(UserError, match="4000 x 4000"):
        read_header(tiff_file(jpeg.getvalue(), fields))


def test_a_strip_that_unpacks_to_more_than_it_may_is_cut_off():
    samples = draw(8, 1, (4, 4))
    bomb = zlib.compress(samples.astype(np.uint8).tobytes() + bytes(2**28), 9)
    fields = {
        256: (LONG, [4]),
        257: (LONG, [4]),
        258: (SHORT, [8]),
        259: (SHORT, [8]),
        262: (SHORT, [BLACK_IS_ZERO]),
        273: (LONG, [8]),
        277: (SHORT, [1]),
        279: (LONG, [len(bomb)]),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UserError):  # either will do; the memory is what counts
        assert_decodes(tiff_file(bomb, fields), samples)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # kilobytes
