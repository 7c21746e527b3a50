"""A convolution before a pixel shuffle computes what the one behind it computed."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dhp_sr.archs import build
from dhp_sr.deploy.onnx_graph import OPSET, convert_to_onnx
from dhp_sr.deploy.shuffle import CHANNEL_BLOCK, weight_before_shuffle

onnx = pytest.importorskip("onnx")

SHAPE = (2, 3, 12, 16)


@pytest.mark.parametrize("block", [2, 3, 4])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_the_moved_weight(block, side):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 3 * block**2, 4, 5, generator=generator, dtype=torch.float64)
    behind = functional.conv2d(functional.pixel_shuffle(x, block), weight, padding=side // 2)
    moved = torch.from_numpy(weight_before_shuffle(weight.numpy(), block))
    before = functional.conv2d(x, moved, padding=moved.shape[-1] // 2)
    torch.testing.assert_close(functional.pixel_shuffle(before, block), behind, rtol=0, atol=1e-10)


class Tail(nn.Module):
    """A convolution, a shuffle and what follows."""

    def __init__(self, behind, block=2):
        super().__init__()
        self.expand = nn.Conv2d(3, 4 * block**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(block)
        self.behind = behind

    def forward(self, x):
        return self.behind(self.shuffle(self.expand(x)))


class Twice(nn.Module):
    """A layer whose input is used twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x.mean(1, keepdim=True)


def exported(network):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return convert_to_onnx(network.eval(), SHAPE, 1, OPSET)


def difference(model, network):
    from dhp_sr.deploy.onnx_runner import open_session

    x = torch.rand(1, 3, 9, 7)
    (result,) = open_session(model.SerializeToString(), 1).run(None, {"input": x.numpy()})
    with torch.no_grad():
        return float(np.abs(result - network(x).numpy()).max())


def order_of(model):
    kinds = [node.op_type for node in model.graph.node]
    return [kind for kind in kinds if kind in ("Conv", "DepthToSpace")]


@pytest.mark.parametrize("bias", [True, False])
def test_shuffles_move_behind_narrow_convolutions(bias):
    network = Tail(nn.Conv2d(4, 3, 3, padding=1, bias=bias))
    model = exported(network)
    assert order_of(model) == ["Conv", "Conv", "DepthToSpace"]
    # Sizes that the model states are those that it has.
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert difference(model, network) < 1e-5


def test_moved_one_after_the_other():
    network = Tail(nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 5, padding=2)))
    model = exported(network)
    assert order_of(model) == ["Conv", "Conv", "Conv", "DepthToSpace"]
    assert difference(model, network) < 1e-5


@pytest.mark.parametrize(
    "behind",
    [
        nn.Conv2d(4, CHANNEL_BLOCK // 4 + 1, 3, padding=1),
        nn.Conv2d(4, 3, 3),
        nn.Conv2d(4, 3, 3, padding=1, stride=2),
        nn.Conv2d(4, 3, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 3, 2, padding=1),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)),
        Twice(),
    ],
)
def test_shuffles_stay_before_other_layers(behind):
    network = Tail(behind)
    model = exported(network)
    assert order_of(model) == ["Conv", "DepthToSpace", "Conv"]
    assert difference(model, network) < 1e-5


def test_a_network_of_two_stages():
    network = build("EDSR", num_feat=8, num_block=1, upscale=4)
    model = exported(network)
    assert order_of(model)[-4:] == ["DepthToSpace", "Conv", "Conv", "DepthToSpace"]
    assert difference(model, network) < 1e-3
