"""Keep-ratio schedule, and the penalty strength that tracks it."""

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.hyper import HyperNet

WARMUP = 0.1
"""Fraction of the search, at its start, that only gathers gradient statistics."""

COOLDOWN = 0.1
"""Fraction of the search, at its end, that only trains the final widths."""


def keep_ratio_schedule(progress: float, keep_ratio: float) -> float:
    """Return the kept fraction of the cost at a point of the search: linear from 1 to the budget.

    Args:
        progress: 0 at the start of the search, 1 at its end.
        keep_ratio: Kept fraction of the budget.
    """
    elapsed = (progress - WARMUP) / (1 - WARMUP - COOLDOWN)
    return 1 - (1 - keep_ratio) * min(1.0, max(0.0, elapsed))


def prune_to_ratio(
    hyper: HyperNet, scores: Tensor, thresholds: Tensor, budget: Budget, keep_ratio: float
) -> tuple[Tensor, float]:
    """Take the proximal step scores - lambda * thresholds whose lambda just meets a kept fraction.

    As lambda grows, channels reach 0 in the order of scores / thresholds, and the cost never rises.
    So the smallest lambda is that of the n-th channel in this order, with n by bisection. Of
    channels that reach 0 at the same lambda only as many are pruned as the ratio requires.

    Args:
        hyper: Gives plan and costs.
        scores: (plan.size,) before the step; a channel is pruned if its score is not above 0.
        thresholds: (plan.size,) decrease of each score per unit of lambda, positive.
        budget: Kind of the cost, and minimum width, which counts as kept.
        keep_ratio: Fraction of the dense cost to keep at most.

    Returns:
        The scores after the step, and lambda.
    """
    kept = (scores > 0).nonzero().flatten()
    order = kept[torch.argsort(scores[kept] / thresholds[kept], stable=True)]

    # Bisection for the smallest number of channels whose removal meets the ratio.
    low = 0
    high = len(order)
    while low < high:
        middle = (low + high) // 2
        without = scores.index_fill(0, order[:middle], 0.0)
        # Minimum widths count as kept here as well, or the ratio would be missed by them.
        mask = enforce_min_width(hyper.plan, without, budget.min_width)
        if hyper.cost_ratio(budget.kind, mask) <= keep_ratio:
            high = middle
        else:
            low = middle + 1
    num_pruned = low

    if num_pruned == 0:
        return scores, 0.0
    last = order[num_pruned - 1]
    penalty = float(scores[last] / thresholds[last])
    new_scores = scores - penalty * thresholds
    # Rounding, or an equal lambda, may leave a channel on the wrong side of 0.
    pruned = order[:num_pruned]
    remaining = order[num_pruned:]
    new_scores[pruned] = new_scores[pruned].clamp_max(0)
    new_scores[remaining] = new_scores[remaining].clamp_min(torch.finfo(new_scores.dtype).tiny)
    return new_scores, penalty
