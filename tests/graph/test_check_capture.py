"""A captured graph computes what the network does, at the example's size if at no smaller one."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dhp_sr.graph import capture
from dhp_sr.graph.capture import check_capture, trace
from dhp_sr.graph.cheap_convolutions import CheapConvolutions
from dhp_sr.utils.errors import UserError


class Windows(nn.Module):
    """Takes the mean of each window: works at multiples of 64 alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).unflatten(2, (-1, 64)).unflatten(4, (-1, 64)).mean((3, 5))


class BySize(nn.Module):
    """Computes something else for small images, which the graph of a large one does not know."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.shape[2] >= 64 else self.conv(x) * 2


NETWORKS = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), Windows(), BySize()]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_right_capture_passes_and_a_wrong_one_is_refused(network):
    example = torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    check_capture(network, traced, example)
    traced.graph_module.register_forward_hook(lambda module, args, result: result + 1)
    with pytest.raises(UserError, match="difference of"):
        check_capture(network, traced, example)


@pytest.fixture
def sizes(monkeypatch):
    """Sizes of the images on which a network and its graph were compared so far."""
    sizes = []
    difference = capture._difference

    def recorded(network, traced, image, further):
        sizes.append(tuple(image.shape[2:]))
        return difference(network, traced, image, further)

    monkeypatch.setattr(capture, "_difference", recorded)
    return sizes


def test_a_small_image_is_enough_where_the_forward_takes_any(sizes):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    traced = trace(network, torch.zeros(1, 3, 64, 128))
    check_capture(network, traced, torch.zeros(1, 3, 64, 128))
    check_capture(network, traced, torch.zeros(1, 3, 32, 128))
    assert sizes == [(16, 32), (32, 128)]


class Two(nn.Sequential):
    def forward(self, x):
        return super().forward(x), x


def test_nothing_is_run_where_there_is_nothing_to_compare(sizes):
    network, example = Two(nn.Conv2d(3, 4, 3, padding=1)), torch.zeros(1, 3, 64, 128)
    check_capture(network, trace(network, example), example)
    assert sizes == []


class Convolutions(TorchDispatchMode):
    """Counts convolutions of values."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.count += not args[0].is_meta
        return func(*args, **kwargs or {})


def test_no_convolution_of_a_large_image_is_computed_unless_there_is_a_difference(
    sizes, monkeypatch
):
    monkeypatch.setattr(capture, "_MANY_PIXELS", 64 * 128)
    network, example = Windows(), torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    with Convolutions() as convolutions:
        check_capture(network, traced, example)
        # The network alone runs on the small image, as far as it does.
        assert convolutions.count == 1
        assert sizes == [(16, 32), (64, 128)]
        traced.graph_module.register_forward_hook(lambda module, args, result: result + 1)
        with pytest.raises(UserError, match="difference of"):
            check_capture(network, traced, example)
        assert convolutions.count == 1 + 1 + 2
    assert sizes[2:] == [(16, 32), (64, 128), (64, 128)]


LAYERS = [
    (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 8)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=2, groups=2, bias=False), (1, 4, 9, 8)),
    (nn.Conv1d(4, 8, 3, groups=4), (2, 4, 9)),
    (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2), (1, 4, 5, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
@torch.no_grad()
def test_a_cheap_convolution_has_the_shape_of_one_and_depends_on_all_it_is_given(layer, shape):
    x = torch.rand(shape)
    expected = layer(x)

    def cheap(layer, x):
        with CheapConvolutions():
            return layer(x)

    result = cheap(layer, x)
    assert result.shape == expected.shape
    assert torch.equal(result, cheap(layer, x))
    assert 0.02 < float(result.std() / expected.std()) < 50
    changed = [cheap(layer, x.roll(1, 1)), cheap(layer, x.roll(1, -1))]
    for tensor in layer.parameters():
        for dim in range(tensor.dim()):
            if tensor.shape[dim] > 1:
                other = copy.deepcopy(layer)
                for parameter in other.parameters():
                    if parameter.shape == tensor.shape:
                        parameter.copy_(parameter.roll(1, dim))
                changed.append(cheap(other, x))
    for different in changed:
        assert float((different - result).abs().max()) > 1e-3 * float(result.abs().max())
