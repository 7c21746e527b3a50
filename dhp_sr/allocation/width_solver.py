"""From channel scores to widths at a cost: a threshold, then steps and exchanges."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import WidthCandidates, allowed_widths
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

EXCHANGES = 200
REACHES = (1, 3)


class WidthSolver:
    """Looks among widths as levels, see `levels`, for those that keep most of the scores at the cost asked for."""

    def __init__(self, plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> None:
        self._plan, self._budget, self._costs = plan, budget, costs
        self._scores = scores.detach().double().cpu()
        self._dense = float(
            costs.of_sizes(
                costs.axis_sizes.of(torch.ones(plan.size, dtype=torch.double)), budget.kind
            )
        )
        self._allowed = [allowed_widths(group, budget) for group in plan.prunable]
        self._order = [
            torch.argsort(self._scores[group.span], descending=True, stable=True)
            for group in plan.prunable
        ]
        self._table = WidthCandidates(plan.prunable, self._order, self._allowed, costs.axis_sizes)
        self._values = pad_sequence(
            [
                self._scores[group.span][order].cumsum(0)[torch.tensor(allowed) - 1]
                for group, order, allowed in zip(
                    plan.prunable, self._order, self._allowed, strict=True
                )
            ],
            batch_first=True,
        )
        self._events = self._steps_by_score()

    def mask(self, levels: Tensor) -> Tensor:
        """Return (plan.size,) True for kept channels."""
        mask = torch.zeros(self._plan.size, dtype=torch.bool)
        for group, order, allowed, level in zip(
            self._plan.prunable, self._order, self._allowed, levels.tolist(), strict=True
        ):
            mask[group.start + order[: allowed[level]]] = True
        return mask

    def ratio(self, levels: Tensor) -> float:
        """Return the kept fraction."""
        return float(self._ratios(self._table.sizes(levels)))

    def least(self) -> float:
        """Return the kept fraction with every group at its floor."""
        return self.ratio(torch.zeros_like(self._table.last_index))

    def choose(self) -> Tensor:
        """Return levels that meet the budget, or those that come closest.

        Where a group is so dear that one step of it oversteps the tolerance, and no exchange makes up for it, that
        group is set to each of its widths in turn, those next to the first choice first.
        """
        best: Tensor | None = None
        for levels in self.proposals():
            if best is None or self._distance(self.ratio(levels)) < self._distance(
                self.ratio(best)
            ):
                best = levels
            if self._met(self.ratio(best)):
                break
        return best

    def proposals(self) -> Iterator[Tensor]:
        """Yield levels near the budget: the first choice, then those with one group set to another of its widths."""
        first = self._approach({})
        yield first
        for place, level in self._detours(first):
            yield self._approach({place: level})

    def _approach(self, fixed: dict[int, int]) -> Tensor:
        return self._exchange(self._fill(self._bisect(fixed)))

    def _detours(self, levels: Tensor) -> list[tuple[int, int]]:
        """Return (group, level) for all other levels, by distance, dear groups first."""
        marginal = self._costs.marginal(self.mask(levels), self._budget.kind)
        price = [float(marginal[group.span].mean()) for group in self._plan.prunable]
        others = [
            (place, level)
            for place, allowed in enumerate(self._allowed)
            for level in range(len(allowed))
        ]
        others = [(place, level) for place, level in others if level != levels[place]]
        return sorted(others, key=lambda one: (abs(one[1] - int(levels[one[0]])), -price[one[0]]))

    def _steps_by_score(self) -> Tensor:
        """Return the groups in the order in which a falling threshold lifts them by one level, nearest width first.

        Equal scores lift every group alike.
        """
        events = []
        for place, (group, order, allowed) in enumerate(
            zip(self._plan.prunable, self._order, self._allowed, strict=True)
        ):
            ranked = self._scores[group.span][order]
            middles = [(low + high) // 2 for low, high in pairwise(allowed)]
            events += [(-float(ranked[middle]), middle / group.width, place) for middle in middles]
        return torch.tensor([place for *_, place in sorted(events)], dtype=torch.long)

    def _bisect(self, fixed: dict[int, int]) -> Tensor:
        """Return the levels of the lowest threshold whose cost does not exceed the budget, some groups being fixed."""
        low, high = 0, len(self._events)
        while low < high:
            middle = (low + high + 1) // 2
            within = self.ratio(self._after(middle, fixed)) <= self._budget.keep_ratio
            low, high = (middle, high) if within else (low, middle - 1)
        return self._after(low, fixed)

    def _after(self, events: int, fixed: dict[int, int]) -> Tensor:
        levels = torch.bincount(self._events[:events], minlength=len(self._allowed))
        for place, level in fixed.items():
            levels[place] = level
        return levels

    def _fill(self, levels: Tensor) -> Tensor:
        """Widen single groups, best score per cost first, as long as the budget holds."""
        while True:
            places, to = self._table.neighbors(levels, [1])
            ratios, values = self._neighbors(levels, places[:, None], to[:, None])
            gains = values / (ratios - self.ratio(levels)).clamp_min(1e-12)
            gains[ratios > self._budget.keep_ratio] = -torch.inf
            if len(gains) == 0 or gains.max() == -torch.inf:
                return levels
            levels = levels.clone()
            levels[places[gains.argmax()]] += 1

    def _exchange(self, levels: Tensor) -> Tensor:
        """Widen one group and narrow another until the cost lies within the tolerance, by further steps if need be."""
        for reach in REACHES:
            for _ in range(EXCHANGES):
                if self._met(self.ratio(levels)):
                    return levels
                closer = self._closer(levels, reach)
                if closer is None:
                    break
                levels = closer
        return levels

    def _closer(self, levels: Tensor, reach: int) -> Tensor | None:
        """Return the best neighbor that is closer to the budget; inside the tolerance the best scored one."""
        places, to = self._moves(levels, reach)
        if len(places) == 0:
            return None
        ratios, values = self._neighbors(levels, places, to)
        distances = self._distance(ratios)
        within = distances <= self._budget.margin
        best = values.where(within, -torch.inf).argmax() if within.any() else distances.argmin()
        if not within.any() and distances[best] >= self._distance(self.ratio(levels)):
            return None
        closer = levels.clone()
        closer[places[best]] = to[best]
        return closer

    def _moves(self, levels: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """Return the pairs of groups, one wider and another narrower by up to `reach` levels, and their new levels.

        A group paired with itself is one that moves alone.
        """
        place, to = self._table.neighbors(
            levels, [step for step in range(-reach, reach + 1) if step]
        )
        up = to > levels[place]
        first, second = (
            torch.cartesian_prod(up.nonzero().flatten(), (~up).nonzero().flatten()).reshape(-1, 2).T
        )
        apart = place[first] != place[second]
        first, second = first[apart], second[apart]
        places = torch.cat(
            (place[:, None].expand(-1, 2), torch.stack((place[first], place[second]), dim=1))
        )
        return places, torch.cat(
            (to[:, None].expand(-1, 2), torch.stack((to[first], to[second]), dim=1))
        )

    def _neighbors(self, levels: Tensor, places: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept fractions and gains of score after groups (B, k) are set to levels (B, k)."""
        alone = places[:, 0] == places[:, -1]
        weight = torch.ones(places.shape, dtype=torch.double)
        weight[:, 1:][alone] = 0.0
        change = self._table.size_change(levels, places, to)
        counts = self._table.sizes(levels) + (weight[..., None] * change).sum(1)
        gained = self._values[places, to] - self._values[places, levels[places]]
        return self._ratios(counts), (weight * gained).sum(1)

    @torch.no_grad()
    def _ratios(self, counts: Tensor) -> Tensor:
        return self._costs.of_sizes(counts, self._budget.kind) / self._dense

    def _distance(self, ratio: float | Tensor) -> Tensor:
        """How far off a ratio is; anything above the budget comes after all that lies within it."""
        off = self._budget.keep_ratio - torch.as_tensor(ratio, dtype=torch.double)
        return torch.where(off >= 0, off, self._budget.margin - off)

    def _met(self, ratio: float) -> bool:
        return 0 <= self._budget.keep_ratio - ratio <= self._budget.margin
