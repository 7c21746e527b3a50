"""The counter against closed forms and torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dhp_sr.archs import ARCHS
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.metrics import Complexity, complexity
from dhp_sr.metrics.complexity import decomposed_attention

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
    """A convolution whose kernel is computed in the forward, with a tensor made there."""

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


def flops_by_torch(network, shape):
    """Multiply-adds by torch's counter, which does not know fused attention."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), decomposed_attention(), counter, torch.no_grad():
        network.to("meta").eval()(torch.rand(shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "resnet18"])
def test_networks_of_torchvision(name):
    prepare_torchvision()
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(name)
    shape = (1, 3, 224, 224)
    counted = complexity(network, shape)
    assert counted.macs == flops_by_torch(network, shape) > 1e9
    assert counted.uncounted == ()


@pytest.mark.parametrize("name", ARCHS)
def test_our_networks(name):
    network = ARCHS[name]()
    shape = (1, network.in_channels, 32, 32)
    counted = complexity(network, shape)
    assert counted.macs == flops_by_torch(network, shape) and counted.uncounted == ()


class Called(nn.Module):
    """A function as a network."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, x):
        return self.function(x, **self.layers)


PRODUCTS = {  # of x with shape (2, 5, 8)
    "matmul": (lambda x: x @ x.mT, 2 * 5 * 5 * 8),
    "matmul with a vector": (lambda x: x @ x[0, 0], 2 * 5 * 8),
    "mm": (lambda x: x[0].mm(x[1].T), 5 * 5 * 8),
    "bmm": (lambda x: torch.bmm(x.mT, x), 2 * 8 * 8 * 5),
    "dot": (lambda x: torch.dot(x[0, 0], x[0, 1]), 8),
    "mv": (lambda x: torch.mv(x[0], x[0, 0]), 5 * 8),
    "addmm": (lambda x: torch.addmm(x[0], x[0] @ x[0].T, x[0]), 5 * 5 * 8 * 2),
    "baddbmm": (lambda x: torch.baddbmm(x, x @ x.mT, x), 2 * 5 * 5 * 8 * 2),
    "addbmm": (lambda x: torch.addbmm(x[0], x @ x.mT, x), 2 * 5 * 5 * 8 * 2),
    "einsum": (lambda x: torch.einsum("bic,bjc->bij", x, x), 2 * 5 * 5 * 8),
    "tensordot": (lambda x: torch.tensordot(x, x, ([0, 2], [0, 2])), 5 * 5 * 16),
    "linear": (lambda x: functional.linear(x, x[0]), 2 * 5 * 5 * 8),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
        2 * 2 * 5 * 5 * 8,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_activations_cost_their_closed_form(name):
    function, macs = PRODUCTS[name]
    counted = complexity(Called(function), (2, 5, 8))
    assert counted == Complexity(macs, 0, 0, 0)


def test_attention_layers_cost_their_projections_and_products():
    def attend(x, attention):
        return attention(x, x, x, need_weights=False)[0]

    network = Called(attend, attention=nn.MultiheadAttention(8, 2, batch_first=True))
    products = 2 * 2 * 5 * 5 * 8  # query with key, attention with value
    assert complexity(network, (2, 5, 8)).macs == 4 * 2 * 5 * 8 * 8 + products
    fused = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert complexity(fused, (2, 5, 8)).macs == 2 * 5 * 8 * (4 * 8 + 2 * 16) + products
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: torch.cdist(x, x), ["aten._cdist_forward"]),
        (lambda x: torch.fft.rfft(x).real + torch.fft.rfft(x).imag, ["aten._fft_r2c"]),
        (
            lambda x: functional.grid_sample(x[None], torch.zeros(1, 3, 3, 2), align_corners=False),
            ["aten.grid_sampler_2d"],
        ),
        (lambda x: functional.interpolate(x[None], scale_factor=2, mode="bilinear"), []),
        (lambda x: functional.gelu(x * x.sigmoid()).softmax(-1).norm(), []),
    ],
)
def test_what_is_not_counted_is_named(function, names):
    counted = complexity(Called(function), (2, 5, 8))
    assert counted.macs == 0 and counted.uncounted == tuple(names)


@torch.library.custom_op("dhp_sr_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


def test_operators_of_other_packages_are_named():
    assert complexity(Called(lambda x: twice(x)), (2, 5, 8)).uncounted == ("dhp_sr_tests.twice",)


def test_networks_without_parameters_cost_nothing():
    assert complexity(nn.ReLU()) == Complexity(0, 0, 0, 0)


def test_network_stays_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert complexity(network).macs == 126 * 126 * 3 * 4 * 9
    assert network.training and not network[0]._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
