"""deploy/model_file.py: a saved network comes back, with its description."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.archs import ARCHS, build
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

from .conftest import CUTS, cut_network


def image_for(network):
    side = getattr(network, "input_size", 16)
    return torch.rand(1, network.in_channels, side, side)


def test_every_network_has_a_row_here():
    assert set(CUTS) == set(ARCHS)


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize(
    "make", [cut_network, lambda name: build(name, **CUTS[name][0]).eval()], ids=["cut", "dense"]
)
def test_saved_and_loaded_gives_the_same_network(tmp_path, name, make):
    network = make(name)
    save_model(network, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    x = image_for(network)
    assert type(loaded) is type(network) and not loaded.training
    assert repr(loaded) == repr(network)
    assert torch.equal(loaded(x), network(x))
    assert loaded.arguments == network.arguments and loaded.scale == network.scale
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])


def test_loaded_network_can_be_trained_and_saved_again(tmp_path, network):
    save_model(network, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors").train()
    loaded(image_for(loaded)).mean().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    save_model(loaded, tmp_path / "b.safetensors")
    assert torch.equal(
        load_model(tmp_path / "b.safetensors").conv_last.weight, loaded.conv_last.weight
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_floating_point_type_is_kept(tmp_path, dtype):
    network = cut_network("EDSR").to(dtype)
    save_model(network, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    x = image_for(network).to(dtype)
    assert loaded.mean.dtype == dtype
    assert torch.equal(loaded(x), network(x))


def test_same_network_gives_the_same_bytes(tmp_path):
    network = cut_network("SRResNet")
    save_model(network, tmp_path / "a.safetensors", scores={"Set5": 30.0}, licence="MIT")
    save_model(
        network.to(memory_format=torch.channels_last),
        tmp_path / "b.safetensors",
        scores={"Set5": 30.0},
        licence="MIT",
    )
    save_model(
        load_model(tmp_path / "a.safetensors"),
        tmp_path / "c.safetensors",
        scores={"Set5": 30.0},
        licence="MIT",
    )
    contents = {(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}
    assert len(contents) == 1


def test_manifest_describes_the_network(tmp_path, network):
    facts = {
        "macs": np.int64(1000),
        "macs_input": (1, 3, 128, 128),
        "scores": {"Set5": {"psnr_y_db": np.float32(30.5)}},
        "parent": tmp_path / "dense.safetensors",
        "licence": "MIT",
    }
    save_model(network, tmp_path / "model.safetensors", **facts)
    manifest = read_manifest(tmp_path / "model.safetensors")
    assert manifest["architecture"] == "EDSR" and manifest["arguments"]["num_feat"] == 8
    assert manifest["widths"]["body.0.conv1"] == [5, 8] and manifest["widths"]["upsample.0"] == [
        12,
        8,
    ]
    assert (manifest["task"], manifest["scale"], manifest["in_channels"], manifest["colour"]) == (
        "sr",
        2,
        3,
        "RGB",
    )
    assert (manifest["value_range"], manifest["size_multiple"]) == ([0, 1], 1)
    assert manifest["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert (manifest["macs"], manifest["macs_input"]) == (1000, [1, 3, 128, 128])
    assert manifest["scores"] == {"Set5": {"psnr_y_db": 30.5}} and manifest["licence"] == "MIT"
    assert manifest["torch_version"] == str(torch.__version__) and manifest["tool_version"]
    assert json.loads(json.dumps(manifest)) == manifest


def test_manifest_gives_widths_of_transposed_convolutions(tmp_path):
    save_model(cut_network("UNet"), tmp_path / "model.safetensors")
    manifest = read_manifest(tmp_path / "model.safetensors")
    assert (
        manifest["widths"]["up.0"] == [3, 16]
        and manifest["colour"] == "grey"
        and manifest["size_multiple"] == 1
    )


def test_files_of_a_unet_that_took_multiples_only(tmp_path, spoil):
    network, x = cut_network("UNet"), torch.rand(1, 1, 9, 14)
    save_model(network, tmp_path / "model.safetensors")
    loaded = load_model(spoil(tmp_path / "model.safetensors", manifest={"size_multiple": 4}))
    assert loaded.size_multiple == 1 and torch.equal(loaded(x), network(x))
    for wrong in (0, -4, 2**20):
        with pytest.raises(ModelFileError, match="size_multiple is"):
            load_model(spoil(tmp_path / "model.safetensors", manifest={"size_multiple": wrong}))


def test_a_failed_save_leaves_the_old_file(tmp_path, network):
    save_model(network, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"scores\.Set5: .*nan"):
        save_model(network, tmp_path / "model.safetensors", scores={"Set5": float("nan")})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"scale": 3}, "scale"),
        ({"macs": 10}, "macs and macs_input .* together"),
        ({"history": [object()]}, r"history\[0\]: "),
        ({"scores": {1: 2}}, "scores: "),
    ],
)
def test_facts_that_cannot_be_stored(tmp_path, network, facts, message):
    with pytest.raises(UserError, match=message):
        save_model(network, tmp_path / "model.safetensors", **facts)
    assert not list(tmp_path.iterdir())


def _widened(network):
    network.conv_last = nn.Conv2d(3, 3, 5, padding=2)
    return network


def _with_another_layer(network):
    network.extra = nn.Linear(2, 2)
    return network


def _of_mixed_types(network):
    network.conv_last.half()
    return network


def _of_layers_that_do_not_fit(network):
    network.conv_last = nn.Conv2d(2, 3, 3)
    return network


class EDSR(nn.Module):
    """Another project's class of the same name."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda network: nn.Conv2d(3, 3, 3),
            r"torch.nn.modules.conv.Conv2d; .*`info`",
        ),
        (lambda network: EDSR(), r"dhp_sr\.archs \(EDSR, .*test_model_file\.EDSR"),
        (_widened, r"wrong shape: conv_last\.weight: .*\(3, 3\).*\(5, 5\)"),
        (_with_another_layer, "unexpected: extra.weight\n  unexpected: extra.bias"),
        (_of_mixed_types, r"torch\.float32.*torch\.float16"),
        (_of_layers_that_do_not_fit, "widths do not fit each other"),
    ],
)
def test_networks_that_could_not_be_loaded_are_not_saved(tmp_path, network, change, message):
    with pytest.raises(UserError, match=message):
        save_model(change(network), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
