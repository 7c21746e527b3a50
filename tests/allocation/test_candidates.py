"""AxisSizes of widths as levels against counts of masks."""

import torch

from dhp_sr.allocation.candidates import WidthCandidates
from dhp_sr.archs import SRResNet
from dhp_sr.hyper import convert
from dhp_sr.zoo.networks import example_input

WIDTHS = [2, 5, 8]


def _table():
    dense = SRResNet(num_feat=8, num_block=2)
    hyper = convert(dense, example_input(dense))
    groups, counts = hyper.plan.prunable, hyper.costs.axis_sizes
    orders = [
        torch.randperm(group.width, generator=torch.Generator().manual_seed(group.start))
        for group in groups
    ]
    widths = [WIDTHS if group.width == 8 else [1, group.width] for group in groups]
    table = WidthCandidates(groups, orders, widths, counts)

    def of_mask(levels):
        mask = torch.zeros(hyper.plan.size, dtype=torch.double)
        for group, order, allowed, level in zip(
            groups, orders, widths, levels.tolist(), strict=True
        ):
            mask[group.start + order[: allowed[level]]] = 1
        return counts.of(mask)

    return table, of_mask


def test_counts_of_levels_are_those_of_their_masks():
    table, of_mask = _table()
    for _ in range(5):
        levels = (torch.rand(len(table.last_index)) * (table.last_index + 1)).long()
        assert torch.equal(table.sizes(levels), of_mask(levels))


def test_changes_and_moves():
    table, of_mask = _table()
    levels = torch.zeros_like(table.last_index)
    levels[0] = 1
    places, to = table.neighbors(levels, [-1, 1, 2])
    expected = [
        (place, level)
        for place, (now, top) in enumerate(
            zip(levels.tolist(), table.last_index.tolist(), strict=True)
        )
        for level in (now - 1, now + 1, now + 2)
        if 0 <= level <= top
    ]
    assert list(zip(places.tolist(), to.tolist(), strict=True)) == expected
    for place, level, change in zip(places, to, table.size_change(levels, places, to), strict=True):
        after = levels.clone()
        after[place] = level
        assert torch.equal(table.sizes(levels) + change, of_mask(after))
    assert len(table.neighbors(table.last_index, [1])[0]) == 0
