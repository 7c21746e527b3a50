"""An ONNX file as a module: found out what it takes, the same numbers, clear words for files of another kind."""

import pytest
import torch
from exported import SMALL

from dhp_sr.deploy.onnx_network import OnnxNetwork
from dhp_sr.utils.errors import UserError


@pytest.fixture
def onnx():
    """Skip where the extra is not installed."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


@pytest.mark.parametrize("name", SMALL)
def test_what_images_show(exports, name):
    network, path = exports[name]
    side = 8 * network.size_multiple
    found = OnnxNetwork(path)
    assert (found.in_channels, found.scale, found.task) == (network.in_channels, network.scale, network.task)
    assert found.size_multiple == network.size_multiple
    x = torch.rand(2, network.in_channels, side, 2 * side)
    torch.testing.assert_close(found(x), network(x).detach(), rtol=1e-5, atol=1e-5)


def written(onnx, path, *, inputs=1, rank=4, channels=1, kind="FLOAT"):
    """A graph that adds its inputs."""
    helper, element = onnx.helper, getattr(onnx.TensorProto, kind)
    sides = ["n", channels, "h", "w"][:rank]
    names = [f"x{number}" for number in range(inputs)]
    node = helper.make_node("Sum" if inputs > 1 else "Identity", names, ["y"])
    images = [helper.make_tensor_value_info(name, element, sides) for name in names]
    graph = helper.make_graph([node], "g", images, [helper.make_tensor_value_info("y", element, sides)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": 2}, "expected one image"),
        ({"rank": 3}, "expected one image"),
        ({"channels": "c"}, "expected a fixed number of channels on axis 1 of its input, found 'c'"),
        ({"kind": "UINT8"}, r"expected an input of floating-point numbers, found tensor\(uint8\)"),
    ],
)
def test_other_graphs_are_refused(onnx, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        OnnxNetwork(written(onnx, tmp_path / "x.onnx", **change))


def test_half_precision_takes_and_gives_float32(onnx, tmp_path):
    found = OnnxNetwork(written(onnx, tmp_path / "x.onnx", kind="FLOAT16"))
    x = torch.rand(1, 1, 5, 6)
    assert found(x).dtype == torch.float32 and torch.equal(found(x), x.half().float())
