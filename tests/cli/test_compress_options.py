"""Widths that compress.py allows: steps of 16 for wide networks, wherever the target is met."""

import pytest
import torch
from torch import nn

from dhp_sr.cli.compress_options import MANY_GROUPS, width_rules
from dhp_sr.cli.compress_request import Target
from dhp_sr.hyper import convert
from dhp_sr.utils.errors import UserError


def chain(width, num_layers):
    """Convert a network with so many hidden layers, a group each."""
    layers = [nn.Conv2d(3, width, 1), nn.ReLU()]
    for _ in range(num_layers - 1):
        layers += [nn.Conv2d(width, width, 1), nn.ReLU()]
    return convert(nn.Sequential(*layers, nn.Conv2d(width, 3, 1)), torch.rand(1, 3, 4, 4))


HALF = Target("macs", 0.5)


@pytest.mark.parametrize(
    "width, num_layers, expected",
    [
        (64, MANY_GROUPS, 16),
        (52, MANY_GROUPS, 16),
        (64, MANY_GROUPS - 1, 8),
        (40, MANY_GROUPS, 4),
        (16, MANY_GROUPS, 2),
        (15, MANY_GROUPS, 1),
    ],
)
def test_steps_follow_the_width_and_the_number_of_groups(width, num_layers, expected):
    rules = width_rules(chain(width, num_layers), HALF)
    assert (rules.round_to, rules.min_width) == (expected, expected)


@pytest.mark.parametrize(
    "target, expected",
    [
        (Target("params", 0.3), 16),
        # 16 of 64 channels everywhere keep about 0.07.
        (Target("macs", 0.03), 8),
        (Target("quality", 0.1), 16),
        (Target("latency", 0.5), 8),
    ],
)
def test_steps_are_small_where_large_ones_miss_the_target(target, expected):
    hyper = chain(64, MANY_GROUPS)
    before = hyper.mask.clone()
    rules = width_rules(hyper, target)
    assert rules.round_to == expected
    assert torch.equal(hyper.mask, before)
    if target.kind in ("macs", "params"):
        report = hyper.prune_to_budget(rules.budget(target.kind, target.value))
        assert abs(report.ratios[target.kind] - target.value) <= report.budget.margin


def test_a_network_without_channels_to_prune_is_refused():
    with pytest.raises(UserError, match="nothing of this network"):
        width_rules(convert(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4)), HALF)
