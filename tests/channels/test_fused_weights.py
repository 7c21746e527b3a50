"""Weights that a forward computes from those of several layers: which channels they have."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fused_weights import FUSED_WEIGHTS, FusedNorms, identity_kernel
from topologies import Net, conv, masked
from torch import nn

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity


def reasons(network):
    plan = make_plan(network, torch.rand(1, 2, 8, 8))
    return {group.name: group.reason for group in plan.groups}


@pytest.mark.parametrize("name", FUSED_WEIGHTS)
def test_a_cut_costs_what_is_counted_and_leaves_all_layers_whole(name):
    hyper, x = masked(FUSED_WEIGHTS[name][1], 0.5)
    assert hyper.dense_cost().macs == complexity(hyper.network, (1, *x.shape[1:])).macs
    small = hyper.cut()
    assert hyper.cost().macs == complexity(small, (1, *x.shape[1:])).macs
    assert hyper.cost().params == sum(parameter.numel() for parameter in small.parameters())
    for module in small.modules():
        bias = getattr(module, "bias", None)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and bias is not None:
            assert len(bias) == len(module.weight)


def test_weight_and_vectors_lose_the_same_channels():
    hyper, _ = masked(FUSED_WEIGHTS["fused_norms"][1], 0.5)
    small = hyper.cut()
    assert small.wide.weight.shape == (4, 4, 3, 3)
    assert small.identity.shape == (4, 4, 3, 3)
    assert len(small.norm.running_mean) == len(small.other.weight) == 4


def test_a_buffer_in_the_weight_passes_on_what_is_left_in_masked_channels():
    """A sigmoid makes 0.5 of a zero: with the identity, masks would not do what a cut does."""
    assert "a buffer is part of the weight" in reasons(FusedNorms(nn.Sigmoid()))["first"]
    assert reasons(FusedNorms(nn.ReLU()))["first"] == ""


class Computed(Net):
    def __init__(self, function, **more):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8), **more)
        self.function = function
        self.register_buffer("identity", identity_kernel(8))

    def middle(self, x):
        return F.conv2d(x, self.function(self), padding=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda net: net.inner.weight + net.outer.weight.exp(),
        lambda net: net.inner.weight / net.outer.weight,
        lambda net: net.inner.weight * net.outer.weight.mean((0, 1), keepdim=True),
        lambda net: net.inner.weight + torch.eye(8)[:, :, None, None],
        lambda net: net.inner.weight * net.inner.weight.abs().mean(),
        lambda net: (net.inner.weight + net.outer.weight).view(8, 8, 3, 3),
        lambda net: net.inner.weight[[7, 6, 5, 4, 3, 2, 1, 0]] * 2,
        lambda net: F.pad(net.inner.weight * 2, (0, 0, 0, 0, 1, -1)),
    ],
)
def test_what_is_not_followed_pins_the_channels(function):
    assert "computes" in reasons(Computed(function))["first"]
    hyper, x = masked(Computed(function), 0.5)
    torch.testing.assert_close(hyper.cut()(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_a_weight_that_something_else_reads_is_not_followed():
    class Weighted(Computed):
        def middle(self, x):
            weight = self.inner.weight + self.outer.weight
            return F.conv2d(x, weight, padding=1) * weight.mean()

    assert "computes" in reasons(Weighted(None))["first"]


def test_branches_of_training_that_are_fused_in_evaluation_are_planned_as_branches():
    """What they have in common in evaluation need not hold in training."""

    class Block(FusedNorms):
        def middle(self, x):
            if self.training:
                return self.outer(F.relu(self.norm(self.wide(x)) + self.other(self.point(x))))
            weight, bias = self.fused(self.wide.weight, self.norm)
            other_weight, other_bias = self.fused(self.point.weight, self.other)
            weight = weight + F.pad(other_weight, (1, 1, 1, 1))
            return self.outer(F.relu(F.conv2d(x, weight, bias + other_bias, padding=1)))

    network = Block()
    network.point = conv(8, 8, 1, bias=False)
    hyper, x = masked(network, 0.5)
    assert hyper.plan.training_time_form and len(hyper.plan.prunable) == 3
    small = hyper.cut()
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(small.train()(x), hyper.train()(x), rtol=1e-10, atol=1e-10)


class WithIdentity(FusedNorms):
    """RepVGG's block: the kernel of its identity is read in evaluation alone."""

    def middle(self, x):
        if self.training:
            y = self.before(x)
            return self.outer(F.relu(self.norm(self.wide(y)) + self.other(y)))
        return super().middle(x)


def test_a_buffer_that_evaluation_alone_reads_is_cut():
    hyper, x = masked(WithIdentity(), 0.5)
    assert hyper.plan.training_time_form and len(hyper.plan.prunable) == 2
    small = hyper.cut()
    assert small.identity.shape == (4, 4, 3, 3)
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(small.train()(x), hyper.train()(x), rtol=1e-10, atol=1e-10)


def test_a_buffer_that_mixes_channels_in_evaluation_pins_them():
    """What a sigmoid leaves in masked channels would reach others there, not in training."""
    hyper, _ = masked(WithIdentity(nn.Sigmoid()), 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert hyper.plan.training_time_form and "evaluation mixes channels" in reasons["first"]


def test_one_weight_of_two_layers_is_followed_once():
    class Dilated(Computed):
        def middle(self, x):
            weight = self.inner.weight - self.outer.weight
            return F.conv2d(x, weight, padding=1) + F.conv2d(x, weight, padding=2, dilation=2)

    network = Dilated(None).double()
    hyper = convert(copy.deepcopy(network), torch.rand(1, 2, 8, 8, dtype=torch.float64))
    assert len(hyper.plan.prunable) == 2
    assert hyper.dense_cost().macs == complexity(network, (1, 2, 8, 8)).macs
