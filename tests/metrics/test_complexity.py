"""The counter against closed forms and torch's own."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dhp_sr.metrics import Complexity, complexity

LAYERS = [
    (nn.Conv2d(6, 10, 3, padding=1), (1, 6, 8, 8), 8 * 8 * 6 * 10 * 9),
    (nn.Conv2d(6, 10, 3, stride=2, dilation=2, bias=False), (1, 6, 9, 9), 3 * 3 * 6 * 10 * 9),
    (nn.Conv2d(6, 12, (1, 3), groups=3), (2, 6, 4, 5), 2 * 4 * 3 * 2 * 12 * 3),
    (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 5, 5), 3 * 3 * 8 * 9),
    (nn.Conv1d(3, 4, 5), (1, 3, 9), 5 * 3 * 4 * 5),
    (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 8 * 2 * 3 * 8),
    (nn.ConvTranspose2d(6, 10, 2, stride=2), (1, 6, 8, 8), 8 * 8 * 6 * 10 * 4),
    (nn.ConvTranspose2d(6, 10, 3, stride=3, groups=2), (1, 6, 4, 4), 4 * 4 * 6 * 5 * 9),
    (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
]


@pytest.mark.parametrize(
    "layer, shape, macs",
    LAYERS,
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_layers_cost_their_closed_form(layer, shape, macs):
    counted = complexity(layer, shape)
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        output = layer(torch.rand(shape))
    assert counted.macs == macs == theirs.get_total_flops() // 2
    assert counted.params == sum(p.numel() for p in layer.parameters())
    is_conv = not isinstance(layer, nn.Linear)
    assert (counted.activations, counted.convs) == ((output.numel(), 1) if is_conv else (0, 0))


class Twice(nn.Module):
    """One convolution, run twice, and a frozen one, never run."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.idle = nn.Conv2d(2, 2, 1, bias=False).requires_grad_(False)

    def forward(self, x):
        return self.conv(self.conv(x))


def test_shared_layers_cost_each_run_but_hold_their_parameters_once():
    assert complexity(Twice(), (1, 2, 3, 3)) == Complexity(
        macs=72, params=8, activations=36, convs=2
    )


class Merged(nn.Module):
    """A convolution whose kernel is computed in the forward, with a tensor made there on no device in particular."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 2, 3, 3))
        self.last = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x):
        return self.last(nn.functional.conv2d(input=x, weight=self.weight + torch.ones(4, 2, 3, 3)))


def test_functions_cost_what_layers_do():
    expected = Complexity(
        macs=4 * 36 * 18 + 4 * 36 * 2 * 4, params=72 + 34, activations=4 * 36 + 2 * 144, convs=2
    )
    assert complexity(Merged(), (1, 2, 8, 8)) == expected


def test_networks_without_parameters_cost_nothing():
    assert complexity(nn.ReLU()) == Complexity(0, 0, 0, 0)


def test_network_stays_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert complexity(network).macs == 126 * 126 * 3 * 4 * 9
    assert network.training and not network[0]._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
