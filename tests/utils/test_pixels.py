"""Rounding and padding to multiples; noise that is the same wherever it is added."""

import math
import os
import zlib

import numpy as np
import pytest
import torch

from dhp_sr.data.noise import add_noise
from dhp_sr.inference.restore import NetworkInput
from dhp_sr.utils.pixels import gaussian_noise, noise_generator, padding_to_multiple, round_up


@pytest.mark.parametrize("multiple", [1, 8, 7])
def test_the_next_multiple(multiple):
    for number in range(40):
        found = round_up(number, multiple)
        assert found == multiple * math.ceil(number / multiple) and 0 <= found - number < multiple


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(8, 12, (0, 0, "reflect")), (9, 12, (3, 0, "reflect")), (1, 12, (3, 0, "replicate"))],
)
def test_padding_to_a_multiple(height, width, expected):
    assert padding_to_multiple(height, width, 4) == expected


def test_level_and_seed():
    noise = gaussian_noise((3, 200, 200), 25, noise_generator(0, "a"))
    assert (
        noise.dtype == np.float32
        and abs(noise.std() * 255 - 25) < 0.2
        and abs(noise.mean() * 255) < 0.3
    )
    assert np.array_equal(noise, gaussian_noise((3, 200, 200), 25, noise_generator(0, "a")))
    for other in (noise_generator(1, "a"), noise_generator(0, "b")):
        assert not np.array_equal(noise, gaussian_noise((3, 200, 200), 25, other))


def test_scoring_and_restoring_add_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    clean = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
    scored = add_noise(clean, 25.0, noise_generator(7, "x"))
    restored = NetworkInput(pixels, 1, 25.0, (7, "x")).tile(slice(0, 5), slice(0, 6))
    assert np.array_equal(scored.numpy(), restored)


def test_noise_of_a_file_name_that_is_not_utf_8():
    name = os.fsdecode(b"gr\xfcn")
    expected = np.random.default_rng((3, zlib.crc32(b"gr\xfcn"))).random(4)
    np.testing.assert_array_equal(noise_generator(3, name).random(4), expected)
