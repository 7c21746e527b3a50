"""Widths as levels: for each group its position in a list of widths, and what it adds to the counts at each of them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dhp_sr.channels.plan import Group
from dhp_sr.cost.axis_sizes import AxisSizes


class WidthCandidates:
    """What the groups add to the counts at each of their levels, so that thousands of changes are priced at once.

    Args:
        groups: the prunable ones of a plan.
        orders: the channels of each group, the best first; a narrower group keeps the first ones.
        widths: those that each group may take, ascending.
        counts: of the plan.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        orders: Sequence[Tensor],
        widths: Sequence[Sequence[int]],
        counts: AxisSizes,
    ) -> None:
        parts = zip(groups, orders, widths, strict=True)
        added = [counts.group_sizes(group.start, order, allowed) for group, order, allowed in parts]
        self._added, self._fixed = pad_sequence(added, batch_first=True), counts.fixed
        self._places = torch.arange(len(groups))
        self.last_index = torch.tensor([len(allowed) - 1 for allowed in widths])

    def sizes(self, levels: Tensor) -> Tensor:
        """Return the kept entries, shape (size,), of groups at levels (groups,)."""
        return self._added[self._places, levels].sum(0) + self._fixed

    def size_change(self, levels: Tensor, places: Tensor, to: Tensor) -> Tensor:
        """Return what the counts change by when single groups go from their levels to others.

        Args:
            levels: (groups,) where they are.
            places: (...) the groups that go.
            to: (...) their new levels.

        Returns:
            (..., size).
        """
        return self._added[places, to] - self._added[places, levels[places]]

    def neighbors(self, levels: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the groups, shape (moves,), that can take one of the steps, and the level that it leads to."""
        to = levels[:, None] + torch.tensor(steps)
        possible = (to >= 0) & (to <= self.last_index[:, None])
        return self._places[:, None].expand_as(to)[possible], to[possible]
