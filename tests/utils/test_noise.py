"""Noise that is the same wherever it is added."""

import numpy as np
import torch

from dhp_sr.data.noise import add_noise
from dhp_sr.inference.source import Source
from dhp_sr.utils.noise import gaussian, generator_of


def test_level_and_seed():
    noise = gaussian((3, 200, 200), 25, generator_of(0, "a"))
    assert (
        noise.dtype == np.float32
        and abs(noise.std() * 255 - 25) < 0.2
        and abs(noise.mean() * 255) < 0.3
    )
    assert np.array_equal(noise, gaussian((3, 200, 200), 25, generator_of(0, "a")))
    for other in (generator_of(1, "a"), generator_of(0, "b")):
        assert not np.array_equal(noise, gaussian((3, 200, 200), 25, other))


def test_scoring_and_restoring_add_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    clean = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
    scored = add_noise(clean, 25.0, generator_of(7, "x"))
    restored = Source(pixels, 1, 25.0, (7, "x")).take(slice(0, 5), slice(0, 6))
    assert np.array_equal(scored.numpy(), restored)
