"""Small networks, dense and cut by hand, and model files to spoil."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dhp_sr.archs import build
from dhp_sr.deploy.safetensors_io import CHECKSUM
from dhp_sr.operators.resize import resize


def _norm(name, width):
    return {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}


# Network and its arguments -> shapes as a cut leaves them (uneven on purpose).
CUTS = {
    "EDSR": (
        {"num_feat": 8, "num_block": 2, "upscale": 2},
        {
            "body.0.conv1.weight": (5, 8, 3, 3),
            "body.0.conv1.bias": (5,),
            "body.0.conv2.weight": (8, 5, 3, 3),
            "upsample.0.weight": (12, 8, 3, 3),
            "upsample.0.bias": (12,),
            "conv_last.weight": (3, 3, 3, 3),
        },
    ),
    "SRResNet": (
        {"num_feat": 8, "num_block": 2, "upscale": 2},
        {
            "body.1.conv1.weight": (3, 8, 3, 3),
            "body.1.conv1.bias": (3,),
            "body.1.bn1.weight": (3,),
            "body.1.bn1.bias": (3,),
            "body.1.bn1.running_mean": (3,),
            "body.1.bn1.running_var": (3,),
            "body.1.conv2.weight": (8, 3, 3, 3),
        },
    ),
    "RLFN": (
        {"num_feat": 8, "num_block": 2, "esa_feat": 4, "upscale": 2},
        {
            "block_1.c1_r.weight": (5, 8, 3, 3),
            "block_1.c1_r.bias": (5,),
            "block_1.c2_r.weight": (8, 5, 3, 3),
            "block_2.esa.conv2.weight": (3, 4, 3, 3),
            "block_2.esa.conv2.bias": (3,),
            "block_2.esa.conv3.weight": (4, 3, 3, 3),
        },
    ),
    "DnCNN": (
        {"num_feat": 8, "num_layers": 4, "batch_norm": False},
        {"model.2.weight": (5, 8, 3, 3), "model.2.bias": (5,), "model.4.weight": (8, 5, 3, 3)},
    ),
    "UNet": (
        {"num_feat": 4, "num_levels": 3},
        {
            "up.0.weight": (16, 3, 2, 2),
            "up.0.bias": (3,),
            "decoder.0.0.weight": (8, 11, 3, 3),
        },
    ),
    "ResNet": (
        {"num_feat": 4, "depth": 8, "input_size": 16},
        {
            "layer2.0.conv2.weight": (7, 8, 3, 3),
            **_norm("layer2.0.bn2", 7),
            "layer2.0.shortcut.after": (1, 1, 1, 1),
            "layer3.0.conv1.weight": (16, 7, 3, 3),
            "layer3.0.conv2.weight": (15, 16, 3, 3),
            **_norm("layer3.0.bn2", 15),
            "linear.weight": (10, 15),
        },
    ),
    "DenseNet": (
        {"num_feat": 6, "growth": 4, "depth": 10, "input_size": 16},
        {
            "block3.1.conv.weight": (3, 26, 3, 3),
            **_norm("bn", 29),
            "linear.weight": (10, 29),
        },
    ),
    "VGG": (
        {"num_feat": 4, "depth": 11, "input_size": 32},
        {
            "features.0.weight": (3, 3, 3, 3),
            "features.0.bias": (3,),
            **_norm("features.1", 3),
            "features.4.weight": (8, 3, 3, 3),
        },
    ),
    "MobileNetV1": (
        {"width_mult": 0.25, "input_size": 16},
        {
            "features.0.0.weight": (5, 3, 3, 3),
            **_norm("features.0.1", 5),
            "features.1.0.weight": (5, 1, 3, 3),
            **_norm("features.1.1", 5),
            "features.1.3.weight": (16, 5, 1, 1),
        },
    ),
    "MobileNetV2": (
        {"width_mult": 0.25, "input_size": 16},
        {
            "features.2.conv.0.0.weight": (31, 8, 1, 1),
            **_norm("features.2.conv.0.1", 31),
            "features.2.conv.1.0.weight": (31, 1, 3, 3),
            **_norm("features.2.conv.1.1", 31),
            "features.2.conv.2.weight": (8, 31, 1, 1),
        },
    ),
}

# By default a network with a merged range, one with padding inside.
_LONG = ("ResNet", "RLFN", "SRResNet", "DnCNN", "DenseNet", "VGG", "MobileNetV1", "MobileNetV2")
ROWS = [pytest.param(name, marks=pytest.mark.slow if name in _LONG else ()) for name in CUTS]
"""Every network, for tests with an exporter, which takes long for those with many layers."""


def cut_network(name):
    """A network of uneven widths with random weights and statistics, in eval mode."""
    arguments, shapes = CUTS[name]
    network = build(name, **arguments)
    resize(network, shapes)
    state = {
        key: tensor.clone() if tensor.dtype == torch.int64 else torch.rand(tensor.shape) * 0.2
        for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture
def network():
    """A cut EDSR."""
    return cut_network("EDSR")


@pytest.fixture
def spoil(tmp_path):
    """Rewrite a model file with other metadata, manifest entries or tensors; returns the
    new file.
    """

    def rewrite(path, *, manifest=None, metadata=None, tensors=None, drop=(), text=None):
        with safe_open(path, framework="pt") as file:
            found = {
                key: value for key, value in file.metadata().items() if key != CHECKSUM
            }  # an attacker's right
        described = {**json.loads(found["manifest"]), **(manifest or {})}
        found["manifest"] = text if text is not None else json.dumps(described)
        held = {**load_file(path), **(tensors or {})}
        spoilt = tmp_path / "spoilt.safetensors"
        save_file(
            {k: v for k, v in held.items() if k not in drop},
            spoilt,
            metadata={**found, **(metadata or {})},
        )
        return spoilt

    return rewrite
