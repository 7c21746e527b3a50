"""Rewritten forwards: hard-coded sizes are patched, all else stays."""

import copy

import pytest
import torch
import torch.nn.functional as F
from topologies import TOPOLOGIES, Net, SharedAndSplit, conv
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.surgery.rewrite import RewrittenNetwork

REWRITTEN = {
    "split_by_literals",
    "split_evenly",
    "split_by_name_and_taken_apart",
    "slice",
    "narrow",
    "channel_shuffle_by_literals",
    "functional",
    "shared_and_split",
    "optional_input",
    "kernel_computed",
    "fixed_kernels",
    "sizes_of_another",
    "classifier_by_literal_view",
    "attention",
    "attention_fused",
    "attention_module",
    "attention_module_sequence_first",
    "attention_module_with_dropout",
    "attention_between_channels",
    "attention_by_lambdas",
    "linear_attention_heads",
    "layer_norm_by_keyword",
    "norm_without_weights",
    "assigned_slice",
    "group_norm_called",
    "state_of_zeros",
    "shuffle_with_batch",
}
"""The topologies whose own forward would contradict a cut."""


def halved(network, x):
    hyper = convert(network.double().eval(), x).eval()
    torch.manual_seed(1)
    for group in hyper.plan.prunable:
        hyper.set_masks({group.name: torch.randperm(group.width) < group.width // 2})
    return hyper


def example(batch=1, side=8):
    return torch.rand(batch, 2, side, side, dtype=torch.float64)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_forward_without_literals_keeps_its_class(name):
    network = copy.deepcopy(TOPOLOGIES[name][1])
    small = halved(network, example()).cut()
    assert isinstance(small, RewrittenNetwork if name in REWRITTEN else type(network))
    assert type(small).__name__ == type(network).__name__


@pytest.mark.parametrize("name", sorted(REWRITTEN))
def test_an_unpruned_network_keeps_its_class(name):
    network = copy.deepcopy(TOPOLOGIES[name][1]).double().eval()
    assert (
        type(convert(network, example()).cut()) is type(network) or name == "slice"
    )  # a bound from behind


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.filterwarnings(
    "ignore:The tensor attribute:UserWarning"
)  # of export, where hooks compute weights
def test_a_cut_network_is_a_network_like_any_other(name):
    x = example()
    network = copy.deepcopy(TOPOLOGIES[name][1])
    small = halved(network, x).cut()
    copied, fresh = copy.deepcopy(copy.deepcopy(small)), copy.deepcopy(small).train()
    assert getattr(copied, "sizes", None) == getattr(small, "sizes", None)
    assert list(copied.state_dict()) == list(small.state_dict()) == list(network.state_dict())
    assert torch.equal(copied(x), small(x))
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(copied(x), small(x))
    torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), small(x))
    fresh.load_state_dict(small.state_dict())
    fresh(example(batch=3)).square().mean().backward()
    assert sum(p.grad is not None for p in fresh.parameters()) >= len(list(fresh.parameters())) - 2
    torch.optim.SGD(fresh.parameters(), lr=0.1).step()
    assert not small.training and fresh.eval().training is False
    assert fresh(x).isfinite().all() and not torch.allclose(fresh(x), small(x))


@pytest.mark.parametrize("name", sorted(REWRITTEN - {"classifier_by_literal_view"}))
def test_other_sizes_and_batches_still_fit(name):
    hyper = halved(copy.deepcopy(TOPOLOGIES[name][1]), example())
    small, other = hyper.cut(), example(batch=3, side=12)
    torch.testing.assert_close(small(other), hyper(other), rtol=1e-10, atol=1e-10)


class HalfAndSplit(Net):
    """A size as an integer beside a literal."""

    def middle(self, x):
        first, second = torch.split(
            F.interpolate(self.inner(x), size=int(x.shape[2] * 0.5)), [3, 5], 1
        )
        return torch.cat([second, first], 1)


def test_a_size_as_an_integer_follows_the_input():
    hyper = halved(HalfAndSplit(inner=conv(8, 8)), example())
    small = hyper.cut()
    x = example(batch=3)
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    x = example(side=12)
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)


class BranchAndSplit(Net):
    """A branch on the size of the input beside a literal."""

    def middle(self, x):
        first, second = torch.split(self.inner(x), [3, 5], 1)
        return torch.cat([second, first] if x.shape[2] < 10 else [first, second], 1)


def test_a_branch_that_was_followed_is_insisted_on():
    small = halved(BranchAndSplit(inner=conv(8, 8)), example()).cut()
    with pytest.raises(AssertionError, match="this forward was followed with lt = True"):
        small(example(side=12))


def test_shared_modules_stay_shared():
    small = copy.deepcopy(halved(SharedAndSplit(), example()).cut())
    assert small.again is small.inner


class Described(Net):
    """With attributes, a constant outside the state dict, dropout, and a split by literals."""

    scale = 1

    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.in_channels = 2
        self.offset = torch.rand(1, 2, 1, 1)
        self.register_buffer("gain", torch.rand(1, 8, 1, 1), persistent=False)

    def forward(self, x):
        first, second = torch.split(
            self.inner(self.first(x + self.offset.to(x))) * self.gain, [2, 6], 1
        )
        return F.dropout(self.last(torch.cat([second, first], 1)), 0.5, self.training)


def test_attributes_constants_and_dropout_are_kept():
    small = halved(Described(), example()).cut()
    assert isinstance(small, RewrittenNetwork) and small.in_channels == 2
    assert small.gain.shape[1] == small.inner.weight.shape[0] and "gain" not in small.state_dict()
    x = example()
    assert torch.equal(small(x), small(x))
    assert not torch.equal(small.train()(x), small(x))
    assert 0.2 < float((small(x) == 0).double().mean()) < 0.8


class Ordered(Net):
    """Bounds that leave as many channels as before, but others."""

    def middle(self, x):
        y = self.inner(x)
        return torch.cat([y[:, :2], y[:, 4:6], y[:, 2:4], y[:, 6:]], 1)


def test_bounds_move_with_the_channels_before_them():
    x = example()
    hyper = convert(Ordered(inner=conv(8, 8)).double().eval(), x).eval()
    widths = {group.name: group.width for group in hyper.plan.prunable}
    assert [widths[name] for name in ("inner", "inner#2", "inner#3", "inner#4")] == [2, 2, 2, 2]
    for name in ("inner", "inner#3"):
        hyper.set_masks({name: torch.tensor([False, True])})
    torch.testing.assert_close(hyper.cut()(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_no_part_becomes_empty():
    hyper = halved(copy.deepcopy(TOPOLOGIES["slice"][1]), example())
    for group in hyper.plan.prunable:
        hyper.set_masks({group.name: torch.arange(group.width) == 0})
    small = hyper.cut()
    assert min(min(p.shape) for p in small.parameters()) == 1
    assert isinstance(small.first, nn.Conv2d)
