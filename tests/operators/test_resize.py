"""structure/resize.py: shapes arrive, layers and attributes follow, everything else is refused by
name.
"""

import pytest
import torch
from torch import nn

from dhp_sr.operators.resize import resize
from dhp_sr.utils.errors import UserError

# The layer as it is, the same layer as it shall become, and the shape of an input the new one
# accepts.
LAYERS = {
    "conv": (lambda: nn.Conv2d(8, 6, 3), lambda: nn.Conv2d(5, 4, 3), (1, 5, 7, 7)),
    "conv without bias": (
        lambda: nn.Conv2d(8, 6, 3, bias=False),
        lambda: nn.Conv2d(8, 1, 3, bias=False),
        (1, 8, 7, 7),
    ),
    "conv1d": (lambda: nn.Conv1d(8, 6, 3), lambda: nn.Conv1d(3, 6, 3), (1, 3, 7)),
    "depthwise": (
        lambda: nn.Conv2d(8, 8, 3, groups=8),
        lambda: nn.Conv2d(5, 5, 3, groups=5),
        (1, 5, 7, 7),
    ),
    "depthwise, multiplier": (
        lambda: nn.Conv2d(4, 8, 3, groups=4),
        lambda: nn.Conv2d(3, 6, 3, groups=3),
        (1, 3, 7, 7),
    ),
    "inside groups": (
        lambda: nn.Conv2d(8, 12, 3, groups=4),
        lambda: nn.Conv2d(4, 8, 3, groups=4),
        (1, 4, 7, 7),
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(8, 6, 2),
        lambda: nn.ConvTranspose2d(5, 4, 2),
        (1, 5, 7, 7),
    ),
    "transposed depthwise": (
        lambda: nn.ConvTranspose2d(8, 8, 2, groups=8),
        lambda: nn.ConvTranspose2d(3, 3, 2, groups=3),
        (1, 3, 7, 7),
    ),
    "transposed depthwise, multiplier": (
        lambda: nn.ConvTranspose2d(8, 16, 2, groups=8),
        lambda: nn.ConvTranspose2d(3, 6, 2, groups=3),
        (1, 3, 7, 7),
    ),
    "transposed, inside groups": (
        lambda: nn.ConvTranspose2d(8, 12, 2, groups=2),
        lambda: nn.ConvTranspose2d(4, 10, 2, groups=2),
        (1, 4, 7, 7),
    ),
    "linear": (lambda: nn.Linear(8, 6), lambda: nn.Linear(5, 4), (2, 5)),
    "batch norm": (lambda: nn.BatchNorm2d(8), lambda: nn.BatchNorm2d(5), (2, 5, 3, 3)),
    "batch norm, not affine": (
        lambda: nn.BatchNorm2d(8, affine=False),
        lambda: nn.BatchNorm2d(5, affine=False),
        (2, 5, 3, 3),
    ),
    "instance norm": (
        lambda: nn.InstanceNorm2d(8, affine=True),
        lambda: nn.InstanceNorm2d(5, affine=True),
        (2, 5, 3, 3),
    ),
    "group norm": (lambda: nn.GroupNorm(4, 8), lambda: nn.GroupNorm(3, 6), (2, 6, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm(8), lambda: nn.LayerNorm(5), (2, 5)),
    "prelu": (lambda: nn.PReLU(8), lambda: nn.PReLU(5), (2, 5, 3, 3)),
}


def shapes_of(network):
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


class Scale(nn.Module):
    """A bare parameter, as residual scalings are written."""

    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))


@pytest.mark.parametrize("name", LAYERS)
def test_resized_layer_equals_a_layer_made_in_that_size(name):
    make_old, make_new, input_shape = LAYERS[name]
    old, new = make_old(), make_new()
    resize(old, shapes_of(new))
    old.load_state_dict(new.state_dict())
    x = torch.randn(input_shape)
    assert torch.equal(old(x), new(x))
    assert repr(old) == repr(new)


@pytest.mark.parametrize("name", LAYERS)
def test_resize_works_on_the_meta_device(name):
    make_old, make_new, input_shape = LAYERS[name]
    with torch.device("meta"):
        old, new = make_old(), make_new()
    resize(old, shapes_of(new))
    assert shapes_of(old) == shapes_of(new)
    assert all(tensor.is_meta for tensor in old.state_dict().values())
    assert (
        old(torch.empty(input_shape, device="meta")).shape
        == new(torch.empty(input_shape, device="meta")).shape
    )


