"""From channel scores to masks that meet a budget."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dhp_sr.structure.cost import CostModel
from dhp_sr.structure.groups import ChannelPlan, Group
from dhp_sr.utils.errors import UserError

BISECTIONS = 60
EXCHANGES = 200
REACHES = (1, 3)


class BudgetError(UserError):
    """No choice of widths meets the budget; the message says what stands in the way."""


@dataclass(frozen=True)
class Budget:
    """What to keep of the dense network."""

    kind: str
    """`macs` or `params`."""
    keep_ratio: float
    """Kept fraction, in (0, 1]."""
    tolerance: float = 0.01
    """Largest distance between the kept fraction and `keep_ratio`; below it where both sides can be reached."""
    round_to: int = 8
    """Widths are multiples of this, or the dense width."""
    min_width: int = 8
    """No group is cut below this."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            BudgetError: an unknown kind, a fraction outside (0, 1], or widths below 1.
        """
        if self.kind not in ("macs", "params"):
            raise BudgetError(f"a budget is of kind macs or params, found {self.kind!r}")
        if self.round_to < 1 or self.min_width < 1:
            raise BudgetError(f"round_to and min_width must be at least 1, found {self.round_to} and {self.min_width}")
        if not 0 < self.keep_ratio <= 1:
            raise BudgetError(f"the kept fraction of {self.kind} must lie in (0, 1], found {self.keep_ratio}")


@dataclass(frozen=True)
class BudgetReport:
    """How a budget was met."""

    kind: str
    keep_ratio: float
    """Asked for."""
    macs_ratio: float
    """Kept fraction of multiply-adds."""
    params_ratio: float
    """Kept fraction of parameters."""
    widths: dict[str, int]
    """Kept channels of every prunable group."""


def fit(plan: ChannelPlan, scores: Tensor, budget: Budget) -> Tensor:
    """Choose the channels to keep.

    A threshold on the scores is bisected onto the budget; widths are rounded; then single steps, and exchanges between
    two groups, bring the cost into the tolerance at the least loss of score.

    Args:
        plan: the groups and their costs.
        scores: (plan.size,) comparable between groups, larger means keep.
        budget: what to keep.

    Returns:
        (plan.size,) mask, True for a kept channel.

    Raises:
        BudgetError: floors or pinned groups stand in the way, or the widths are too coarse for the tolerance.
    """
    if budget.keep_ratio == 1:
        return torch.ones(plan.size, dtype=torch.bool)
    if not plan.prunable:
        raise BudgetError(f"the network has no channels to prune; pinned: {_pinned(plan)}")
    chooser = _Chooser(plan, scores.detach().double().cpu(), budget)
    chooser.check_reachable()
    widths = chooser.choose()
    chooser.check_met(widths)
    return chooser.mask(widths)


class _Chooser:
    """Widths as levels: for each group the position in its list of allowed widths."""

    def __init__(self, plan: ChannelPlan, scores: Tensor, budget: Budget) -> None:
        self._plan, self._budget, self._scores = plan, budget, _without_ties(plan, scores)
        self._cost = CostModel(plan)
        self._dense = getattr(self._cost.value(torch.ones(plan.size)), budget.kind)
        self._allowed = [allowed_widths(group, budget) for group in plan.prunable]
        self._order = [torch.argsort(self._scores[group.span], descending=True) for group in plan.prunable]

    def mask(self, levels: list[int]) -> Tensor:
        mask = torch.zeros(self._plan.size, dtype=torch.bool)
        for group, order, allowed, level in zip(self._plan.prunable, self._order, self._allowed, levels, strict=True):
            mask[group.start + order[: allowed[level]]] = True
        return mask

    def ratio(self, levels: list[int]) -> float:
        return getattr(self._cost.value(self.mask(levels)), self._budget.kind) / self._dense

    def value(self, levels: list[int]) -> float:
        """Sum of the scores kept."""
        return float(self._scores[self.mask(levels)].sum())

    def choose(self) -> list[int]:
        """Return levels that meet the budget, or those that come closest.

        Where a group is so dear that one step of it oversteps the tolerance, and no exchange makes up for it, that
        group is set to each of its widths in turn, those next to the first choice first.
        """
        first = best = self._approach({})
        for place, level in self._detours(first):
            if self._met(self.ratio(best)):
                break
            other = self._approach({place: level})
            best = min(best, other, key=lambda levels: self._distance(self.ratio(levels)))
        return best

    def _approach(self, fixed: Mapping[int, int]) -> list[int]:
        return self.exchange(self.fill(self.bisect(fixed)))

    def _detours(self, levels: list[int]) -> list[tuple[int, int]]:
        """Return (group, level) for all other levels, by distance, dear groups first."""
        marginal = self._cost.marginal(self.mask(levels), self._budget.kind)
        price = [float(marginal[group.span].mean()) for group in self._plan.prunable]
        others = [(place, level) for place, allowed in enumerate(self._allowed) for level in range(len(allowed))]
        others = [(place, level) for place, level in others if level != levels[place]]
        return sorted(others, key=lambda one: (abs(one[1] - levels[one[0]]), -price[one[0]]))

    def bisect(self, fixed: Mapping[int, int]) -> list[int]:
        """Return the levels of the lowest threshold whose cost does not exceed the budget, some groups being fixed."""
        low, high = float(self._scores.min()) - 1, float(self._scores.max()) + 1
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.ratio(self._levels(middle, fixed)) > self._budget.keep_ratio:
                low = middle
            else:
                high = middle
        return self._levels(high, fixed)

    def _levels(self, threshold: float, fixed: Mapping[int, int]) -> list[int]:
        levels = []
        for group, allowed in zip(self._plan.prunable, self._allowed, strict=True):
            above = int((self._scores[group.span] > threshold).sum())
            levels.append(min(range(len(allowed)), key=lambda level: (abs(allowed[level] - above), level)))
        return [fixed.get(place, level) for place, level in enumerate(levels)]

    def fill(self, levels: list[int]) -> list[int]:
        """Widen single groups, best score per cost first, as long as the budget holds."""
        while True:
            base, value = self.ratio(levels), self.value(levels)
            options = [(self._gain(wider, base, value), wider) for wider in self._steps(levels, 1)]
            options = [(gain, wider) for gain, wider in options if self.ratio(wider) <= self._budget.keep_ratio]
            if not options:
                return levels
            levels = max(options)[1]

    def _gain(self, levels: list[int], base: float, value: float) -> float:
        return (self.value(levels) - value) / max(self.ratio(levels) - base, 1e-12)

    def _steps(self, levels: list[int], by: int) -> Iterator[list[int]]:
        for place, level in enumerate(levels):
            if 0 <= level + by < len(self._allowed[place]):
                yield [*levels[:place], level + by, *levels[place + 1 :]]

    def exchange(self, levels: list[int]) -> list[int]:
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

    def _closer(self, levels: list[int], reach: int) -> list[int] | None:
        """Return the best neighbour that is closer to the budget; inside the tolerance the best scored one."""
        options = []
        for up in range(1, reach + 1):
            for wider in self._steps(levels, up):
                narrower = (other for down in range(1, reach + 1) for other in self._steps(wider, -down))
                options += [(self._distance(self.ratio(other)), other) for other in (wider, *narrower)]
        within = [other for distance, other in options if distance <= self._budget.tolerance]
        if within:
            return max(within, key=self.value)
        distance, other = min(options, default=(math.inf, levels))
        return other if distance < self._distance(self.ratio(levels)) else None

    def _distance(self, ratio: float) -> float:
        """How far off a ratio is; anything above the budget comes after all that lies within it."""
        off = self._budget.keep_ratio - ratio
        return off if off >= 0 else self._budget.tolerance - off

    def _met(self, ratio: float) -> bool:
        return 0 <= self._budget.keep_ratio - ratio <= self._budget.tolerance

    def check_reachable(self) -> None:
        least = self.ratio([0] * len(self._allowed))
        if least <= self._budget.keep_ratio + self._budget.tolerance:
            return
        raise BudgetError(
            f"a kept fraction of {self._budget.keep_ratio:g} of {self._budget.kind} cannot be met: with every prunable "
            f"group at its floor (min_width {self._budget.min_width}, multiples of {self._budget.round_to}) "
            f"{least:.4f} remains. Lower min_width or round_to, or ask for more; pinned: {_pinned(self._plan)}"
        )

    def check_met(self, levels: list[int]) -> None:
        ratio = self.ratio(levels)
        if abs(ratio - self._budget.keep_ratio) > self._budget.tolerance + 1e-12:
            raise BudgetError(
                f"the closest choice of widths keeps {ratio:.4f} of {self._budget.kind}, asked for "
                f"{self._budget.keep_ratio:g} within {self._budget.tolerance:g}: multiples of {self._budget.round_to} "
                "are too coarse for this network. Lower round_to or raise the tolerance"
            )


def _pinned(plan: ChannelPlan) -> str:
    return ", ".join(f"{group.name} ({group.reason})" for group in plan.groups if not group.prunable)


def _without_ties(plan: ChannelPlan, scores: Tensor) -> Tensor:
    """Put equal scores in an order that narrows every group alike."""
    rank = torch.cat([1 - torch.arange(group.width).double() / group.width for group in plan.prunable])
    return scores + 1e-9 * (1 + float(scores.abs().max())) * rank


def allowed_widths(group: Group, budget: Budget) -> list[int]:
    """Return the widths a group may take, ascending: multiples of `round_to` from the floor on, and the dense width."""
    floor = min(group.width, max(1, budget.min_width))
    first = -(-floor // budget.round_to) * budget.round_to
    return [*range(first, group.width, budget.round_to), group.width]


def report(plan: ChannelPlan, mask: Tensor, budget: Budget) -> BudgetReport:
    """Say what a mask keeps."""
    cost = CostModel(plan)
    dense, kept = cost.value(torch.ones(plan.size)), cost.value(mask.cpu())
    widths = {group.name: int(mask[group.span].sum()) for group in plan.prunable}
    return BudgetReport(budget.kind, budget.keep_ratio, kept.macs / dense.macs, kept.params / dense.params, widths)


def split(plan: ChannelPlan, flat: Tensor) -> dict[str, Tensor]:
    """Return the part of a flat vector that belongs to each prunable group."""
    return {group.name: flat[group.span] for group in plan.prunable}


def join(plan: ChannelPlan, parts: Mapping[str, Tensor]) -> Tensor:
    """Concatenate one vector for each prunable group into a flat one.

    Raises:
        ValueError: a group has no vector, or one of another length, or one that is not finite.
    """
    for group in plan.prunable:
        found = parts.get(group.name)
        if found is None or tuple(found.shape) != (group.width,) or not torch.isfinite(found).all():
            shape = "none" if found is None else f"shape {tuple(found.shape)}"
            raise ValueError(f"{group.name}: expected finite numbers of shape ({group.width},), found {shape}")
    return torch.cat([parts[group.name] for group in plan.prunable]) if plan.prunable else torch.zeros(0)


def protect(plan: ChannelPlan, life: Tensor, min_width: int) -> Tensor:
    """Return the mask life > 0, with the best `min_width` channels of every group kept whatever their value.

    Args:
        plan: the groups.
        life: (plan.size,) larger = keep.
        min_width: floor of every group.
    """
    mask = life > 0
    for group in plan.prunable:
        if int(mask[group.span].sum()) < min(min_width, group.width):
            best = torch.topk(life[group.span], min(min_width, group.width)).indices
            mask[group.start + best] = True
    return mask
