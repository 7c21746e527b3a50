"""The global strength of the penalty, found so that the cost follows a line to the budget."""

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.structure import Budget, CostModel
from dhp_sr.structure.budget import protect

OBSERVE, SETTLE = 0.1, 0.1
"""Fractions of the search that only gather statistics at its start, and only train at its end."""

BISECTIONS = 30


def path(progress: float, keep_ratio: float) -> float:
    """Return the kept fraction asked for at a point of the search.

    Args:
        progress: 0 at the start of the search, 1 at its end.
        keep_ratio: the budget.
    """
    done = (progress - OBSERVE) / (1 - OBSERVE - SETTLE)
    return 1 - (1 - keep_ratio) * min(1.0, max(0.0, done))


def strength(hyper: HyperNet, life: Tensor, rate: Tensor, budget: Budget, ratio: float) -> float:
    """Return the smallest lambda for which shrinking by lambda * rate keeps at most `ratio` of the dense cost.

    Args:
        hyper: gives plan and costs.
        life: (plan.size,) latents before the step.
        rate: (plan.size,) how fast each shrinks, positive.
        budget: its kind and floor.
        ratio: kept fraction to reach.
    """
    costs = CostModel(hyper.plan)
    dense = getattr(costs.value(torch.ones(hyper.plan.size)), budget.kind)

    def kept(strength: float) -> float:
        mask = protect(hyper.plan, life - strength * rate, budget.min_width)
        return getattr(costs.value(mask), budget.kind) / dense

    if kept(0.0) <= ratio:
        return 0.0
    low, high = 0.0, float((life / rate).max()) * (1 + 1e-6)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) > ratio else (low, middle)
    return high
