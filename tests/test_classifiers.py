"""Classifiers of published sizes: converted, cut to half their multiply-adds, saved and loaded
again.
"""

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.hyper import convert

TINY = {"num_classes": 200, "input_size": 64}
SIZES = [
    ("ResNet", {"depth": 20}),
    ("ResNet", {"depth": 20, "shortcut": "projection"}),
    pytest.param("ResNet", {"depth": 56}, marks=pytest.mark.slow),
    pytest.param("ResNet", {"depth": 110}, marks=pytest.mark.slow),
    pytest.param(
        "ResNet",
        {"depth": 110, "block": "bottleneck", "shortcut": "projection"},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "ResNet",
        {"depth": 164, "block": "bottleneck", "shortcut": "projection"},
        marks=pytest.mark.slow,
    ),
    ("DenseNet", {}),
    ("VGG", {}),
    pytest.param("VGG", TINY, marks=pytest.mark.slow),
    ("MobileNetV1", {}),
    pytest.param("MobileNetV1", {**TINY, "width_mult": 2.0}, marks=pytest.mark.slow),
    pytest.param("MobileNetV2", {}, marks=pytest.mark.slow),
    pytest.param("MobileNetV2", {**TINY, "width_mult": 2.0}, marks=pytest.mark.slow),
]


def whole(name, arguments):
    """A float64 network whose normalizations are not trivial."""
    network = build(name, **arguments).double().eval()
    with torch.no_grad():
        for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if key.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


@pytest.mark.parametrize("name, arguments", SIZES)
def test_half_the_macs(name, arguments, tmp_path):
    plain = whole(name, arguments)
    x = torch.rand(2, 3, plain.input_size, plain.input_size, dtype=torch.float64)
    hyper = convert(plain, x[:1]).eval()
    with torch.no_grad():
        torch.testing.assert_close(hyper(x), plain(x), rtol=1e-10, atol=1e-10)
        scores = {name: torch.rand_like(latent) for name, latent in hyper.latents.items()}
        report = hyper.prune_to(macs=0.5, round_to=4, scores=scores)
        assert report.macs_ratio == pytest.approx(0.5, abs=0.01)
        small, expected = hyper.cut(check=False), hyper(x)
        assert float((small(x) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
        save_model(
            small,
            tmp_path / "small.safetensors",
            macs=hyper.cost().macs,
            macs_input=list(x[:1].shape),
        )
        loaded = load_model(tmp_path / "small.safetensors")
        assert type(loaded) is type(plain) and torch.equal(loaded(x), small(x))
    manifest = read_manifest(tmp_path / "small.safetensors")
    stated = {key: manifest[key] for key in ("task", "scale", "input_size", "architecture")}
    assert stated == {
        "task": "classification",
        "scale": 1,
        "input_size": plain.input_size,
        "architecture": name,
    }
    assert manifest["arguments"]["num_classes"] == plain.num_classes
