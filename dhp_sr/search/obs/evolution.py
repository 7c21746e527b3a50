"""Evolutionary search of widths on the true loss of the network, at a fixed cost.

Errors of single layers do not add up to the error of the network, so an allocation by summed errors
misleads; the loss of the whole network decides instead. A generation widens some groups and narrows
others, is repaired until it meets the budget, and replaces its parent if its loss is lower. Where
the budget allows it, some generations remove a residual branch, or put it back, instead.

Reference:
    EvoPress (Sieberling et al., ICML 2025): level-switch mutation, selection in several stages.
"""

import random
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import WidthCandidates, allowed_widths
from dhp_sr.hyper import HyperNet

Loss = Callable[[Sequence[int], bool], float]
"""Widths, and whether all evaluation inputs are used (else a few) -> loss."""

MAX_SWITCHES = 3
"""Pairs of groups that one mutation changes, at most."""

LARGEST_STEP = 8
"""A switch moves a group by at most an eighth of its candidate widths."""

SCREENING_MARGIN = 1.02
"""An offspring is evaluated on all inputs only if its loss on a few of them is below this times its
parent's there: most offspring are worse, and a few inputs tell."""

TOGGLED_SHARE = 0.25
"""Offspring that lose a residual branch or get it back, where blocks may be removed."""

MAX_REPAIRS = 400
"""Single steps that bring an offspring back to the budget, at most."""


