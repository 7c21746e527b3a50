"""Where a narrowing group slows down: at the same kept fraction as all others, or at one that its price suggests.

Say the loss falls with the kept fraction k of a group as w / k, where w is the weights that hang on the group, and say
that a fraction k costs c k. For a given sum of costs the sum of losses is smallest where k goes with sqrt(w / c): with
the root of what a unit of cost buys in weights, a power of 0.5. In a chain of equal layers all groups are alike; early
stages of a classifier, whose every weight multiplies at many places, are worth less of their price than late ones.

An assumption about networks, not a finding from the data, and not equally good for all: results/LOG.md.
"""

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.structure import Budget

BISECTIONS = 60


def lines(hyper: HyperNet, budget: Budget, power: float) -> dict[str, float]:
    """Return the kept fraction at which each prunable group has no room left.

    Costs are taken as proportional to the kept fraction. Where two groups meet in a layer its cost is a product, and
    the budget is met before they come to their lines: so much is left to the slopes.

    Args:
        hyper: nothing of it masked yet.
        budget: kind, fraction and floor; a line is not below its group's floor, nor above 1.
        power: of the weights that a unit of cost buys; 0: all lines are alike, at the budget's fraction where no floor
            is higher.
    """
    groups = hyper.plan.prunable
    if not groups:
        return {}
    cost = torch.stack([hyper.marginal_cost(budget.kind)[group.span].sum() for group in groups]).double()
    weights = torch.stack([hyper.marginal_cost("params")[group.span].sum() for group in groups]).double()
    floors = torch.tensor([min(1.0, budget.min_width / group.width) for group in groups], dtype=torch.double)
    kept = _kept(cost, (weights / cost) ** power, floors, budget.keep_ratio)
    return dict(zip((group.name for group in groups), kept.tolist(), strict=True))


def _kept(cost: Tensor, worth: Tensor, floors: Tensor, keep_ratio: float) -> Tensor:
    """Return fractions that go with `worth`, within their bounds, and cost the fraction `keep_ratio` in all."""

    def scaled(scale: float) -> Tensor:
        return (scale * worth).clamp_max(1).maximum(floors)

    low, high = 0.0, float(1 / worth.min())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost @ scaled(middle) <= keep_ratio * cost.sum() else (low, middle)
    return scaled(low)
