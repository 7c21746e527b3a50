"""Model files ready to run."""

import numpy as np
import pytest
import torch
from onnx_files import other
from torch import nn

from dhp_sr.archs import build
from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.deterministic_conv import SteadyConvolutions
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.runner import UNKNOWN_BYTES, open_model
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

SMALL = {
    "edsr": ("EDSR", {"num_feat": 8, "num_block": 1, "upscale": 2}),
    "dncnn": ("DnCNN", {"num_feat": 8, "num_layers": 4}),
    "unet": ("UNet", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_levels": 3}),
}
FACTS = {
    "edsr": ("sr", 2, 3, 3, "RGB", 1, 6, 1),
    "dncnn": ("denoise", 1, 1, 1, "grey", 1, 4, 1),
    "unet": ("denoise", 1, 3, 3, "RGB", 1, 22, 4),
}


def built(name):
    kind, arguments = SMALL[name]
    return build(kind, **arguments).eval()


def facts(runner):
    fields = (
        "task",
        "scale",
        "in_channels",
        "out_channels",
        "colour",
        "size_multiple",
        "halo",
        "tile_multiple",
    )
    return tuple(getattr(runner, field) for field in fields)


@pytest.fixture
def file(tmp_path):
    def make(name):
        save_model(built(name), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return make


@pytest.mark.parametrize("name", SMALL)
def test_safetensors(file, name):
    path = file(name)
    runner = open_model(path, threads=1)
    assert facts(runner) == FACTS[name] and runner.reason == ""
    pictures = torch.rand(2, runner.in_channels, 24, 40)
    with torch.no_grad():
        expected = load_model(path)(pictures)
    assert torch.equal(runner(pictures), expected)
    found = runner(pictures.numpy())
    assert isinstance(found, np.ndarray) and np.array_equal(found, expected.numpy())


def test_onnx_of_others(tmp_path):
    runner = open_model(other(tmp_path / "x.onnx"), threads=1)
    assert facts(runner) == ("sr", 2, 3, 3, "RGB", 1, None, 1)
    assert "does not say" in runner.reason and runner.pixel_bytes == UNKNOWN_BYTES
    runner = open_model(other(tmp_path / "x.onnx", "unet"), threads=1)
    assert facts(runner) == ("", 1, 3, 3, "RGB", 2, None, 2)
    runner = open_model(other(tmp_path / "x.onnx", weights=np.float16), threads=1)
    pictures = torch.rand(1, 3, 8, 10)
    assert runner(pictures).dtype == torch.float32 and runner(pictures).shape == (1, 3, 16, 20)
    with pytest.raises(UserError, match="computes in fp16, --precision bf16 has no effect"):
        open_model(runner.path, precision="bf16")
    with pytest.raises(UserError, match="expected a free height and width"):
        open_model(other(tmp_path / "x.onnx", "fixed"))


def described(**changes):
    """The metadata of a file of ours."""
    facts = {
        "architecture": "EDSR",
        "task": "sr",
        "scale": 2,
        "in_channels": 3,
        "out_channels": 3,
        "colour": "RGB",
    }
    facts |= {
        "value_range": [0, 1],
        "size_multiple": 1,
        "precision": "fp32",
        "params": 1,
        "halo": 1,
    }
    facts |= {"tile_multiple": 1, "bytes_per_pixel": 512}
    return pack_metadata({**facts, **changes})


def test_onnx_with_our_metadata(tmp_path):
    path = tmp_path / "x.onnx"
    runner = open_model(other(path, props=described()), threads=1)
    assert facts(runner) == ("sr", 2, 3, 3, "RGB", 1, 1, 1) and runner.pixel_bytes == 512
    with pytest.raises(ModelFileError, match="expected scale 4, as its metadata says, found 2"):
        open_model(other(path, props=described(scale=4)))
    with pytest.raises(ModelFileError, match="expected halo up to 4096"):
        open_model(other(path, props=described(halo=10**6)))
    with pytest.raises(ModelFileError, match=r"x\.onnx: metadata: params is missing"):
        props = described()
        del props["params"]
        open_model(other(path, props=props))


def test_what_cannot_run(file, tmp_path):
    path = file("edsr")
    with pytest.raises(
        UserError, match="expected a precision among fp32, bf16, fp16, found 'int8'"
    ):
        open_model(path, precision="int8")
    with pytest.raises(UserError, match="fp16 is for graphics cards"):
        open_model(path, precision="fp16")
    with pytest.raises(UserError, match="no such file"):
        open_model(tmp_path / "none.safetensors")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text\.onnx: expected an ONNX file"):
        open_model(tmp_path / "text.onnx")
    with pytest.raises(UserError, match="ONNX files run on the CPU"):
        open_model(tmp_path / "text.onnx", device="cuda")


def test_bf16_is_near(file):
    path = file("edsr")
    pictures = torch.rand(1, 3, 24, 40)
    exact, rough = open_model(path)(pictures), open_model(path, precision="bf16")(pictures)
    assert rough.dtype == torch.float32 and 0 < float((exact - rough).abs().max()) < 0.05
    assert open_model(path, precision="bf16").pixel_bytes == open_model(path).pixel_bytes / 2


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(8, 16, 2, stride=2)]
)
def test_small_pictures_are_computed_like_large_ones(layer):
    pictures = torch.rand(1, layer.in_channels, 200, 200)
    with torch.inference_mode(), SteadyConvolutions():
        whole, part = layer(pictures), layer(pictures[:, :, 50:70, 50:70])
    stride = layer.stride[0]
    inner = slice(stride * 1, stride * 19)
    place = slice(stride * 51, stride * 69)
    assert torch.equal(whole[:, :, place, place], part[:, :, inner, inner])
