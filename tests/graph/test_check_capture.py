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


class Several(nn.Module):
    """Returns what `arranged` makes of three tensors."""

    def __init__(self, arranged):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.arranged = arranged

    def forward(self, x):
        y = self.conv(x)
        return self.arranged(y, y * 2, y.mean((2, 3)))


ARRANGED = {
    "tuple": lambda first, second, third: (first, second, third),
    "nested": lambda first, second, third: [first, {"second": (second, None, third)}],
    "dict": lambda first, second, third: {"out": first, "aux": second, "size": 7, "mean": third},
}


@pytest.mark.parametrize("arranged", ARRANGED.values(), ids=ARRANGED)
@pytest.mark.parametrize("position", range(3))
def test_all_tensors_of_an_output_are_compared(arranged, position):
    network, example = Several(arranged), torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    check_capture(network, traced, example)
    # The graph computes one of the results otherwise.
    changed = [tensor for tensor in traced.graph_module.graph.nodes if tensor.op != "placeholder"]
    changed = changed[position]
    with traced.graph_module.graph.inserting_after(changed):
        other = traced.graph_module.graph.call_function(torch.neg, (changed,))
    changed.replace_all_uses_with(other, lambda user: user is not other)
    traced.graph_module.recompile()
    with pytest.raises(UserError, match="difference of"):
        check_capture(network, traced, example)


def test_a_graph_that_fails_where_the_network_runs_is_refused():
    network, example = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)

    def fail(module, args):
        raise ValueError("no such size")

    traced.graph_module.register_forward_pre_hook(fail)
    with pytest.raises(UserError, match="no such size"):
        check_capture(network, traced, example)
    # Where the network itself does not take random values there is nothing to compare.
    network.register_forward_pre_hook(fail)
    check_capture(network, traced, example)


def test_a_graph_that_knows_its_size_ends_the_trial_of_a_small_image(monkeypatch):
    network, example = BySize(), torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    shapes = []
    forward = BySize.forward
    monkeypatch.setattr(
        BySize, "forward", lambda self, x: shapes.append(tuple(x.shape[2:])) or forward(self, x)
    )
    check_capture(network, traced, example)
    assert shapes == [(64, 128)]


class Strided(Windows):
    """Works at multiples of 64 alone, and reads every other pixel at the center of its kernel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, stride=(2, 1))

    def forward(self, x):
        return self.conv(x).unflatten(2, (-1, 32)).unflatten(4, (-1, 64)).mean((3, 5))


class Convolutions(TorchDispatchMode):
    """Counts convolutions of several channels."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.count += not args[0].is_meta and args[0].shape[1] > 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("macs", [0, 1e9])
def test_of_a_large_image_every_pixel_counts_and_convolutions_are_bounded(sizes, monkeypatch, macs):
    monkeypatch.setattr(capture, "_MAX_MACS", macs)
    monkeypatch.setattr(capture, "_MANY_PIXELS", 64 * 128)
    network, example = Strided(), torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    with Convolutions() as convolutions:
        check_capture(network, traced, example)
    # On the small image the graph alone runs, as far as it does.
    assert sizes == [(16, 32), (64, 128)]
    assert convolutions.count == 1 + (2 if macs else 0)

    def shifted(module, args):
        (image,) = args
        between = torch.arange(image.shape[2])[:, None] % 2
        return (image + between,)

    traced.graph_module.register_forward_pre_hook(shifted)
    with pytest.raises(UserError, match="difference of"):
        check_capture(network, traced, example)


def test_convolutions_are_computed_until_their_multiply_adds_are_spent():
    layer, x = nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.rand(2, 4, 7, 8)
    macs = 2 * 7 * 8 * 6 * 2 * 9
    upwards = nn.ConvTranspose2d(6, 4, 2, stride=2)
    macs_upwards = 2 * 7 * 8 * 6 * 4 * 4
    expected = layer(x), upwards(layer(x))
    for budget, equal in ((macs - 1, (0, 0)), (macs, (1, 0)), (macs + macs_upwards, (1, 1))):
        with CheapConvolutions(after_macs=budget):
            y = layer(x)
            results = y, upwards(y)
        found = [torch.equal(a, b) for a, b in zip(expected, results, strict=True)]
        assert found == list(map(bool, equal))


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
