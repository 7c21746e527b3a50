"""Where a narrowing group slows down: at the width of an even cut, or at one that its price suggests.

Say the loss falls with the kept fraction k of a group as w / k, where w is the weights that hang on the group, and say
that a fraction k costs c k. For a given sum of costs the sum of losses is smallest where k goes with sqrt(w / c): with
the root of what a unit of cost buys in weights, a power of 0.5. In a chain of equal layers all groups are alike; early
stages of a classifier, whose every weight multiplies at many places, are worth less of their price than late ones.

An assumption about networks, not a finding from the data, and not equally good for all: results/LOG.md.
"""

from collections.abc import Mapping

import torch

from dhp_sr.hyper import HyperNet
from dhp_sr.structure import Budget

BISECTIONS = 40


def lines(hyper: HyperNet, budget: Budget, power: float) -> dict[str, float]:
    """Return the fraction that each prunable group keeps by such a rule, for the whole network to meet the budget.

    Args:
        hyper: nothing of it masked yet.
        budget: kind, fraction and floor; a group never falls below its floor, nor keeps more than all.
        power: of the weights that a unit of cost buys; 0: all groups keep the same, so far as floors allow it.
    """
    worth, floors = _worth(hyper, budget.kind, power), _floors(hyper, budget)

    def kept(scale: float) -> dict[str, float]:
        return {name: max(floors[name], min(1.0, scale * one)) for name, one in worth.items()}

    low, high = 0.0, 1 / min(worth.values(), default=1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _ratio(hyper, kept(middle), budget.kind) <= budget.keep_ratio else (low, middle)
    return kept(low)


def _worth(hyper: HyperNet, kind: str, power: float) -> dict[str, float]:
    cost, weights = hyper.marginal_cost(kind), hyper.marginal_cost("params")
    return {
        group.name: float(weights[group.span].mean() / cost[group.span].mean()) ** power
        for group in hyper.plan.prunable
    }


def _floors(hyper: HyperNet, budget: Budget) -> dict[str, float]:
    return {group.name: min(1.0, budget.min_width / group.width) for group in hyper.plan.prunable}


def _ratio(hyper: HyperNet, kept: Mapping[str, float], kind: str) -> float:
    part = torch.ones(hyper.plan.size)
    for group in hyper.plan.prunable:
        part[group.span] = kept[group.name]
    return getattr(hyper.cost_of(part), kind) / getattr(hyper.dense_cost(), kind)
