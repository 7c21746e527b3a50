"""Model files of networks without some of their residual branches."""

import json

import pytest
import torch
from networks import example, network

from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.manifest import pack, unpack
from dhp_sr.deploy.model_file import read_manifest
from dhp_sr.deploy.onnx_export import export_onnx
from dhp_sr.deploy.rebuild import rebuild
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.simplify import simplify
from dhp_sr.hyper import convert
from dhp_sr.operators.constant_map import ConstantMap


def without_branches(case, number=None):
    plain = network(case).float()
    x = example(plain).float()
    hyper = convert(plain, x).eval()
    for branch in hyper.plan.branches[:number]:
        hyper.set_masks({name: torch.zeros_like(hyper.masks[name]) for name in branch.groups})
    return hyper.cut(), x


@pytest.mark.parametrize("case", ["edsr_x2", "srresnet_x2", "rlfn_x2", "resnet_projection"])
def test_saved_and_loaded(case, tmp_path):
    small, x = without_branches(case)
    path = tmp_path / "small.safetensors"
    save_model(small, path)
    loaded = load_model(path)
    assert type(loaded) is type(small)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    assert loaded.state_dict().keys() == small.state_dict().keys()
    manifest = read_manifest(path)
    removed = [name for name in manifest["removed"] if name in manifest["widths"]]
    assert manifest["removed"] and not removed


def test_a_deep_network_may_lose_all_branches(tmp_path):
    """Its class makes many more tensors than the file holds."""
    plain = network("edsr_x2")
    deep = type(plain)(num_feat=4, num_block=40, upscale=2)
    hyper = convert(deep, torch.rand(1, 3, 8, 8)).eval()
    for branch in hyper.plan.branches:
        hyper.set_masks({branch.groups[0]: torch.zeros(4, dtype=torch.bool)})
    save_model(hyper.cut(), tmp_path / "small.safetensors")
    loaded = load_model(tmp_path / "small.safetensors")
    assert sum(name.startswith("body.") for name in loaded.state_dict()) == 40


def test_onnx_runs_at_sizes_that_it_was_not_traced_with(tmp_path):
    small, _ = without_branches("srresnet_x2", 1)
    agreement = export_onnx(small, tmp_path / "small.onnx", (1, 3, 24, 24))
    assert max(agreement.differences.values()) < 1e-4


@pytest.mark.parametrize("trainable", [True, False])
def test_what_is_left_of_an_edsr_has_the_range_of_its_features(trainable):
    plain = network("edsr_x2").float().eval()
    channels = plain.body[0].conv2.out_channels
    left = ConstantMap(channels, (1, 1), trainable=trainable)
    left.bias.data = 20 * torch.randn(channels, generator=torch.Generator().manual_seed(0))
    plain.body[0].conv2 = left
    x = example(plain).float()
    with torch.no_grad():
        torch.testing.assert_close(simplify(plain)(x), plain(x), rtol=0, atol=1e-4)


def test_files_without_removed_layers_do_not_mention_them():
    assert "removed" not in unpack(pack(network("edsr_x2"), {}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ("body.0.conv1", "by name"),
        ({"": {"leaves": "nothing", "strides": [1, 1]}}, "no layer"),
        ({"body.0": {"leaves": "nothing", "strides": [1, 1]}}, "no layer"),
        ({"body.7.conv1": {"leaves": "nothing", "strides": [1, 1]}}, "no layer"),
        ({"body.0.conv1": {"leaves": "all", "strides": [1, 1]}}, "leaves"),
        ({"body.0.conv1": {"leaves": "nothing", "strides": [0, 1]}}, "strides"),
        ({"body.0.conv1": {"leaves": "nothing", "strides": [1] * 9}}, "strides"),
        ({"body.0.conv1": {"leaves": "nothing"}}, "strides"),
        ({"body.0.conv1": "nothing"}, "strides"),
        ({"body.0.relu": {"leaves": "bias", "strides": [1, 1]}}, "missing"),
        ({}, "missing"),
    ],
)
def test_malformed_entries_are_refused(changes, message):
    small, _ = without_branches("edsr_x2")
    shapes = {key: tuple(tensor.shape) for key, tensor in small.state_dict().items()}
    manifest = json.loads(json.dumps(unpack(pack(small, {}))))
    manifest["removed"] = changes
    with pytest.raises(ModelFileError, match=message):
        rebuild(manifest, shapes)
