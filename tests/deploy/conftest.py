"""Small networks, dense and cut by hand, and model files to spoil."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dhp_sr.archs import build
from dhp_sr.deploy.checksum import CHECKSUM
from dhp_sr.structure.resize import resize

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
}


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
    """Rewrite a model file with other metadata, manifest entries or tensors; returns the new file."""

    def rewrite(path, *, manifest=None, metadata=None, tensors=None, drop=(), text=None):
        with safe_open(path, framework="pt") as file:
            found = {key: value for key, value in file.metadata().items() if key != CHECKSUM}  # an attacker's right
        described = {**json.loads(found["manifest"]), **(manifest or {})}
        found["manifest"] = text if text is not None else json.dumps(described)
        held = {**load_file(path), **(tensors or {})}
        spoilt = tmp_path / "spoilt.safetensors"
        save_file({k: v for k, v in held.items() if k not in drop}, spoilt, metadata={**found, **(metadata or {})})
        return spoilt

    return rewrite
