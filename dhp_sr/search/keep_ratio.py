"""The global strength of the penalty, found so that the cost follows a line to the budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, enforce_min_width
from dhp_sr.hyper import HyperNet

OBSERVE, SETTLE = 0.1, 0.1
"""Fractions of the search that only gather statistics at its start, and only train at its end."""


def path(progress: float, keep_ratio: float) -> float:
    """Return the kept fraction asked for at a point of the search.

    Args:
        progress: 0 at the start of the search, 1 at its end.
        keep_ratio: the budget.
    """
    done = (progress - OBSERVE) / (1 - OBSERVE - SETTLE)
    return 1 - (1 - keep_ratio) * min(1.0, max(0.0, done))


def shrink(
    hyper: HyperNet, life: Tensor, rate: Tensor, budget: Budget, ratio: float
) -> tuple[Tensor, float]:
    """Shrink latents by lambda * rate, with the smallest lambda that keeps at most `ratio` of the dense cost.

    Channels reach zero in the order of life / rate; as many do as the ratio asks for. Of channels that reach it at the
    same lambda the first ones do.

    Args:
        hyper: gives plan and costs.
        life: (plan.size,) latents before the step; at or below 0 a channel is masked.
        rate: (plan.size,) how fast each shrinks, positive.
        budget: its kind and floor.
        ratio: kept fraction to reach.

    Returns:
        The latents after the step, and lambda.
    """
    alive = (life > 0).nonzero().flatten()
    order = alive[torch.argsort(life[alive] / rate[alive], stable=True)]
    count = _smallest(
        len(order), lambda count: _ratio(hyper, _dead(life, order[:count]), budget) <= ratio
    )
    if count == 0:
        return life, 0.0
    found = float(life[order[count - 1]] / rate[order[count - 1]])
    after = life - found * rate
    after[order[:count]] = after[order[:count]].clamp_max(0)
    after[order[count:]] = after[order[count:]].clamp_min(torch.finfo(after.dtype).tiny)
    return after, found


def _smallest(most: int, enough: Callable[[int], bool]) -> int:
    """Return the smallest count up to `most` that is enough, or `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _dead(life: Tensor, channels: Tensor) -> Tensor:
    return life.index_fill(0, channels, 0.0)


def _ratio(hyper: HyperNet, life: Tensor, budget: Budget) -> float:
    kept = hyper.cost_of(enforce_min_width(hyper.plan, life, budget.min_width))
    return getattr(kept, budget.kind) / getattr(hyper.dense_cost(), budget.kind)