class WidthEvolution:
    """Widths of all groups that meet a budget, improved generation by generation.

    Args:
        hyper: Plan and costs.
        orders: Channels of each group, the most valuable first.
        budget: What to keep.
        loss: Loss of a choice of widths.
        seed: Seed of the mutations.
    """

    def __init__(
        self,
        hyper: HyperNet,
        orders: Sequence[Tensor],
        budget: Budget,
        loss: Loss,
        seed: int = 0,
    ) -> None:
        self._groups = hyper.plan.prunable
        self._budget = budget
        self._costs = hyper.costs
        self._loss = loss
        self._dense_cost = hyper.dense_cost()[budget.kind]
        self._random = random.Random(seed)
        self._branches: list[list[int]] = []
        """Positions, among the prunable groups, of those that go together."""
        if budget.remove_blocks:
            positions = {group.name: position for position, group in enumerate(self._groups)}
            for branch in hyper.plan.branches:
                self._branches.append([positions[name] for name in branch.groups])
        removable = {position for branch in self._branches for position in branch}
        self._widths: list[list[int]] = []
        self._lowest: list[int] = []
        """Candidate index of the smallest width of each group that is there."""
        for position, group in enumerate(self._groups):
            absent = [0] if position in removable else []
            self._widths.append([*absent, *allowed_widths(group, budget)])
            self._lowest.append(len(absent))
        self._table = WidthCandidates(self._groups, orders, self._widths, self._costs.axis_sizes)

    def run(self, starts: Sequence[Sequence[float]], generations: int) -> list[int]:
        """Search from the best of some starting points.

        Args:
            starts: Kept fractions of all groups; rounded to allowed widths and to the budget.
            generations: Offspring to try.

        Returns:
            Width of every prunable group.

        Raises:
            BudgetError: No starting point can be brought to the budget.
        """
        # A single parent, as in EvoPress: the best of the starting points.
        removed: set[int] = set()
        parents = self._parents(starts, removed)
        if not parents:
            # Widths alone do not meet the budget, whatever they are.
            removed = self._needed_removals()
            parents = self._parents(starts, removed) if removed else []
        if not parents:
            raise BudgetError(
                f"no choice of widths keeps {self._budget.keep_ratio:g} of {self._budget.kind} "
                f"within {self._budget.margin:g}; lower round_to or min_width"
            )
        parent = min(parents, key=lambda indices: self._loss(self._to_widths(indices), True))
        screening_loss = self._loss(self._to_widths(parent), False)
        best = self._loss(self._to_widths(parent), True)
        for _ in range(generations):
            offspring = self._repair(self._mutate(parent))
            # Repairs often undo a mutation of a small network.
            if offspring is None or offspring == parent:
                continue
            widths = self._to_widths(offspring)
            offspring_screening_loss = self._loss(widths, False)
            # "not <" drops a NaN, too.
            if not offspring_screening_loss < SCREENING_MARGIN * screening_loss:
                continue
            loss = self._loss(widths, True)
            if loss < best:
                parent = offspring
                screening_loss = offspring_screening_loss
                best = loss
        return self._to_widths(parent)

    def _parents(
        self, starts: Sequence[Sequence[float]], removed: Collection[int]
    ) -> list[list[int]]:
        """Return starting points as candidate indices that meet the budget.

        Args:
            starts: Kept fractions of all groups.
            removed: Positions of the groups that are removed.
        """
        parents = []
        for start in starts:
            indices = []
            for position, fraction in enumerate(start):
                index = 0
                if position not in removed:
                    index = self._nearest_of_group(position, fraction)
                indices.append(index)
            repaired = self._repair(indices)
            if repaired is not None:
                parents.append(repaired)
        return parents

    def _needed_removals(self) -> set[int]:
        """Positions of the groups of as many branches as the budget needs removed.

        First go those that the output, at full width otherwise, can best do without.
        """
        dense = self._table.last_index.tolist()
        losses = []
        for branch in self._branches:
            indices = list(dense)
            for position in branch:
                indices[position] = 0
            losses.append(self._loss(self._to_widths(indices), False))
        removed: set[int] = set()
        for number in sorted(range(len(losses)), key=losses.__getitem__):
            lowest = list(self._lowest)
            for position in removed:
                lowest[position] = 0
            if self._ratio(lowest) <= self._budget.keep_ratio + self._budget.margin:
                break
            removed.update(self._branches[number])
        return removed

    def _ratio(self, indices: Sequence[int]) -> float:
        """Kept fraction of the cost for candidate indices."""
        sizes = self._table.sizes(torch.tensor(indices))
        return float(self._costs.of_sizes(sizes, self._budget.kind)) / self._dense_cost

    def _to_widths(self, indices: Sequence[int]) -> list[int]:
        return [widths[index] for widths, index in zip(self._widths, indices, strict=True)]

    def _nearest_of_group(self, position: int, fraction: float) -> int:
        """Candidate index of a group whose width is nearest to a kept fraction, and not 0."""
        lowest = self._lowest[position]
        wanted = fraction * self._groups[position].width
        distances = [abs(width - wanted) for width in self._widths[position][lowest:]]
        return lowest + distances.index(min(distances))

    def _mutate(self, parent: Sequence[int]) -> list[int]:
        """Widen some groups and narrow as many others by random steps, or toggle a branch."""
        offspring = list(parent)
        # Not drawn where nothing may be removed: the same seed then gives the same widths as ever.
        if self._branches and self._random.random() < TOGGLED_SHARE:
            return self._toggle(offspring, self._random.choice(self._branches))
        # A single group has nobody to exchange cost with.
        if len(offspring) < 2:
            return self._step(offspring, 0, self._random.choice((-1, 1)))
        for _ in range(self._random.randint(1, MAX_SWITCHES)):
            # In pairs, so that the cost stays near the budget and little has to be repaired.
            wider, narrower = self._random.sample(range(len(offspring)), 2)
            self._step(offspring, wider, 1)
            self._step(offspring, narrower, -1)
        return offspring

    def _step(self, indices: list[int], group: int, sign: int) -> list[int]:
        """Move a group by a random step, in place; one that is removed stays so."""
        lowest = self._lowest[group]
        last = len(self._widths[group]) - 1
        size = self._random.randint(1, max(1, (last - lowest) // LARGEST_STEP))
        if indices[group] >= lowest:
            indices[group] = min(last, max(lowest, indices[group] + sign * size))
        return indices

    def _toggle(self, indices: list[int], branch: Sequence[int]) -> list[int]:
        """Remove a branch, or put it back at the mean kept fraction of the others, in place."""
        if any(indices[position] >= self._lowest[position] for position in branch):
            for position in branch:
                indices[position] = 0
            return indices
        fraction = self._mean_fraction(indices)
        # Around it may be another branch that was removed with it.
        for other in self._branches:
            if not set(other).isdisjoint(branch) and not any(indices[p] for p in other):
                for position in other:
                    indices[position] = self._nearest_of_group(position, fraction)
        return indices

    def _mean_fraction(self, indices: Sequence[int]) -> float:
        """Kept fraction of the channels of all groups that are there."""
        kept = 0
        dense = 0
        for group, widths, index in zip(self._groups, self._widths, indices, strict=True):
            kept += widths[index]
            dense += group.width if widths[index] else 0
        return kept / max(dense, 1)

    def _repair(self, indices: list[int]) -> list[int] | None:
        """Step single groups until the budget is met; None if random steps do not get there."""
        indices = list(indices)
        wanted = self._budget.keep_ratio
        for _ in range(MAX_REPAIRS):
            ratio = self._ratio(indices)
            if abs(ratio - wanted) <= self._budget.margin:
                return indices
            sign = 1
            if ratio > wanted:
                sign = -1
            # At random: the most expensive group would otherwise always pay.
            movable = []
            for group, index in enumerate(indices):
                lowest = self._lowest[group]
                if index >= lowest and lowest <= index + sign < len(self._widths[group]):
                    movable.append(group)
            if not movable:
                return None
            indices[self._random.choice(movable)] += sign
        return None
