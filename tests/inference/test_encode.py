"""Results as files: every format gives back what went in, or says what it cannot hold."""

import numpy as np
import pytest

from dhp_sr.inference.encode import Result, kind_of, write_result
from dhp_sr.inference.images import read
from dhp_sr.utils.errors import UserError

PLENTY = 2**28


def written(folder, kind, pixels, alpha, icc=None):
    height, width, channels = pixels.shape
    result = Result(kind, height, width, channels - alpha, alpha, 8 * pixels.itemsize, icc)
    path = folder / f"a.{kind}"
    write_result(path, result, [pixels[:3], pixels[3:]])
    return read(path, PLENTY), result


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless(tmp_path, noise, kind, channels):
    pixels = noise(8, 6, channels)
    found, result = written(tmp_path, kind, pixels, alpha=False)
    assert np.array_equal(found.colours, pixels) and result.losses() == []


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits(tmp_path, noise, kind, channels):
    pixels, alpha = noise(8, 6, channels, dtype=np.uint16), channels in (2, 4)
    found, result = written(tmp_path, kind, pixels, alpha)
    colours = pixels[:, :, : channels - alpha]
    assert (
        np.array_equal(found.colours[:, :, : colours.shape[2]], colours) and result.losses() == []
    )
    assert (found.alpha is not None) == alpha and (
        not alpha or np.array_equal(found.alpha, pixels[:, :, -1])
    )


@pytest.mark.parametrize(
    ("kind", "lost"), [("jpg", True), ("webp", False), ("bmp", True), ("tiff", False)]
)
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha(tmp_path, noise, kind, lost, channels):
    pixels = np.full((16, 16, channels), 90, np.uint8)
    pixels[:, :, -1] = noise(16, 16)
    found, result = written(tmp_path, kind, pixels, alpha=True)
    assert (found.alpha is None) == lost == (result.losses() == ["transparency"])
    assert lost or np.array_equal(found.alpha, pixels[:, :, -1])
    if kind != "webp":  # it may change colours that are not seen
        assert np.abs(found.colours.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("kind", ["jpg", "webp", "bmp"])
def test_sixteen_bits_become_eight(tmp_path, kind):
    pixels = np.full((16, 16, 3), 100 * 257, np.uint16)
    found, result = written(tmp_path, kind, pixels, alpha=False)
    assert found.colours.dtype == np.uint8 and np.abs(found.colours.astype(int) - 100).max() <= 2
    assert result.losses() == ["16 bits a channel"]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_colour_profiles(tmp_path, noise, kind):
    assert (
        written(tmp_path, kind, noise(8, 8, 3), alpha=False, icc=b"a profile")[0].icc
        == b"a profile"
    )


def test_a_failure_leaves_nothing(tmp_path, noise):
    def rows():
        yield noise(4, 6, 3)
        raise ValueError("the network stopped")

    for kind in ("png", "tiff"):
        with pytest.raises(ValueError, match="the network stopped"):
            write_result(tmp_path / f"a.{kind}", Result(kind, 8, 6, 3, False, 8), rows())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "side", "reason"),
    [
        ("webp", 20000, "larger than WEBP allows"),
        ("jpg", 70000, "larger than JPEG"),
        ("tiff", 60000, "does not fit"),
    ],
)
def test_what_a_format_cannot_hold_is_told_before_the_work(kind, side, reason):
    with pytest.raises(UserError, match=f"{reason}.*use --format png"):
        Result(kind, side, side, 3, False, 8).check(PLENTY)
    Result("png", side, side, 3, False, 8).check(PLENTY)


def test_formats_of_suffixes():
    assert [kind_of(one) for one in (".JPEG", ".tif", ".WebP", ".gif", "")] == [
        "jpg",
        "tiff",
        "webp",
        "png",
        "png",
    ]
