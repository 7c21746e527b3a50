"""Products of channels with channels: what loses which, what it costs, and what stays pinned."""

import pytest
import torch
import torch.nn.functional as F
from channel_matrices import CHANNEL_MATRICES, CovarianceAttention, LinearAttention, elu_and_one
from topologies import Net, conv, masked

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.metrics.complexity import complexity


@pytest.mark.parametrize("name", CHANNEL_MATRICES)
def test_plan_and_counter_agree_and_other_sizes_are_exact(name):
    hyper, x = masked(CHANNEL_MATRICES[name][1], 0.5)
    small = hyper.cut()
    assert hyper.cost().macs == complexity(small, (1, *x.shape[1:])).macs
    assert hyper.dense_cost().macs == complexity(hyper.network, (1, *x.shape[1:])).macs
    x = torch.rand(2, 2, 9, 14, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_queries_and_keys_lose_the_same_channels_and_values_others():
    hyper, _ = masked(LinearAttention(elu_and_one), 0.5)
    members = {group.name: group.members for group in hyper.plan.prunable}
    assert members["q"] == ("q", "k") and members["v"] == ("v",)
    hyper.set_masks({"q": torch.arange(6) < 1, "v": torch.arange(8) < 5})
    small = hyper.cut()
    assert (small.q.out_channels, small.k.out_channels, small.v.out_channels) == (1, 1, 5)


class Products(CovarianceAttention):
    def __init__(self, function):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.function = function

    def middle(self, x):
        y = self.inner(x).flatten(2)
        return self.outer(self.function(y @ y.mT, y).reshape(x.shape))


@pytest.mark.parametrize(
    "function",
    [
        lambda scores, y: scores.flip(1) @ y,
        lambda scores, y: scores.topk(4)[0] @ y[:, :4],
        lambda scores, y: scores.view(-1, 8, 8) @ y,
        lambda scores, y: scores @ y * scores.mean(),
        lambda scores, y: (scores / y.mean(2, keepdim=True)) @ y,
        lambda scores, y: (scores * scores.shape[1] ** -0.5) @ y,
        lambda scores, y: scores.relu_() @ y + scores @ y,
        lambda scores, y: (scores + torch.ones(8, 8)) @ y,
        lambda scores, y: (1 / scores) @ y,
        lambda scores, y: (scores * scores.max(-1, keepdim=True)[1]) @ y,
        lambda scores, y: (scores * scores.argmax(-1, keepdim=True)) @ y,
        lambda scores, y: (scores * scores.max()) @ y,
        lambda scores, y: (scores * scores.amax(1)[:, None]) @ y,
        lambda scores, y: F.layer_norm(scores, (8,)) @ y,
    ],
)
def test_what_has_no_rule_pins_the_channels(function):
    hyper, x = masked(Products(function), 0.5)
    assert "inner" not in {group.name for group in hyper.plan.prunable}
    torch.testing.assert_close(hyper.cut()(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_channels_that_meet_positions_are_pinned():
    class Mixed(Net):
        def middle(self, x):
            gram = self.inner(x).flatten(2) @ self.outer(x).flatten(2).mT
            return (gram @ torch.linspace(0, 1, 64, dtype=x.dtype).view(8, 8)) @ x.flatten(2)

        def forward(self, x):
            return self.last(self.middle(self.first(x)).reshape(-1, 8, *x.shape[2:]))

    hyper, x = masked(Mixed(inner=conv(8, 8), outer=conv(8, 8)), 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert "keeps its length" in reasons["outer"] and reasons["inner"] == ""
    torch.testing.assert_close(hyper.cut()(x), hyper(x), rtol=1e-10, atol=1e-10)


def test_without_kept_statistics_a_sum_over_channels_pins_them():
    network = LinearAttention(elu_and_one)
    plan = make_plan(network, torch.rand(1, 2, 8, 8), kept_statistics=False)
    reasons = {group.name: group.reason for group in plan.groups}
    assert "maybe not zero where they are masked" in reasons["q"]
    assert not plan.has_kept_statistics
