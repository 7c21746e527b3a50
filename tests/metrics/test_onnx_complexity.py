"""The counts of a graph against those of the network that it was exported from."""

import numpy as np
import onnx
import pytest
from exported import SMALL
from onnx import TensorProto, helper, numpy_helper
from slow_rows import rows
from torch import nn

from dhp_sr.deploy.onnx_export import export_onnx
from dhp_sr.metrics import complexity
from dhp_sr.metrics.onnx_complexity import onnx_complexity


@pytest.mark.parametrize("name", rows(SMALL, ["EDSR", "DnCNN"]))
def test_the_graph_costs_what_the_network_costs(name, exports):
    network, path = exports[name]
    shape = (2, network.in_channels, 24, 32)
    found, expected = onnx_complexity(path, shape), complexity(network, shape)
    assert (found.macs, found.activations, found.convs) == (
        expected.macs,
        expected.activations,
        expected.convs,
    )
    merged = sum(m.num_features * 2 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    slopes = sum(
        m.num_parameters for m in network.modules() if isinstance(m, nn.PReLU)
    )  # become attributes
    assert found.params == expected.params - merged - slopes


def test_grouped_convolutions_and_products(exports, tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.up = (
                nn.Conv2d(4, 8, 3, groups=2),
                nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
            )
            self.linear = nn.Linear(4, 6)

        def forward(self, x):
            return self.linear(self.up(self.conv(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    network, shape = Mixed().eval(), (1, 4, 12, 10)
    export_onnx(network, tmp_path / "x.onnx", shape)
    found, expected = onnx_complexity(tmp_path / "x.onnx", shape), complexity(network, shape)
    assert found == expected


def test_parameters_in_int8(tmp_path):
    """Weights and biases are stored as integers, their scales are no parameters."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    stored = {
        "w": np.ones((4, 3, 3, 3), np.int8),
        "b": np.ones(4, np.int32),
        "scale": np.ones(4, np.float32),
    }
    constants = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], axis=0),
        helper.make_node("Conv", ["x", "weight", "bias"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [result], constants)
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    found = onnx_complexity(tmp_path / "x.onnx", (1, 3, 6, 6))
    assert (found.params, found.macs) == (4 * 27 + 4, 4 * 27 * 16)


def convolution_file(path, num_listed):
    """A convolution whose weight is listed among the inputs, before the image, as in old files."""
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    listed = [
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, [num_listed, 3, 3, 3]),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"]),
    ]
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["image", "weight"], ["result"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "graph", listed, [result], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), path)
    return path


def test_the_image_is_the_input_that_is_not_stored(tmp_path):
    path = convolution_file(tmp_path / "old.onnx", 4)
    assert onnx_complexity(path, (1, 3, 10, 20)).macs == 10 * 20 * 4 * 3 * 9


def test_a_graph_whose_sizes_onnx_refuses_is_not_counted(tmp_path):
    path = convolution_file(tmp_path / "x.onnx", 5)
    assert onnx_complexity(path, (1, 3, 10, 20)) is None