def test_dtype_trainability_and_untouched_tensors_are_kept():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)).double()
    network[0].bias.requires_grad_(False)
    kept = network[1].bias
    resize(network, {"0.weight": (5, 3, 3, 3), "0.bias": (5,), "1.weight": (3, 5, 3, 3)})
    assert network[0].weight.dtype == torch.float64
    assert network[0].weight.requires_grad and not network[0].bias.requires_grad
    assert network[1].bias is kept
    assert isinstance(network[0].weight, nn.Parameter)


def test_no_shapes_or_the_same_shapes_change_nothing():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    before = list(network.parameters())
    resize(network, {})
    resize(network, shapes_of(network))
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))


def test_bare_parameters_may_change_their_width():
    network = Scale(8)
    resize(network, {"gain": (1, 5, 1, 1)})
    assert network.gain.shape == (1, 5, 1, 1)


def test_a_module_used_twice_is_resized_once_under_both_names():
    shared = nn.Conv2d(8, 8, 3)
    network = nn.ModuleDict({"a": shared, "b": shared})
    resize(
        network,
        {"a.weight": (5, 5, 3, 3), "a.bias": (5,), "b.weight": (5, 5, 3, 3), "b.bias": (5,)},
    )
    assert network["a"] is network["b"] and shared.weight.shape == (5, 5, 3, 3)


def test_a_tensor_used_by_two_layers_stays_one_tensor():
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    network[1].weight = network[0].weight
    resize(network, {"0.weight": (5, 5), "1.weight": (5, 5)})
    assert network[0].weight is network[1].weight
    with pytest.raises(
        UserError, match=r"1\.weight: shared with another layer that asks for \(4, 5\)"
    ):
        resize(network, {"0.weight": (4, 5), "1.weight": (5, 4)})


def test_non_persistent_buffers_are_left_alone():
    network = nn.BatchNorm2d(4)
    network.register_buffer("mean", torch.ones(3), persistent=False)
    resize(network, shapes_of(nn.BatchNorm2d(2)))
    assert torch.equal(network.mean, torch.ones(3))


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (
            nn.Conv2d(4, 4, 3),
            {"0.weight": (4, 4, 5, 5)},
            r"0\.weight: expected a kernel of \(3, 3\), found \(5, 5\)",
        ),
        (
            nn.Conv2d(4, 4, 3),
            {"0.weight": (4, 4, 9)},
            r"0\.weight: expected 4 axes like \(4, 4, 3, 3\)",
        ),
        (
            nn.Conv2d(4, 4, 3),
            {"0.weight": (0, 4, 3, 3)},
            r"0\.weight: expected at least one channel",
        ),
        (
            nn.Conv2d(4, 4, 3),
            {"0.weight": (2, 4, 3, 3)},
            r"0\.bias: expected \(2,\) beside .* found \(4,\)",
        ),
        (
            nn.Conv2d(4, 4, 3),
            {"0.wieght": (2, 4, 3, 3)},
            r"0\.wieght: the network has no such tensor .*'0\.weight'",
        ),
        (
            nn.Conv2d(8, 8, 3, groups=4),
            {"0.weight": (6, 1, 3, 3)},
            r"divisible by groups=4, found \(6, 1, 3, 3\)",
        ),
        (nn.BatchNorm2d(4), {"0.running_var": (2,)}, r"0\.running_var: expected \(4,\)"),
        (
            nn.GroupNorm(2, 4),
            {"0.weight": (3,), "0.bias": (3,)},
            r"a multiple of 2 channels, found 3",
        ),
        (nn.LayerNorm(4), {"0.weight": (3,)}, r"0\.bias: expected \(3,\)"),
        (
            nn.Embedding(4, 4),
            {"0.weight": (4, 3)},
            r"0\.weight: .*Embedding",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(layer, shapes, message):
    with pytest.raises(UserError, match=message):
        resize(nn.Sequential(layer), shapes)


def test_all_problems_are_reported_together():
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4))
    with pytest.raises(UserError) as error:
        resize(network, {"0.weight": (4, 4, 1, 1), "1.weight": (4,), "2.weight": (4,)})
    assert all(key in str(error.value) for key in ("0.weight", "1.weight", "2.weight"))
