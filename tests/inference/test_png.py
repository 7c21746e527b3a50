"""PNG files written by strips, read by two other programs."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dhp_sr.images.image import ColorInfo
from dhp_sr.inference.png import write_png


def strips(pixels, sizes):
    start = 0
    for size in sizes:
        yield pixels[start : start + size]
        start += size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [[13], [1] * 13, [5, 7, 1]])
def test_others_read_what_was_written(noise, channels, dtype, sizes):
    pixels = noise(13, 9, channels, dtype=dtype)
    pixels[4:8] = pixels[3]  # rows that are best told from the row above
    stream = io.BytesIO()
    write_png(stream, pixels.shape, 8 * pixels.itemsize, strips(pixels, sizes))
    Image.open(io.BytesIO(stream.getvalue())).verify()
    read = cv2.imdecode(np.frombuffer(stream.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED)
    order = {1: [0], 2: [0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    read = read.reshape(13, 9, -1)[:, :, order]
    assert read.dtype == dtype and np.array_equal(read, pixels)
    if dtype == np.uint8:
        assert np.array_equal(np.array(Image.open(stream)).reshape(pixels.shape), pixels)


def test_the_color_profile_is_kept(noise):
    stream = io.BytesIO()
    write_png(stream, (2, 2, 3), 8, [noise(2, 2, 3)], ColorInfo(b"a profile"))
    assert Image.open(stream).info["icc_profile"] == b"a profile"


def test_photographs_are_packed_about_as_well_as_elsewhere():
    from skimage import data

    pixels, ours, theirs = data.coffee(), io.BytesIO(), io.BytesIO()
    write_png(ours, pixels.shape, 8, [pixels])
    Image.fromarray(pixels).save(theirs, "PNG")
    assert len(ours.getvalue()) < 1.15 * len(theirs.getvalue())


@pytest.mark.parametrize("rows", [1, 7, 64, 399])
def test_the_file_does_not_tell_how_many_rows_came_at_a_time(rows):
    from skimage import data

    pixels = np.tile(data.coffee(), (1, 2, 1))  # 400 x 1200: packed, more than one piece
    whole, parts = io.BytesIO(), io.BytesIO()
    write_png(whole, pixels.shape, 8, [pixels])
    write_png(parts, pixels.shape, 8, strips(pixels, [rows] * -(-400 // rows)))
    assert parts.getvalue() == whole.getvalue() and whole.getvalue().count(b"IDAT") > 1
