"""Proximal steps that make vectors sparse.

Soft threshold, Adam as a preconditioner, and the step that follows a schedule of kept fractions.
"""

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.modules import StateTree


def soft_threshold(value: Tensor, threshold: Tensor | float) -> Tensor:
    """Return sign(value) * max(|value| - threshold, 0), the proximal operator of the l1 norm.

    Args:
        value: Any shape.
        threshold: Not negative, broadcastable to `value`.

    Reference:
        Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.2.
    """
    return value.sign() * (value.abs() - threshold).clamp_min(0)


class AdamPreconditioner:
    """The moments of Adam for a vector, and the soft threshold in its metric.

    A step of Adam minimizes <g, z> + ||z - z_t||_D^2 / (2 lr), g the first moment, with the
    diagonal preconditioner D = sqrt(second moment) + eps. With an l1 penalty lambda * sum_i c_i
    |z_i| added, the minimizer is that step, then a soft threshold of lr * lambda * c_i / D_i for
    entry i: where gradients are large, z shrinks slowly.

    Reference:
        Yun et al., Adaptive Proximal Gradient Methods for Structured Neural Networks, NeurIPS 2021
        (ProxGen).

    Args:
        size: Length of the vector.
        betas: Decay of the first and the second moment.
        eps: Added to the square root of the second moment.
    """

    def __init__(
        self, size: int, *, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12
    ) -> None:
        self._betas = betas
        self._eps = eps
        self._num_updates = 0
        self._first_moment = torch.zeros(size)
        self._second_moment = torch.zeros(size)

    def update(self, gradient: Tensor) -> None:
        """Add a gradient, shape (size,), to the moments."""
        self._num_updates += 1
        self._first_moment.lerp_(gradient, 1 - self._betas[0])
        self._second_moment.lerp_(gradient.square(), 1 - self._betas[1])

    @property
    def diagonal(self) -> Tensor:
        """D, shape (size,)."""
        # Moments start at 0, which the correction makes up for. max: before the first update.
        correction = 1 - self._betas[1] ** max(1, self._num_updates)
        return (self._second_moment / correction).sqrt() + self._eps

    def direction(self) -> Tensor:
        """Return the step of Adam for lr = 1, to be subtracted, shape (size,)."""
        correction = 1 - self._betas[0] ** max(1, self._num_updates)
        return self._first_moment / correction / self.diagonal

    def threshold(self, cost: Tensor) -> Tensor:
        """Return the soft threshold of each entry for lr * lambda = 1.

        Args:
            cost: (size,) weights c_i of the l1 penalty.
        """
        return cost / self.diagonal

    def state_dict(self) -> StateTree:
        """Return the moments and the number of updates."""
        return {
            "num_updates": self._num_updates,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
        }

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self._num_updates = int(state["num_updates"])
        self._first_moment = state["first_moment"].clone()
        self._second_moment = state["second_moment"].clone()


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
