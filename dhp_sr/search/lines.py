"""How wide each group would be if only its price were known: where a narrowing group slows down.

Say the loss falls with the kept fraction k of a group as w / k, where w is the weights that hang on the group, and say
that a fraction k costs c k. For a given sum of costs the sum of losses is smallest where k goes with sqrt(w / c): with
the root of what a unit of cost buys in weights. In a chain of equal layers all groups are alike; channels of an
up-sampler, whose every weight multiplies at many places, are worth less of their price than those before it.

Assumed, not derived from the data: what the loss says beside it is the search's business. What widths of this kind gave
beside others: results/LOG.md.
"""

from collections.abc import Mapping

import torch

from dhp_sr.hyper import HyperNet
from dhp_sr.structure import Budget

BISECTIONS = 40


def lines(hyper: HyperNet, budget: Budget) -> dict[str, float]:
    """Return the fraction that each prunable group keeps by that rule, for the whole network to meet the budget.

    Args:
        hyper: nothing of it masked yet.
        budget: kind, fraction and floor; a group never falls below its floor, nor keeps more than all.
    """
    worth, floors = _worth(hyper, budget.kind), _floors(hyper, budget)

    def kept(scale: float) -> dict[str, float]:
        return {name: max(floors[name], min(1.0, scale * root)) for name, root in worth.items()}

    low, high = 0.0, 1 / min(worth.values(), default=1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _ratio(hyper, kept(middle), budget.kind) <= budget.keep_ratio else (low, middle)
    return kept(low)


def _worth(hyper: HyperNet, kind: str) -> dict[str, float]:
    cost, weights = hyper.marginal_cost(kind), hyper.marginal_cost("params")
    return {
        group.name: float(weights[group.span].mean() / cost[group.span].mean()) ** 0.5 for group in hyper.plan.prunable
    }


def _floors(hyper: HyperNet, budget: Budget) -> dict[str, float]:
    return {group.name: min(1.0, budget.min_width / group.width) for group in hyper.plan.prunable}


def _ratio(hyper: HyperNet, kept: Mapping[str, float], kind: str) -> float:
    part = torch.ones(hyper.plan.size)
    for group in hyper.plan.prunable:
        part[group.span] = kept[group.name]
    return getattr(hyper.cost_of(part), kind) / getattr(hyper.dense_cost(), kind)
