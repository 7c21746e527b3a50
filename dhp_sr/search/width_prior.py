"""Where a narrowing group slows down: at the widths that hold most for their cost, before the data has its say.

Say a layer of w weights that keeps fractions k of its input and l of its output channels adds w (k l)^-e to the loss:
the narrower it is, the more each further channel is worth. Of the widths that a budget allows those with a small sum
are wanted. From the whole network on, the group is narrowed that adds least to the sum for what it saves, until the
budget holds; then pairs of groups exchange channels for as long as the sum falls.

Where weights cost the same everywhere, layers keep equal parts. In a chain of equal layers these are equal widths; with
few widths to choose from, wide and narrow ones take turns, for the products are what counts. Where costs differ, a
layer keeps a part that goes with (w / cost)^p, e = (1 - p) / p: p = 0 keeps nearly equal parts whatever they cost,
p = 1 cuts deepest where weights are dear, such as behind an up-sampling or in the early stages of a classifier.

Channels that no activation follows, such as EDSR's stream and those between two layers of its up-sampler, only carry
what others compute: their fractions count to the power CARRIED. So interiors of residual blocks tend to be the wider
ones, which Yu et al. found to be worth more (Wide Activation for Efficient and Accurate Image Super-Resolution, 2018).

An assumption about networks, not a finding from the data, and not equally good for all: results/LOG.md.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, allowed_widths
from dhp_sr.allocation.candidates import WidthCandidates
from dhp_sr.hyper import HyperNet

LEVELS = 32
"""About as many widths are looked at for each group, evenly spread over those allowed; the search finds exact ones."""

STRIDES = (1, 8)
"""Levels that a group is narrowed by at once; a measured time may fall only after several."""

EXCHANGED = (1, 2, 4, 8, 16)
"""Levels that a group gives or gets in an exchange: one step where channels are dear is worth many elsewhere."""

RIVALS = 64
"""Changes on either side of an exchange that are looked at."""

STEEPEST, FLATTEST = 20.0, 1e-6
"""Bounds of e; with the first parts differ by the 21st root of the price, the second is nearly a logarithm."""

EXACT = 1e-9
"""Part of the loss that an exchange must at least take, for sums are rounded."""

CARRIED = 0.8
"""Power by which the kept fraction of channels without an activation counts in their layers."""


def lines(hyper: HyperNet, budget: Budget, power: float) -> dict[str, float]:
    """Return the fraction that each prunable group keeps by such a rule, for the whole network to meet the budget.

    Args:
        hyper: its plan and costs; masks do not matter.
        budget: kind, fraction, allowed widths; where its floors are too dear, all groups are at theirs.
        power: p, 0 to 1.
    """
    if not hyper.plan.prunable:
        return {}
    sketch = _Sketch(hyper, budget, power)
    while sketch.cost > sketch.limit and sketch.narrow():
        pass
    while sketch.widen() or sketch.exchange():
        pass
    return sketch.kept()


class _Moves(NamedTuple):
    """Single groups set to other levels; each field has the shape (moves,)."""

    places: Tensor
    to: Tensor
    gains: Tensor
    """What each takes from the loss."""
    costs: Tensor
    """Of the network after it."""


class _Sketch:
    """Widths as levels, for each group its position among the widths it may take; whole groups at first."""

    def __init__(self, hyper: HyperNet, budget: Budget, power: float) -> None:
        self._groups, self._costs, self._kind = hyper.plan.prunable, hyper.costs, budget.kind
        self._exponent = min(STEEPEST, max(FLATTEST, (1 - power) / max(power, FLATTEST)))
        learned = [layer for layer in hyper.plan.layers if layer.weight in hyper.plan.parameters]
        self._layers = torch.tensor(
            [self._costs.names.index(layer.weight) for layer in learned]
        ).long()
        self._weights = torch.tensor([math.prod(layer.shape) for layer in learned]).double()
        powers = [CARRIED + (1 - CARRIED) * group.nonlinearity_fraction for group in self._groups]
        widths = torch.tensor([group.width for group in self._groups])
        self._powers = self._costs.axis_sizes.mean_over_axes(
            torch.tensor(powers).repeat_interleave(widths)
        )
        self._allowed = [_spread(allowed_widths(group, budget)) for group in self._groups]
        orders = [torch.arange(group.width) for group in self._groups]
        self._table = WidthCandidates(self._groups, orders, self._allowed, self._costs.axis_sizes)
        self._levels = self._table.last_index.clone()
        self._count()
        self.limit = budget.keep_ratio * self.cost

    def kept(self) -> dict[str, float]:
        """Return the fraction that each group keeps."""
        levels = zip(self._groups, self._allowed, self._levels.tolist(), strict=True)
        return {group.name: allowed[level] / group.width for group, allowed, level in levels}

    def narrow(self) -> bool:
        """Narrow the group that adds least to the loss for what it saves; return False where none can."""
        moves = self._moves([-stride for stride in STRIDES])
        return self._take(moves, self._per_cost(moves.gains, self.cost - moves.costs))

    def widen(self) -> bool:
        """Widen the group that takes most from the loss for what it costs; return False where no step fits."""
        moves = self._moves([1])
        worth = self._per_cost(moves.gains, moves.costs - self.cost)
        return self._take(moves, worth.where(moves.costs <= self.limit, -torch.inf))

    def exchange(self) -> bool:
        """Narrow one group and widen another where that takes most from the loss; return False where nothing does."""
        (narrower, less), (wider, more) = (self._promising(sign) for sign in (-1, 1))
        counts = self._after(narrower, less)[:, None] + self._after(wider, more) - self._counts
        losses, costs = self._judge(counts)
        losses[(costs > self.limit) | (narrower[:, None] == wider)] = torch.inf
        if losses.numel() == 0 or not losses.min() < self._loss - EXACT * self._loss.abs():
            return False
        one, other = divmod(int(losses.argmin()), len(wider))
        self._levels[narrower[one]], self._levels[wider[other]] = less[one], more[other]
        self._count()
        return True

    def _promising(self, sign: int) -> tuple[Tensor, Tensor]:
        """Return the moves up or down that change the loss best for what they change the cost by."""
        moves = self._moves([sign * step for step in EXCHANGED])
        best = self._per_cost(moves.gains, (self.cost - moves.costs).abs()).argsort(
            descending=True
        )[:RIVALS]
        return moves.places[best], moves.to[best]

    def _moves(self, steps: list[int]) -> _Moves:
        """Return every group and level that lies such a step from where it is."""
        places, to = self._table.neighbors(self._levels, steps)
        losses, costs = self._judge(self._after(places, to))
        return _Moves(places, to, self._loss - losses, costs)

    def _after(self, places: Tensor, to: Tensor) -> Tensor:
        """Return the counts after each such move, shape (moves, size)."""
        return self._counts + self._table.size_change(self._levels, places, to)

    def _judge(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the cost at counts, shape (..., size), without that dimension."""
        parts = self._costs.log_kept_fractions(counts, self._powers, self._layers)
        loss = torch.expm1(-self._exponent * parts) / self._exponent
        return loss @ self._weights, self._costs.of_sizes(counts, self._kind)

    def _per_cost(self, gains: Tensor, costs: Tensor) -> Tensor:
        return gains / costs.clamp_min(torch.finfo(costs.dtype).eps * float(self.cost))

    def _take(self, moves: _Moves, worth: Tensor) -> bool:
        """Make the move that is worth most; return False where none is possible."""
        if len(worth) == 0 or worth.max() == -torch.inf:
            return False
        best = worth.argmax()
        self._levels[moves.places[best]] = moves.to[best]
        self._count()
        return True

    def _count(self) -> None:
        self._counts = self._table.sizes(self._levels)
        self._loss, self.cost = self._judge(self._counts)


def _spread(allowed: list[int]) -> list[int]:
    """Return about LEVELS of some widths, the least and the largest among them."""
    return sorted({allowed[0], *allowed[:: -max(1, len(allowed) // LEVELS)]})
