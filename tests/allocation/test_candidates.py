"""Widths that groups may take, and the axis sizes of choices against those of their masks."""

import pytest
import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import WidthCandidates, allowed_widths, enforce_min_width
from dhp_sr.archs import SRResNet, build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.hyper import convert
from dhp_sr.zoo.networks import example_input


def around(width, middle):
    """A network with `middle` between two convolutions of `width` channels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(width, 1, 3)
    )


GROUPED = {
    "8 groups of 4": (around(32, nn.Conv2d(32, 32, 3, groups=8)), [1, 2, 3, 4]),
    "6 groups of 8": (around(48, nn.Conv2d(48, 48, 3, groups=6)), [4, 8]),
    "3 groups of 8": (around(24, nn.Conv2d(24, 24, 3, groups=3)), [8]),
    "2 groups of 16": (around(32, nn.Conv2d(32, 32, 3, groups=2)), [4, 8, 12, 16]),
    "transposed, 8 groups of 4": (
        around(32, nn.ConvTranspose2d(32, 32, 3, groups=8)),
        [1, 2, 3, 4],
    ),
    "GroupNorm, 8 groups of 4": (around(32, nn.GroupNorm(8, 32)), [2, 4, 6, 8]),
}
"""Case -> network of which one group element is several channels of a layer, and its allowed widths
in elements."""


@pytest.mark.parametrize("case", GROUPED)
def test_layer_widths_are_multiples_of_round_to(case):
    plain, expected = GROUPED[case]
    hyper = convert(plain, torch.rand(1, 1, 12, 12))
    dense = {group.name: group.width for group in hyper.plan.prunable}
    for group in hyper.plan.prunable:
        assert allowed_widths(group, Budget.from_target("macs", 0.5)) == expected
    for width in expected:
        hyper.set_masks({name: torch.arange(whole) < width for name, whole in dense.items()})
        numbers = set()
        for layer in hyper.cut():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                numbers |= {layer.in_channels, layer.out_channels}
        assert numbers == {1, plain[0].out_channels * width // max(dense.values())}
        assert all(number % 8 == 0 for number in numbers - {1})


def test_the_minimum_width_counts_channels_of_layers_not_elements():
    plan = make_plan(GROUPED["8 groups of 4"][0], torch.rand(1, 1, 12, 12))
    kept = enforce_min_width(plan, torch.arange(plan.size) - 100.0, 16)
    assert kept.tolist() == [False, False, True, True] * 2


def test_widths_before_a_shuffle_suit_the_layer_behind_it():
    """Behind the shuffle, the layer has one channel where the up-sampler has four."""
    plan = make_plan(build("EDSR", num_feat=32, num_block=1, upscale=2), torch.rand(1, 3, 8, 8))
    (group,) = [group for group in plan.prunable if group.name == "upsample.0"]
    assert group.channels_per_element == (1, 4)
    assert allowed_widths(group, Budget.from_target("macs", 0.5)) == [8, 16, 24, 32]


WIDTHS = [2, 5, 8]


def make_table():
    """Return candidates of a small network, and a function: indices -> axis sizes of the mask."""
    dense = SRResNet(num_feat=8, num_block=2)
    hyper = convert(dense, example_input(dense))
    groups = hyper.plan.prunable
    orders = [
        torch.randperm(group.width, generator=torch.Generator().manual_seed(group.start))
        for group in groups
    ]
    widths = [WIDTHS if group.width == 8 else [1, group.width] for group in groups]
    table = WidthCandidates(groups, orders, widths, hyper.costs.axis_sizes)

    def sizes_of_mask(indices):
        mask = torch.zeros(hyper.plan.size, dtype=torch.double)
        for group, order, candidates, index in zip(groups, orders, widths, indices, strict=True):
            mask[group.start + order[: candidates[index]]] = 1
        return hyper.costs.axis_sizes.of(mask)

    return table, sizes_of_mask


def test_sizes_of_candidates_are_those_of_their_masks():
    table, sizes_of_mask = make_table()
    for _ in range(5):
        indices = (torch.rand(len(table.last_index)) * (table.last_index + 1)).long()
        assert torch.equal(table.sizes(indices), sizes_of_mask(indices))


def test_changes_and_neighbors():
    table, sizes_of_mask = make_table()
    indices = torch.zeros_like(table.last_index)
    indices[0] = 1
    groups, new_indices = table.neighbors(indices, [-1, 1, 2])
    expected = []
    for group, (now, last) in enumerate(zip(indices.tolist(), table.last_index, strict=True)):
        expected += [(group, now + step) for step in (-1, 1, 2) if 0 <= now + step <= last]
    assert list(zip(groups.tolist(), new_indices.tolist(), strict=True)) == expected
    changes = table.size_change(indices, groups, new_indices)
    for group, index, change in zip(groups, new_indices, changes, strict=True):
        after = indices.clone()
        after[group] = index
        assert torch.equal(table.sizes(indices) + change, sizes_of_mask(after))
    assert len(table.neighbors(table.last_index, [1])[0]) == 0
