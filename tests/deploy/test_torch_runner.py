"""Interpolation in networks: PyTorch's values, and the same ones wherever a tile begins."""

import pytest
import torch
from torch.nn import functional

from dhp_sr.deploy.torch_runner import ExactInterpolation

MODES = ("bilinear", "bicubic")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_values_are_those_of_pytorch(mode, scale):
    images = torch.rand(2, 3, 17, 23)
    expected = functional.interpolate(images.double(), scale_factor=scale, mode=mode).float()
    with ExactInterpolation():
        for sizes in (
            {"scale_factor": scale},
            {"scale_factor": (float(scale), scale)},
            {"size": (17 * scale, 23 * scale), "align_corners": False},
        ):
            actual = functional.interpolate(images, mode=mode, **sizes)
            torch.testing.assert_close(actual, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [2, 3, 5])
def test_a_tile_gives_the_bits_of_the_whole_image(mode, scale):
    image = torch.rand(1, 3, 90, 110)
    margin = 3 * scale
    with ExactInterpolation():
        whole = functional.interpolate(image, scale_factor=scale, mode=mode)
        tile = functional.interpolate(image[:, :, 31:83, 7:98], scale_factor=scale, mode=mode)
    inner = whole[:, :, 31 * scale : 83 * scale, 7 * scale : 98 * scale]
    inside = (..., slice(margin, -margin), slice(margin, -margin))
    assert torch.equal(tile[inside], inner[inside])


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale_factor": 2, "mode": "nearest"},
        {"scale_factor": 1.5, "mode": "bilinear"},
        {"scale_factor": (2, 3), "mode": "bilinear"},
        {"size": (40, 41), "mode": "bicubic"},
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 2, "mode": "bilinear", "antialias": True},
    ],
)
def test_everything_else_is_left_to_pytorch(arguments):
    image = torch.rand(1, 2, 20, 20)
    expected = functional.interpolate(image, **arguments)
    with ExactInterpolation():
        assert torch.equal(functional.interpolate(image, **arguments), expected)
