"""Cost-aware target widths: a prior that uses no data.

The model of the loss: a layer of w weights that keeps fractions k of its input channels and l of
its output channels adds

    w * ((k * l)**-e - 1) / e

so each further channel is worth more the narrower the layer is: with e = 1, a layer at half of both
widths adds 3 w, at a quarter of both 15 w. Wanted are the widths with the smallest sum over all
layers within the budget, a multiple-choice knapsack with products. It is solved heuristically: from
the dense network on, greedily narrow the group that adds least to the sum per cost saved, until the
budget holds; then swap channels between pairs of groups for as long as the sum falls.

Where weights cost the same everywhere, layers keep equal fractions. Where costs differ, a layer
keeps a fraction proportional to (weights / cost)**p with e = (1 - p) / p: p = 0 keeps nearly equal
fractions whatever they cost; p = 1 cuts deepest where weights are expensive, such as behind an
upsampling or in the early stages of a classifier. With few widths to choose from, wide and narrow
layers alternate in a chain, for the products k * l are what counts.

The weights of a layer before a PixelShuffle by r compute the same channels at r**2 places: they
count for as many weights as one of these places has. So upsamplers become narrow.

Channels that are not followed by an activation, such as the residual ones of EDSR and those
between two layers of its upsampler, only pass on what others compute: their fractions count to the
power `LINEAR_DISCOUNT`. So the inner channels of residual blocks tend to be the wider ones, which
Yu et al. report to be worth more (Wide Activation for Efficient and Accurate Image
Super-Resolution, 2018).

This is our assumption about networks, not a finding from data, and not equally good for all;
docs/research has what it gave.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import WidthCandidates, allowed_widths
from dhp_sr.hyper import HyperNet

NUM_CANDIDATES = 32
"""About as many candidate widths per group, evenly spread over the allowed ones; a prior needs no
more, and the search finds the exact widths."""

NARROWING_STEPS = (1, 8)
"""Candidates that a group is narrowed by at once. Measured latency may fall only after several."""

SWAP_STEPS = (1, 2, 4, 8, 16)
"""Candidates that a group gives or gets in a swap: a step where channels are expensive is worth
many elsewhere."""

NUM_SWAP_CANDIDATES = 64
"""Most promising changes on either side of a swap, of which all pairs are evaluated."""

MAX_EXPONENT = 20.0
"""Largest e, for p near 0: fractions then differ by the 21st root of the cost."""

MIN_EXPONENT = 1e-6
"""Smallest e, for p = 1: nearly a logarithm, without a special case."""

MIN_IMPROVEMENT = 1e-9
"""Relative decrease of the loss that a swap must bring; less may be rounding, and never end."""

LINEAR_DISCOUNT = 0.8
"""Exponent of the kept fraction of channels that no activation follows."""


def width_prior(hyper: HyperNet, budget: Budget, cost_exponent: float) -> dict[str, float]:
    """Return the fraction of channels that each prunable group should keep.

    Args:
        hyper: Plan and costs; masks have no effect.
        budget: Kind, kept fraction and allowed widths. If even the minimum widths exceed it, all
            groups are at these.
        cost_exponent: p in [0, 1], see the module.

    Returns:
        Group name -> fraction in (0, 1]; empty if nothing can be pruned.
    """
    if not hyper.plan.prunable:
        return {}
    solver = _PriorSolver(hyper, budget, cost_exponent)
    # Both phases end: the first narrows in every step, the second lowers the loss in every step.
    while solver.cost > solver.max_cost and solver.narrow():
        pass
    while solver.widen() or solver.swap():
        pass
    return solver.kept_fractions()


class _Moves(NamedTuple):
    """Changes of single groups to other candidate widths; each field has the shape (moves,)."""

    groups: Tensor
    """Index of the group."""
    candidates: Tensor
    """Index of its new width among its candidates."""
    loss_decreases: Tensor
    costs: Tensor
    """Cost of the network after the change."""


class _PriorSolver:
    """Greedy solver with swaps; its state is the candidate index of every group, dense at first."""

    def __init__(self, hyper: HyperNet, budget: Budget, cost_exponent: float) -> None:
        self._groups = hyper.plan.prunable
        self._costs = hyper.costs
        self._kind = budget.kind
        exponent = (1 - cost_exponent) / max(cost_exponent, MIN_EXPONENT)
        self._exponent = min(MAX_EXPONENT, max(MIN_EXPONENT, exponent))  # e of the module

        # Layers without learned weights, such as a fixed blur, lose nothing when narrowed.
        layers = [layer for layer in hyper.plan.layers if layer.weight in hyper.plan.parameters]
        names = [self._costs.names.index(layer.weight) for layer in layers]
        self._layers = torch.tensor(names).long()

        # An axis may hold channels of several groups, after a concatenation; it has their mean.
        discounts = []
        for group in self._groups:
            discount = LINEAR_DISCOUNT + (1 - LINEAR_DISCOUNT) * group.nonlinearity_fraction
            discounts.append(torch.full((group.width,), discount))
        self._discounts = self._costs.axis_sizes.mean_over_axes(torch.cat(discounts))

        # The weights of a layer before a PixelShuffle make the same channels at several places.
        axis_sizes = self._costs.axis_sizes
        out_rows = [axis_sizes.row(layer.weight, layer.out_dim) for layer in layers]
        in_rows = [axis_sizes.row(layer.weight, 1 - layer.out_dim) for layer in layers]
        repetitions = axis_sizes.repetitions(torch.tensor(out_rows + in_rows).long())
        num_weights = torch.tensor([math.prod(layer.shape) for layer in layers]).double()
        self._num_weights = num_weights / repetitions[: len(layers)]

        self._widths = []
        for group in self._groups:
            allowed = allowed_widths(group, budget)
            # About NUM_CANDIDATES of them, with the smallest and the largest.
            stride = max(1, len(allowed) // NUM_CANDIDATES)
            self._widths.append(sorted({allowed[0], *allowed[::-stride]}))
        # Which channels a group keeps makes no difference to cost or loss: take the first ones.
        orders = [torch.arange(group.width) for group in self._groups]
        self._table = WidthCandidates(self._groups, orders, self._widths, self._costs.axis_sizes)
        self._candidates = self._table.last_index.clone()
        self._update()
        # The cost so far is that of the dense network.
        self.max_cost = budget.keep_ratio * self.cost

    def kept_fractions(self) -> dict[str, float]:
        """Return group name -> kept fraction."""
        fractions = {}
        for index, group in enumerate(self._groups):
            width = self._widths[index][int(self._candidates[index])]
            fractions[group.name] = width / group.width
        return fractions

    def narrow(self) -> bool:
        """Narrow the group that adds least to the loss per cost saved; False if none can be."""
        moves = self._possible_moves([-step for step in NARROWING_STEPS])
        return self._apply_best(
            moves, self._per_cost(moves.loss_decreases, self.cost - moves.costs)
        )

    def widen(self) -> bool:
        """Widen the group that lowers the loss most per cost; False if no step fits the budget."""
        moves = self._possible_moves([1])
        values = self._per_cost(moves.loss_decreases, moves.costs - self.cost)
        return self._apply_best(moves, values.where(moves.costs <= self.max_cost, -torch.inf))

    def swap(self) -> bool:
        """Narrow one group and widen another as lowers the loss most; False if no pair does."""
        narrowed, fewer = self._promising_moves(-1)
        widened, more = self._promising_moves(1)
        # All pairs at once, by their sizes, which are additive over groups as the loss is not:
        # (pairs) = sizes after narrowing + sizes after widening - sizes now.
        sizes = (
            self._sizes_after(narrowed, fewer)[:, None]
            + self._sizes_after(widened, more)
            - self._sizes
        )
        losses, costs = self._evaluate(sizes)
        # A group cannot be narrowed and widened in the same swap.
        losses[(costs > self.max_cost) | (narrowed[:, None] == widened)] = torch.inf
        if losses.numel() == 0:
            return False
        if not losses.min() < self._loss - MIN_IMPROVEMENT * self._loss.abs():
            return False
        row, column = divmod(int(losses.argmin()), len(widened))
        self._candidates[narrowed[row]] = fewer[row]
        self._candidates[widened[column]] = more[column]
        self._update()
        return True

    def _promising_moves(self, sign: int) -> tuple[Tensor, Tensor]:
        """Return groups and new candidates of the steps down or up with the best loss per cost."""
        moves = self._possible_moves([sign * step for step in SWAP_STEPS])
        values = self._per_cost(moves.loss_decreases, (self.cost - moves.costs).abs())
        best = values.argsort(descending=True)[:NUM_SWAP_CANDIDATES]
        return moves.groups[best], moves.candidates[best]

    def _possible_moves(self, steps: list[int]) -> _Moves:
        groups, candidates = self._table.neighbors(self._candidates, steps)
        losses, costs = self._evaluate(self._sizes_after(groups, candidates))
        return _Moves(groups, candidates, self._loss - losses, costs)

    def _sizes_after(self, groups: Tensor, candidates: Tensor) -> Tensor:
        """Return the kept sizes of all axes after each of several moves, shape (moves, axes)."""
        return self._sizes + self._table.size_change(self._candidates, groups, candidates)

    def _evaluate(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and cost at sizes of shape (..., axes), each without that dimension."""
        log_fractions = self._costs.log_kept_fractions(sizes, self._discounts, self._layers)
        # expm1 of the logarithm keeps its precision for the smallest e, where the power is near 1.
        losses = torch.expm1(-self._exponent * log_fractions) / self._exponent
        return losses @ self._num_weights, self._costs.of_sizes(sizes, self._kind)

    def _per_cost(self, loss_decreases: Tensor, costs: Tensor) -> Tensor:
        # Some moves change no cost, as a latency that rises in steps.
        smallest = torch.finfo(costs.dtype).eps * float(self.cost)
        return loss_decreases / costs.clamp_min(smallest)

    def _apply_best(self, moves: _Moves, values: Tensor) -> bool:
        """Make the move of largest value; return False if none is possible."""
        if len(values) == 0 or values.max() == -torch.inf:
            return False
        best = values.argmax()
        self._candidates[moves.groups[best]] = moves.candidates[best]
        self._update()
        return True

    def _update(self) -> None:
        """Compute sizes, loss and cost of the current candidates."""
        self._sizes = self._table.sizes(self._candidates)
        self._loss, self.cost = self._evaluate(self._sizes)
