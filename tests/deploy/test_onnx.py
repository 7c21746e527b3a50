"""ONNX files: the same numbers as PyTorch at any size, one file, and clear words when something is
missing.
"""

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import SMALL
from torch import nn

from dhp_sr.archs import build
from dhp_sr.deploy.model_info import construct
from dhp_sr.deploy.onnx_export import export_onnx
from dhp_sr.deploy.onnx_graph import OPSETS, convert_to_onnx
from dhp_sr.deploy.onnx_metadata import unpack_metadata
from dhp_sr.deploy.onnx_runner import open_session, require_onnx
from dhp_sr.deploy.simplify import simplify
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.names import register_known

from .conftest import ROWS, cut_network
from .test_onnx_metadata import FACTS as SOME_FACTS

ROOT = Path(__file__).resolve().parents[2]
FACTS = {**SOME_FACTS, "halo": 7}


@pytest.fixture
def onnx():
    """Skip where the extra is not installed."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


@pytest.mark.parametrize("name", ROWS)
def test_cut_networks_give_the_same_numbers_at_any_size(onnx, name, tmp_path):
    network = cut_network(name)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    path = tmp_path / "small.onnx"
    more = getattr(network, "input_size", 0)
    found = export_onnx(network, path, (1, network.in_channels, more + 16, more + 24))
    assert 0 <= found.largest < 1e-5 and len(found.differences) == 2
    for batch, height, width in ((1, 17, 27), (4, 20, 16)):
        x = torch.rand(batch, network.in_channels, more + height, more + width)
        (found,) = open_session(path).run(["output"], {"input": x.numpy()})
        expected = network(x).detach().numpy()
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max())
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    (output,) = open_session(path).get_outputs()
    sides = [
        axis if network.scale == 1 else f"{network.scale}*{axis}" for axis in ("height", "width")
    ]
    assert output.shape[2:] == ([] if network.task == "classification" else sides)
    assert not onnx.load(path).functions
    if name != "DenseNet":  # whose normalizations come before the convolutions
        assert "BatchNormalization" not in {node.op_type for node in onnx.load(path).graph.node}


@pytest.fixture
def forgets(monkeypatch):
    """An exporter that loses the bias of the last layer, or makes it NaN."""

    def spoil(value):
        def prepare(network):
            changed = real(network)
            changed.model[-1].bias.fill_(value)
            return changed

        monkeypatch.setattr("dhp_sr.deploy.onnx_export.simplify", prepare)

    real = simplify
    return spoil


@pytest.mark.parametrize("value", [9.0, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(onnx, tmp_path, forgets, value):
    forgets(value)
    path = tmp_path / "wrong.onnx"
    path.write_bytes(b"an older file")
    with pytest.raises(
        UserError,
        match=r"not written: .*0\.0001",
    ):
        export_onnx(cut_network("DnCNN"), path, (1, 1, 8, 8))
    assert [entry.name for entry in tmp_path.iterdir()] == [
        "wrong.onnx"
    ] and path.read_bytes() == b"an older file"


SLOWLY = pytest.mark.slow
SLOW = [pytest.param(opset, marks=SLOWLY) for opset in OPSETS[1:-1]]


@pytest.mark.parametrize("opset", [OPSETS[0], *SLOW, OPSETS[-1]])
def test_every_opset_is_really_that_one(onnx, tmp_path, opset):
    network = build("DnCNN", num_feat=4, num_layers=3).eval()
    assert (
        export_onnx(network, tmp_path / "x.onnx", (1, 1, 8, 8), opset=opset, facts=FACTS).largest
        < 1e-6
    )
    model = onnx.load(tmp_path / "x.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    content = (tmp_path / "x.onnx").read_bytes()
    assert str(ROOT).encode() not in content and b"torch/nn/modules" not in content
    assert (
        unpack_metadata(open_session(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map)[
            "halo"
        ]
        == 7
    )


def test_other_opsets_are_refused(onnx, tmp_path):
    with pytest.raises(UserError, match=r"17 .*20.*16"):
        export_onnx(cut_network("DnCNN"), tmp_path / "x.onnx", (1, 1, 8, 8), opset=16)


def test_half_is_half_throughout(onnx, tmp_path):
    network = build("EDSR", num_feat=8, num_block=1, upscale=2).eval()
    found = export_onnx(network, tmp_path / "half.onnx", (1, 3, 8, 8), half=True)
    assert 1e-6 < found.largest < 2e-3
    model = onnx.load(tmp_path / "half.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16} and "Cast" not in {
        node.op_type for node in model.graph.node
    }
    session = open_session(tmp_path / "half.onnx")
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float16)"


def test_what_leaves_the_range_of_half_is_refused(onnx, tmp_path):
    network = build("DnCNN", num_feat=4, num_layers=3, batch_norm=False).eval()
    with torch.no_grad():
        network.model[0].weight *= 1e6
        network.model[2].weight *= 1e-6
    with pytest.raises(UserError, match="fp16 does not suit the network"):
        export_onnx(network, tmp_path / "half.onnx", (1, 1, 8, 8), half=True)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_named(onnx, tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Branches"):
        export_onnx(Branches(), tmp_path / "branches.onnx", (1, 1, 8, 8))
    assert not list(tmp_path.iterdir())


def test_weights_that_no_single_file_holds_are_refused_before_the_tracing(onnx, tmp_path):
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 2**14, 3), nn.Conv2d(2**14, 2**12, 3))
    with pytest.raises(UserError, match=r"less than 2 GiB.* got 2\.3 GiB; take --format pt2"):
        convert_to_onnx(network, (1, 3, 8, 8), 1, 20)


def test_a_file_of_another_kind(onnx, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"text\.onnx: "):
        open_session(tmp_path / "text.onnx")


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 10, 8), (0, 1, 8, 8)])
def test_examples_that_do_not_fit(onnx, tmp_path, shape):
    with pytest.raises(UserError, match="multiples of 4"):
        export_onnx(cut_network("DnCNN"), tmp_path / "x.onnx", shape, size_multiple=4)


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


class Upscaler(nn.Module):
    """Channel attention and two interpolations, as networks of BasicSR have them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        features = self.first(x)
        features = features * torch.sigmoid(features.mean((2, 3), keepdim=True))
        for _ in range(2):
            features = torch.nn.functional.interpolate(features, scale_factor=2, mode="nearest")
        return self.last(features)


