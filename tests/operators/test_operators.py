"""One small network for every rule: cut equals masked, and what has no rule is pinned."""

import pytest
import torch
import torch.nn.functional as F
from attention import CrossAttention, MaskedAttention, ModuleAttention, ReadWeights
from topologies import (
    TOPOLOGIES,
    ComputedWeights,
    Gate,
    Hooked,
    Net,
    Sequence,
    SpatialAttention,
    SpectralNorm,
    conv,
    masked,
    with_fixed_weight,
)
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity


@pytest.mark.parametrize("share", [0.75, 0.5])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_cut_equals_masked(name, share):
    least, network = TOPOLOGIES[name]
    hyper, x = masked(network, share)
    assert len(hyper.plan.prunable) >= least
    small = hyper.cut()
    with torch.no_grad():
        expected, found = hyper(x), small(x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert hyper.cost().params == sum(p.numel() for p in small.parameters())
    assert hyper.cost().params < hyper.dense_cost().params
    assert list(small.state_dict()) == list(network.state_dict())


class Function(Net):
    """The piece under test is a function of the features of `inner`."""

    def __init__(self, function, outputs=8):
        super().__init__(outputs, inner=conv(8, 8))
        self.function = function

    def middle(self, x):
        return self.function(self.inner(x))


class Quotient(Net):
    def middle(self, x):
        return self.inner(x) / self.outer(x)


class LayerNorm2d(Net):
    def middle(self, x):
        y = self.inner(x).permute(0, 2, 3, 1)
        return self.norm(y).permute(0, 3, 1, 2)


def pooled(y):
    return y.sigmoid().mean((0, 2, 3))


class Multiplied(Net):
    def middle(self, x):
        y = self.inner(x).flatten(2)
        return torch.matmul((y @ y.transpose(1, 2)).flip(1), y).view_as(x)


class RepeatedMap(Net):
    def middle(self, x):
        return x * torch.sigmoid(self.inner(x)).repeat(1, 8, 1, 1)


class FixedFilters(Net):
    """A kernel in a buffer that reads channels which are not zero where they are masked."""

    def __init__(self, apply, *shape):
        super().__init__(inner=conv(8, 8), norm=nn.BatchNorm2d(8, affine=False))
        self.register_buffer("kernel", torch.rand(*shape))
        self.apply_to = apply

    def middle(self, x):
        return self.apply_to(self.norm(self.inner(x)), self.kernel)


class PlainKernel(Net):
    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.kernel = torch.rand(8, 1, 3, 3, dtype=torch.float64)

    def middle(self, x):
        return F.conv2d(self.inner(x), self.kernel, padding=1, groups=8)


class ScaledByWeights(Net):
    def middle(self, x):
        return self.inner.weight.abs().mean() * self.inner(x)


class TiedBack(Net):
    """A linear layer there and, its weight transposed, back."""

    def middle(self, x):
        y = torch.relu(self.inner(x.permute(0, 2, 3, 1)))
        return F.linear(y, self.inner.weight.t()).permute(0, 3, 1, 2)


class Written(Net):
    """One over a positive value, some entries of which are overwritten."""

    def __init__(self, write):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.write = write

    def middle(self, x):
        y = self.inner(x).exp()
        self.write(y, self.outer(x))
        return y.reciprocal()


class DividedByWidth(Net):
    def middle(self, x):
        return self.inner(x) / self.inner.weight.shape[0]


def padded(mode):
    """Return a network that pads the channels."""

    def pad(y):
        return F.pad(y.unsqueeze(1), (0, 0, 0, 0, 1, 1), mode=mode).squeeze(1)

    return Function(pad, outputs=10)


PINNED = {
    "division": (Quotient(inner=conv(8, 8), outer=conv(8, 8)), {"inner"}, "division by channels"),
    "root": (
        Function(lambda y: torch.sqrt(torch.relu(y))),
        {"inner"},
        "sqrt of channels that would be zero",
    ),
    "power": (Function(lambda y: y.relu() ** 0.5), {"inner"}, "pow of channels that would be zero"),
    "difference_as_a_sum": (
        Function(lambda y: torch.add(F.softplus(y), F.softplus(y + 1), alpha=-1).reciprocal()),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "rounded_quotient": (
        Function(lambda y: torch.div(y.exp() + 2, y.sigmoid(), rounding_mode="floor").reciprocal()),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "clamp_to_an_upper_bound_below": (
        Function(lambda y: y.clamp(1.0, -1.0).reciprocal()),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "difference_in_place": (
        Written(lambda y, z: y.sub_(1)),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "difference_in_a_slice": (
        Written(lambda y, z: y[:, :4].sub_(1)),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "assigned_to_a_slice": (
        Written(lambda y, z: y.__setitem__((slice(None), slice(4)), z[:, :4])),
        {"inner"},
        "reciprocal of channels that would be zero",
    ),
    "group_norm": (
        Sequence(conv(8, 8), nn.GroupNorm(1, 8, affine=False)),
        {"parts.0"},
        "has no weight",
    ),
    "layer_norm": (
        Sequence(conv(8, 8), nn.LayerNorm([8, 8, 8], elementwise_affine=False)),
        {"parts.0"},
        "LayerNorm at parts.1 mixes all",
    ),
    "matmul": (Multiplied(inner=conv(8, 8)), {"inner"}, "an axis that keeps its length"),
    "einsum": (
        Function(lambda y: y * torch.einsum("nchw->nhw", y)[:, None]),
        {"inner"},
        "einsum of other than an equation and operands",
    ),
    "channels_by_their_numbers": (
        Function(lambda y: y.index_select(1, torch.arange(7, -1, -1))),
        {"inner"},
        "index_select picks channels by their numbers",
    ),
    "sorted_channels": (Function(lambda y: y * y.sort(1)[0]), {"inner"}, "sort over channels"),
    "product_over_channels_that_are_not_zero": (
        Function(
            lambda y: y * torch.matmul(input=F.elu(y).movedim(1, -1) + 1, other=pooled(y))[:, None]
        ),
        {"inner"},
        "summed over at matmul, and maybe not zero where they are masked",
    ),
    "unknown": (Function(lambda y: y.logcumsumexp(1)), {"inner"}, "operator logcumsumexp"),
    "every_second": (Function(lambda y: y[:, ::2], outputs=4), {"inner"}, "every n-th channel"),
    "one_channel": (
        Function(lambda y: y * y[:, 0].unsqueeze(1)),
        {"inner"},
        "a single channel taken",
    ),
    "one_by_one": (
        Function(lambda y: sum(y.unbind(1)).unsqueeze(1), outputs=1),
        {"inner"},
        "taken singly",
    ),
    "size_in_arithmetic": (
        Function(lambda y: y * y.shape[1] ** -0.5),
        {"inner"},
        "number of channels goes into",
    ),
    "size_in_a_branch": (
        Function(lambda y: y if y.shape[1] > 4 else y * 2),
        {"inner"},
        "decides on a number of channels",
    ),
    "hook": (Hooked(), {"first", "inner"}, "Conv2d at inner has hooks"),
    "hook_before": (SpectralNorm(), {"first"}, "Conv2d at inner has hooks"),
    "computed_weights": (
        ComputedWeights(),
        {"first"},
        "at inner computes its weights (torch.nn.utils.parametrize.",
    ),
    "tied_among_themselves": (
        RepeatedMap(inner=conv(8, 1)),
        {"first"},
        "coupled with one another",
    ),
    "unequal_parts": (
        Function(lambda y: torch.cat(y.chunk(3, 1)[1:], 1), outputs=5),
        {"inner"},
        "unequal chunks",
    ),
    "fixed_filters": (
        FixedFilters(lambda y, kernel: F.conv2d(y, kernel, padding=1), 8, 8, 3, 3),
        {"inner"},
        "mixed by the buffer kernel at conv2d",
    ),
    "fixed_filters_in_groups": (
        FixedFilters(lambda y, kernel: F.conv2d(y, kernel, padding=1, groups=2), 8, 4, 3, 3),
        {"inner"},
        "mixed by the buffer kernel at conv2d",
    ),
    "fixed_filter_moved_first": (
        FixedFilters(lambda y, kernel: y * F.conv2d(y, kernel.to(y), padding=1), 1, 8, 3, 3),
        {"inner"},
        "mixed by the buffer kernel at conv2d",
    ),
    "fixed_filters_transposed": (
        FixedFilters(lambda y, kernel: F.conv_transpose2d(y, kernel, padding=1), 8, 8, 3, 3),
        {"inner"},
        "mixed by the buffer kernel at conv_transpose2d",
    ),
    "fixed_matrix": (
        FixedFilters(
            lambda y, kernel: F.linear(y.permute(0, 2, 3, 1), kernel).permute(0, 3, 1, 2), 8, 8
        ),
        {"inner"},
        "mixed by the buffer kernel at linear",
    ),
    "fixed_layer": (
        Sequence(conv(8, 8), nn.BatchNorm2d(8, affine=False), with_fixed_weight(conv(8, 8))),
        {"parts.0"},
        "mixed by the buffer parts.2.weight at parts.2",
    ),
    "plain_kernel": (
        PlainKernel(),
        {"inner"},
        "kernel of shape (8, 1, 3, 3) is a plain tensor: register it as a buffer",
    ),
    "weights_as_values": (
        ScaledByWeights(inner=conv(8, 8)),
        {"first", "inner"},
        "the forward computes with the values of inner.weight",
    ),
    "weights_tied_back": (
        TiedBack(inner=nn.Linear(8, 12)),
        {"first", "inner"},
        "the forward computes with the values of inner.weight",
    ),
    "attention_to_other_features": (
        CrossAttention(batch_first=True),
        {"first"},
        "attends to other features than those that ask",
    ),
    "attention_with_masked_keys": (
        MaskedAttention(batch_first=True),
        {"first"},
        "MultiheadAttention at attention has a mask",
    ),
    "attention_whose_weights_are_read": (
        ReadWeights(batch_first=True),
        {"first"},
        "gives away its weights",
    ),
    "width_of_a_weight": (
        DividedByWidth(inner=conv(8, 8)),
        {"inner"},
        "a number of channels goes into truediv",
    ),
    "padding_with_channels": (
        padded("replicate"),
        {"inner"},
        "channels repeated by padding at pad",
    ),
    "padding_around_channels": (
        padded("circular"),
        {"inner"},
        "channels repeated by padding at pad",
    ),
    "one_map_for_all": (
        SpatialAttention(inner=conv(8, 1)),
        {"inner"},
        "one value for all channels",
    ),
}
"""Case -> network, groups, and the reason that their plan gives."""


@pytest.mark.parametrize("name", PINNED)
def test_what_cannot_be_cut_is_pinned_with_its_reason(name):
    network, pinned, reason = PINNED[name]
    hyper, x = masked(network, 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert all(reason in reasons[group] for group in pinned), reasons
    small = hyper.cut()
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"weights": False}, {"bias": False}])
def test_an_attention_of_torch_costs_what_is_counted(settings):
    """Whole, cut, and where it is pinned: by both counters."""
    hyper, x = masked(ModuleAttention(batch_first=True, **settings), 0.5)
    assert hyper.dense_cost().macs == complexity(hyper.network, x[:1].shape).macs
    small = hyper.cut()
    assert hyper.cost().macs == complexity(small, x[:1].shape).macs


@pytest.mark.parametrize(
    "network", [CrossAttention(batch_first=True), ReadWeights(batch_first=True)]
)
def test_a_pinned_attention_is_counted(network):
    hyper, x = masked(network, 0.5)
    assert hyper.dense_cost().macs == complexity(hyper.network, x[:1].shape).macs


def test_the_features_around_an_attention_can_be_pruned_alone():
    """No size in its forward changes, and its class still cannot run with fewer features."""
    network = ModuleAttention(batch_first=True).double().eval()
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    hyper = convert(network, x, exclude=["attention"]).eval()
    hyper.set_masks({"first": torch.arange(8) < 5})
    small = hyper.cut()
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    assert small.attention.in_proj_weight.shape == (24, 5)


def test_dropout_of_a_cut_attention_follows_the_mode():
    hyper, x = masked(ModuleAttention(dropout=0.5, batch_first=True), 0.5)
    small = hyper.cut()
    assert torch.equal(small.eval()(x), small(x))
    assert not torch.equal(small.train()(x), small(x))


def test_the_data_of_a_value_has_its_channels():
    hyper, x = masked(Function(lambda y: y.data + 1), 0.5)
    assert "inner" in {group.name for group in hyper.plan.prunable}
    torch.testing.assert_close(hyper.cut()(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_fixed_kernels_multiply_but_are_no_parameters():
    hyper, _ = masked(TOPOLOGIES["layers_with_fixed_kernels"][1], 0.5)
    small = hyper.cut()
    assert hyper.cost().macs == complexity(small, (1, 2, 8, 8)).macs
    assert [
        axis.dim for axis in hyper.plan.axes if axis.tensor in ("parts.0.weight", "parts.2.weight")
    ] == [0, 0]
    assert small.parts[0].weight.shape == (4, 1, 3, 3) and small.parts[0].groups == 4


def test_a_gate_keeps_its_halves_equal():
    hyper, _ = masked(Gate(inner=conv(8, 16)), 0.5)
    assert next(group for group in hyper.plan.groups if group.name == "inner").width == 8
