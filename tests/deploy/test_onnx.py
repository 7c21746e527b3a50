"""ONNX files: the same numbers as PyTorch at any size, one file, and clear words when something is missing."""

import builtins

import numpy as np
import pytest
import torch

from dhp_sr.deploy.onnx import export_onnx, open_onnx, require_onnx
from dhp_sr.utils.errors import UserError

from .conftest import CUTS, cut_network

MULTIPLES = {"UNet": 4}


@pytest.fixture
def onnx():
    """Skip where the extra is not installed."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


def _rows():
    """Every network; the exporter takes long for those with many layers."""
    long = ("DenseNet", "VGG", "MobileNetV1", "MobileNetV2")
    return [pytest.param(name, marks=pytest.mark.slow if name in long else ()) for name in CUTS]


@pytest.mark.parametrize("name", _rows())
def test_cut_networks_give_the_same_numbers_at_any_size(onnx, name, tmp_path):
    network, multiple = cut_network(name), MULTIPLES.get(name, 1)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    path = tmp_path / "small.onnx"
    more = getattr(network, "input_size", 0)
    difference = export_onnx(network, path, (1, network.in_channels, more + 16, more + 24), size_multiple=multiple)
    assert 0 <= difference < 1e-5
    for batch, height, width in ((1, 8, 28), (4, 20, 12)):
        x = torch.rand(batch, network.in_channels, more + height, more + width)
        (found,) = open_onnx(path).run(["output"], {"input": x.numpy()})
        expected = network(x).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert not onnx.load(path).functions
    if name != "DenseNet":  # whose normalisations come before the convolutions
        assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


def test_the_output_says_the_scale(onnx, tmp_path):
    network = cut_network("EDSR")
    export_onnx(network, tmp_path / "x2.onnx", (1, 3, 8, 8))
    (output,) = open_onnx(tmp_path / "x2.onnx").get_outputs()
    assert output.shape == ["batch", 3, "2*height", "2*width"]


def test_a_file_that_computes_something_else_is_not_kept(onnx, tmp_path, monkeypatch):
    network = cut_network("DnCNN")
    monkeypatch.setattr("dhp_sr.deploy.onnx._compare", lambda *_: 0.5)
    with pytest.raises(UserError, match=r"not written: expected PyTorch's output within 0\.0001, found .* 0\.5"):
        export_onnx(network, tmp_path / "wrong.onnx", (1, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_nan_is_no_agreement(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr("dhp_sr.deploy.onnx._compare", lambda *_: float("nan"))
    with pytest.raises(UserError, match="not written"):
        export_onnx(cut_network("DnCNN"), tmp_path / "wrong.onnx", (1, 1, 8, 8))


def test_what_cannot_be_traced_is_named(onnx, tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branches has no ONNX form"):
        export_onnx(Branches(), tmp_path / "branches.onnx", (1, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_kind(onnx, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"text\.onnx: expected a file that onnxruntime can run"):
        open_onnx(tmp_path / "text.onnx")


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 10, 8), (0, 1, 8, 8)])
def test_examples_that_do_not_fit(onnx, tmp_path, shape):
    with pytest.raises(UserError, match="multiples of 4, found"):
        export_onnx(cut_network("UNet"), tmp_path / "x.onnx", shape, size_multiple=4)


def test_a_missing_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    pattern = r"need the package (onnx|onnxruntime), .*pip install 'dhp_sr\[onnx\]'"
    with pytest.raises(UserError, match=pattern):
        require_onnx()
