"""Solver for the widths at which a budget is met: a multiple-choice knapsack problem.

Every group of channels takes exactly 1 of its candidate widths. The value of a width is the sum of
the scores of the channels it keeps, those of the highest scores; the cost of all groups together
has to meet the budget. Were the cost a sum over groups, this would be the multiple-choice knapsack
problem, which dynamic programming solves. But a layer costs the product of the widths on its two
sides, and measured latency rises in steps, so it is solved heuristically:

1. Threshold: the same threshold on all scores, bisected onto the budget; widths are rounded to
   candidates.
2. Greedy fill: groups are widened, the best score per cost first, while the budget holds.
3. Swaps: a group is widened and another narrowed until the cost is within the tolerance.
4. Restarts: where no swap leads there, a group is fixed at another width, and 1 to 3 solve for the
   others.

The solution stays near the threshold on purpose, rather than at the largest sum of scores. The
searches put the cost of a channel into its score already; a sum per cost would count it a second
time, and empty the expensive groups.

Reference:
    Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004, chapter 11 (multiple-choice knapsack).
    Shen et al., Structural Pruning via Latency-Saliency Knapsack, NeurIPS 2022, and Humble et al.,
    Soft Masking for Cost-Constrained Channel Pruning, ECCV 2022, state channel pruning as a
    knapsack problem.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import WidthCandidates, allowed_widths, is_removed
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

MAX_SWAPS = 200
"""Swaps tried for each step size."""

SWAP_STEPS = (1, 3)
"""Candidates that a group moves by at most in a swap: larger steps only where single ones do not
suffice."""


class WidthSolver:
    """Finds widths that meet a budget and keep the channels of the highest scores.

    A choice of widths is a vector of candidate indices, int64 of shape (groups,), for the plan's
    prunable groups.

    Args:
        plan: The groups, with 1 or more prunable.
        scores: (plan.size,), larger = keep, comparable between groups.
        budget: Cost to keep, and the widths allowed.
        costs: Costs of the plan.
    """

    def __init__(self, plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> None:
        self._groups = plan.prunable
        self._size = plan.size
        self._budget = budget
        self._costs = costs
        self._scores = scores.detach().double().cpu()
        dense_sizes = costs.axis_sizes.of(torch.ones(plan.size, dtype=torch.double))
        self._dense_cost = float(costs.of_sizes(dense_sizes, budget.kind))
        self._widths: list[list[int]] = []
        self._orders: list[Tensor] = []
        values = []
        for group in self._groups:
            widths = allowed_widths(group, budget)
            if is_removed(group, budget, self._scores):
                widths = [0]
            # A stable order keeps the first of equally scored channels, on every machine.
            order = torch.argsort(self._scores[group.span], descending=True, stable=True)
            cumulative = torch.zeros(group.width + 1, dtype=torch.double)
            cumulative[1:] = self._scores[group.span][order].cumsum(0)
            values.append(cumulative[torch.tensor(widths)])
            self._widths.append(widths)
            self._orders.append(order)
        self._table = WidthCandidates(self._groups, self._orders, self._widths, costs.axis_sizes)
        self._values = pad_sequence(values, batch_first=True)
        """Sum of the kept scores of each group at each of its widths, shape (groups,
        candidates)."""
        self._breakpoints = self._order_of_widening()

    def mask(self, indices: Tensor) -> Tensor:
        """Return the mask, bool (plan.size,), of a choice."""
        mask = torch.zeros(self._size, dtype=torch.bool)
        chosen = zip(self._groups, self._orders, self._widths, indices.tolist(), strict=True)
        for group, order, widths, index in chosen:
            mask[group.start + order[: widths[index]]] = True
        return mask

    def ratio(self, indices: Tensor) -> float:
        """Return the kept fraction of the dense cost."""
        return float(self._ratios(self._table.sizes(indices)))

    def lowest_ratio(self) -> float:
        """Return the kept fraction with every group at its smallest width."""
        return self.ratio(torch.zeros_like(self._table.last_index))

    def solve(self) -> Tensor:
        """Return the first solution that meets the budget, or else the closest to it."""
        best: Tensor | None = None
        best_distance = torch.tensor(torch.inf, dtype=torch.double)
        for indices in self.solutions():
            ratio = self.ratio(indices)
            if self._distance(ratio) < best_distance:
                best = indices
                best_distance = self._distance(ratio)
            if self._is_met(ratio):
                break
        assert best is not None, "there is always a first solution"
        return best

    def solutions(self) -> Iterator[Tensor]:
        """Yield choices near the budget: the first solution, then those of the restarts."""
        first = self._solve_around({})
        yield first
        # Lazily: a restart costs as much as the first solution, and few are needed.
        for group, index in self.restarts(first):
            yield self._solve_around({group: index})

    def _solve_around(self, fixed: dict[int, int]) -> Tensor:
        """Return a solution that starts from some groups at fixed candidates."""
        return self.swap(self.fill(self.threshold(fixed)))

    def restarts(self, indices: Tensor) -> list[tuple[int, int]]:
        """Return (group, candidate index) for all other widths.

        The nearest come first, of equally near widths those of expensive groups: a single step of
        theirs can be larger than the tolerance, which is why no swap met the budget.
        """
        marginal = self._costs.marginal(self.mask(indices), self._budget.kind)
        distances = {}
        for group, widths in enumerate(self._widths):
            cost_per_channel = float(marginal[self._groups[group].span].mean())
            for index in range(len(widths)):
                distance = abs(index - int(indices[group]))
                if distance > 0:
                    distances[group, index] = (distance, -cost_per_channel)
        return sorted(distances, key=lambda change: distances[change])

    def _order_of_widening(self) -> Tensor:
        """Return the group of each breakpoint of a falling threshold, shape (breakpoints,).

        At a breakpoint a group is widened to its next candidate: once the threshold passes the
        score half way between the two widths, so that the number of channels above the threshold is
        rounded to the nearest candidate.
        """
        breakpoints = []
        ranked = zip(self._groups, self._orders, self._widths, strict=True)
        for index, (group, order, widths) in enumerate(ranked):
            falling_scores = self._scores[group.span][order]
            for low, high in pairwise(widths):
                middle = (low + high) // 2
                # The fraction decides between equal scores: they widen all groups alike.
                breakpoints.append((-float(falling_scores[middle]), middle / group.width, index))
        group_indices = []
        for _, _, index in sorted(breakpoints):
            group_indices.append(index)
        return torch.tensor(group_indices, dtype=torch.long)

    def threshold(self, fixed: dict[int, int]) -> Tensor:
        """Return the choice at the lowest threshold within the budget, by bisection."""
        # The cost grows with the number of breakpoints passed, so it can be bisected.
        low = 0
        high = len(self._breakpoints)
        while low < high:
            middle = (low + high + 1) // 2
            if self.ratio(self._widened(middle, fixed)) <= self._budget.keep_ratio:
                low = middle
            else:
                high = middle - 1
        return self._widened(low, fixed)

    def _widened(self, num_breakpoints: int, fixed: dict[int, int]) -> Tensor:
        """Return the choice after so many breakpoints, with some groups at fixed candidates."""
        passed = self._breakpoints[:num_breakpoints]
        indices = torch.bincount(passed, minlength=len(self._groups))
        for group, index in fixed.items():
            indices[group] = index
        return indices

    def fill(self, indices: Tensor) -> Tensor:
        """Widen groups by single candidates, best score per cost first, while the budget holds."""
        while True:
            groups, new_indices = self._table.neighbors(indices, [1])
            ratios, gains = self._evaluate(indices, groups[:, None], new_indices[:, None])
            # The clamp: latency rises in steps, so a wider group can cost nothing more.
            gains_per_cost = gains / (ratios - self.ratio(indices)).clamp_min(1e-12)
            gains_per_cost[ratios > self._budget.keep_ratio] = -torch.inf
            if len(gains_per_cost) == 0 or gains_per_cost.max() == -torch.inf:
                return indices
            indices = indices.clone()
            indices[groups[gains_per_cost.argmax()]] += 1

    def swap(self, indices: Tensor) -> Tensor:
        """Swap until the cost is within the tolerance, or no swap brings it closer."""
        for max_step in SWAP_STEPS:
            for _ in range(MAX_SWAPS):
                if self._is_met(self.ratio(indices)):
                    return indices
                closer = self._best_swap(indices, max_step)
                if closer is None:
                    break
                indices = closer
        return indices

    def _best_swap(self, indices: Tensor, max_step: int) -> Tensor | None:
        """Return the choice after the best swap; None where none brings the cost closer.

        Of the choices within the tolerance that of most score, else the closest to the budget.
        """
        groups, new_indices = self._swaps(indices, max_step)
        if len(groups) == 0:
            return None
        ratios, gains = self._evaluate(indices, groups, new_indices)
        distances = self._distance(ratios)
        # First into the tolerance by the shortest way, then for the score.
        is_within = distances <= self._budget.margin
        if is_within.any():
            best = gains.where(is_within, -torch.inf).argmax()
        else:
            best = distances.argmin()
            if distances[best] >= self._distance(self.ratio(indices)):
                return None
        swapped = indices.clone()
        swapped[groups[best]] = new_indices[best]
        return swapped

    def _swaps(self, indices: Tensor, max_step: int) -> tuple[Tensor, Tensor]:
        """Return the groups of each swap and their new candidate indices, each of shape (swaps, 2).

        All changes of a single group come first, as the group paired with itself; then all pairs of
        a group that becomes wider and another that becomes narrower, by up to `max_step`
        candidates.
        """
        steps = [*range(-max_step, 0), *range(1, max_step + 1)]
        groups, new_indices = self._table.neighbors(indices, steps)
        is_wider = new_indices > indices[groups]
        wider = is_wider.nonzero().flatten()
        narrower = (~is_wider).nonzero().flatten()
        # All pairs at once: some thousands at most, evaluated in a single batch.
        pairs = torch.cartesian_prod(wider, narrower).reshape(-1, 2)
        pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
        alone = torch.arange(len(groups))[:, None].expand(-1, 2)
        changes = torch.cat((alone, pairs))
        return groups[changes], new_indices[changes]

    def _evaluate(
        self, indices: Tensor, groups: Tensor, new_indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return kept fractions and gains of score, each (changes,), of changed choices.

        Args:
            indices: The choice that is changed.
            groups: (changes, k) groups changed together, k = 1 or 2: in `fill` each alone, in
                `swap` two, or a group paired with itself, which counts once.
            new_indices: (changes, k) their new candidate indices.
        """
        # 1 for what counts, 0 for the second of a group paired with itself.
        counts = torch.ones(groups.shape, dtype=torch.double)
        is_alone = groups[:, 0] == groups[:, -1]
        counts[:, 1:][is_alone] = 0.0
        change = self._table.size_change(indices, groups, new_indices)
        sizes = self._table.sizes(indices) + (counts[..., None] * change).sum(1)
        gains = self._values[groups, new_indices] - self._values[groups, indices[groups]]
        return self._ratios(sizes), (counts * gains).sum(1)

    @torch.no_grad()
    def _ratios(self, sizes: Tensor) -> Tensor:
        return self._costs.of_sizes(sizes, self._budget.kind) / self._dense_cost

    def _distance(self, ratio: float | Tensor) -> Tensor:
        """Return the distance of a kept fraction from the budget.

        Ratios above the budget are farther away than all that lie below it within the margin. A
        user who asks for half wants at most half, where that can be reached.
        """
        below = self._budget.keep_ratio - torch.as_tensor(ratio, dtype=torch.double)
        return torch.where(below >= 0, below, self._budget.margin - below)

    def _is_met(self, ratio: float) -> bool:
        return 0 <= self._budget.keep_ratio - ratio <= self._budget.margin