@pytest.mark.parametrize(
    ("opset", "half"),
    [(17, True), pytest.param(17, False, marks=SLOWLY), pytest.param(20, True, marks=SLOWLY)],
)
def test_interpolation_and_means_in_every_opset_and_precision(onnx, tmp_path, opset, half):
    found = export_onnx(
        Upscaler().eval(), tmp_path / "x.onnx", (1, 3, 8, 8), opset=opset, half=half
    )
    assert found.largest < (2e-3 if half else 1e-5)
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert [entry.version for entry in model.opset_import] == [opset]
    read = {name for node in model.graph.node for name in node.input}
    assert {constant.name for constant in model.graph.initializer} <= read


BASICSR = {
    "MSRResNet": {"num_feat": 8, "num_block": 1, "upscale": 4},
    "RRDBNet": {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 2},
    "RCAN": {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "num_feat": 16,
        "num_group": 1,
        "num_block": 1,
        "upscale": 2,
    },
    "RIDNet": {"in_channels": 3, "mid_channels": 16, "out_channels": 3, "num_block": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("name", BASICSR)
def test_networks_of_basicsr(onnx, tmp_path, name, opset, half):
    register_known()
    network = construct(f"basicsr:{name}", BASICSR[name]).eval()
    export_onnx(network, tmp_path / "x.onnx", (2, 3, 16, 18), opset=opset, half=half)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("name", SMALL)
def test_our_networks_in_half(onnx, tmp_path, name, opset):
    network = build(name, **SMALL[name]).eval()
    shape = (2, network.in_channels, 16, 18)
    found = export_onnx(network, tmp_path / "x.onnx", shape, opset=opset, half=True)
    assert 0 < found.largest < 1e-2
