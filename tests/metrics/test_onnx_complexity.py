"""The counts of a graph against those of the network that it was exported from."""

import numpy as np
import onnx
import pytest
from exported import SMALL
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
