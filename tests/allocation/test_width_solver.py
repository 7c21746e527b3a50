"""The width solver: batched evaluation against masks, and which widths scores lead to."""

import pytest
import torch
from networks import CASES, example, network

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.width_solver import WidthSolver
from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert


@pytest.mark.parametrize("case", CASES)
def test_changes_are_evaluated_as_their_masks(case):
    plan = make_plan(network(case), example(network(case)))
    costs, scores = CostModel(plan), torch.rand(plan.size)
    solver = WidthSolver(plan, scores, Budget.from_target("macs", 0.5, None, 4, 4), costs)
    indices = torch.zeros(len(plan.prunable), dtype=torch.long)
    before = scores[solver.mask(indices)].sum()
    groups, new_indices = solver._swaps(indices, 3)
    ratios, gains = solver._evaluate(indices, groups, new_indices)
    for group, index, ratio, gain in zip(groups, new_indices, ratios, gains, strict=True):
        changed = indices.clone()
        changed[group] = index
        mask = solver.mask(changed)
        assert float(ratio) == pytest.approx(costs.ratio(mask, "macs"), abs=1e-12)
        assert float(gain) == pytest.approx(float(scores[mask].sum() - before), abs=1e-4)


def test_the_best_scored_channels_are_kept():
    plain = network("dncnn_gray")
    hyper = convert(plain, example(plain))
    scores = {name: torch.arange(len(mask)).double() for name, mask in hyper.masks.items()}
    hyper.prune_to(macs=0.5, round_to=1, tolerance=0.03, scores=scores)
    for mask in hyper.masks.values():
        assert torch.equal(mask, mask.sort().values)


def test_equal_scores_narrow_every_group_alike():
    plain = build("UNet", num_feat=32, num_levels=5)
    hyper = convert(plain, torch.rand(1, 1, 64, 64))
    report = hyper.prune_to(macs=0.4, round_to=1)
    fractions = sorted(report.widths[group.name] / group.width for group in hyper.plan.prunable)
    # The rest of the budget goes to the cheapest groups.
    assert fractions[len(fractions) * 3 // 4] - fractions[0] < 0.05


@pytest.mark.parametrize("lowest", [-1.0, -1e12])
def test_a_very_low_score_does_not_change_the_order_of_the_others(lowest):
    """The second group scores higher than all others, by little beside the lowest score."""
    hyper = convert(build("DnCNN", num_feat=16, num_layers=5), torch.rand(1, 1, 16, 16))
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(hyper.plan.size, generator=generator).double() * 1e-3
    scores[16:32] += 1e-2
    scores[-1] = lowest
    widths = hyper.prune_to(macs=0.4, round_to=1, scores=hyper.plan.split(scores)).widths
    assert list(widths.values())[1] == 16
