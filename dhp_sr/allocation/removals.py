"""Residual branches that a budget needs removed, where widths alone cannot meet it."""

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel


def lowest_mask(plan: ChannelPlan, budget: Budget) -> Tensor:
    """Return the mask, bool (plan.size,), of the lowest cost that a budget allows.

    Groups are at their smallest widths, or at 0 where their residual branch may be removed.
    """
    mask = min_width_mask(plan, budget)
    if budget.remove_blocks:
        for group in plan.prunable:
            if group.removable:
                mask[group.span] = False
    return mask


def scores_with_removals(
    plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel
) -> Tensor:
    """Return scores that are below 0 for the branches that a budget needs removed.

    They are as few as possible: those that cost most at the smallest widths. Which branches the
    output can best do without, a search finds out; here only counts that a budget can be met.

    Args:
        plan: The groups and branches.
        scores: (plan.size,), not below 0.
        budget: Says whether branches may be removed.
        costs: Costs of the plan. A measured kind that they do not know removes nothing.
    """
    if not budget.remove_blocks or budget.kind not in costs.kinds:
        return scores
    mask = min_width_mask(plan, budget)
    most = budget.keep_ratio + budget.margin
    ratio = costs.ratio(mask, budget.kind)
    spans = {group.name: group.span for group in plan.prunable}
    while ratio > most:
        cheapest: tuple[float, Tensor] | None = None
        for branch in plan.branches:
            without = mask.clone()
            for name in branch.groups:
                without[spans[name]] = False
            remaining = costs.ratio(without, budget.kind)
            # Of a branch that is gone already, nothing further goes.
            if remaining < ratio and (cheapest is None or remaining < cheapest[0]):
                cheapest = (remaining, without)
        if cheapest is None:
            break  # met by nothing: the solver says so
        ratio, mask = cheapest
    removed = torch.zeros(plan.size, dtype=torch.bool)
    for span in spans.values():
        removed[span] = not bool(mask[span].any())
    return scores.masked_fill(removed.to(scores.device), -1.0)
