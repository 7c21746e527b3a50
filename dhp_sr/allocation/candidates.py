"""Candidate widths of channel groups, and what each of them adds to the sizes of weight axes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dhp_sr.allocation.budget import Budget
from dhp_sr.channels.plan import ChannelPlan, Group
from dhp_sr.cost.axis_sizes import AxisSizes
from dhp_sr.utils.pixels import round_up


def allowed_widths(group: Group, budget: Budget) -> list[int]:
    """Return the widths that a group may take, ascending; the last is the dense width.

    A layer has as many channels as the group has elements, times the group's channels per element
    there (4 before a 2x PixelShuffle). These products are multiples of `round_to` and not below the
    minimum width.
    """
    # The width has to suit every layer at once: the least common multiple of what each needs.
    steps = []
    for channels in group.channels_per_element:
        steps.append(budget.round_to // math.gcd(budget.round_to, channels))
    step = math.lcm(*steps)
    first = round_up(min_group_width(group, budget.min_width), step)
    return [*range(first, group.width, step), group.width]


def is_removed(group: Group, budget: Budget, scores: Tensor) -> bool:
    """Return whether a group goes as a whole, with its residual branch.

    Args:
        group: A prunable group.
        budget: Says whether that is allowed.
        scores: (plan.size,) larger = keep; below 0 for all channels of a group that goes.
    """
    return budget.remove_blocks and group.removable and bool((scores[group.span] < 0).all())


def min_group_width(group: Group, min_width: int) -> int:
    """Return the smallest width at which every layer has `min_width` channels, if any."""
    width = math.ceil(min_width / min(group.channels_per_element))
    return min(group.width, max(1, width))


def min_width_mask(plan: ChannelPlan, budget: Budget) -> Tensor:
    """Return the mask, bool (plan.size,), that keeps the smallest width of each group."""
    mask = torch.zeros(plan.size, dtype=torch.bool)
    for group in plan.prunable:
        mask[group.start : group.start + allowed_widths(group, budget)[0]] = True
    return mask


def enforce_min_width(plan: ChannelPlan, scores: Tensor, min_width: int) -> Tensor:
    """Return the mask scores > 0, filled up to the minimum width of every group.

    Args:
        plan: The groups.
        scores: (plan.size,) larger = keep; above 0 in any case.
        min_width: Minimum number of channels of every layer.
    """
    # A layer without channels would cut the network in two.
    mask = scores > 0
    for group in plan.prunable:
        width = min_group_width(group, min_width)
        if int(mask[group.span].sum()) < width:
            best = torch.topk(scores[group.span], width).indices
            mask[group.start + best] = True
    return mask


def could_be_chosen(plan: ChannelPlan, scores: Tensor, budget: Budget, mask: Tensor) -> bool:
    """Return whether a mask is allowed and keeps the best channels of every group.

    A mask that keeps everything is not: it is no result of an allocation.
    """
    for group in plan.prunable:
        # Of equally scored channels any may be kept.
        kept = mask[group.span].cpu()
        group_scores = scores[group.span].cpu()
        if is_removed(group, budget, scores):
            if kept.any():
                return False
            continue
        if int(kept.sum()) not in allowed_widths(group, budget):
            return False
        if not kept.all() and group_scores[kept].min() < group_scores[~kept].max():
            return False
    return not bool(mask.all())


class WidthCandidates:
    """Axis sizes as a function of candidate indices, an index for each group.

    Sizes are additive over groups. So the sizes of a changed choice follow from those of the
    choice before it, and thousands of changes are evaluated in a batch.

    Args:
        groups: The prunable ones of a plan.
        orders: The channels of each group, the best first; a narrower group keeps the first ones.
        widths: The candidate widths of each group, ascending.
        axis_sizes: Sizes of the plan.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        orders: Sequence[Tensor],
        widths: Sequence[Sequence[int]],
        axis_sizes: AxisSizes,
    ) -> None:
        # Groups have different numbers of candidates; the padding is never indexed.
        added = []
        for group, order, candidates in zip(groups, orders, widths, strict=True):
            added.append(axis_sizes.group_sizes(group.start, order, candidates))
        self._added = pad_sequence(added, batch_first=True)
        """Contribution of each group to the sizes at each of its widths, shape (groups, candidates,
        size)."""
        self._fixed = axis_sizes.fixed
        self._groups = torch.arange(len(groups))
        self.last_index = torch.tensor(list(map(len, widths))) - 1
        """Candidate index of the largest width of each group, shape (groups,)."""

    def sizes(self, indices: Tensor) -> Tensor:
        """Return the axis sizes, shape (size,), for candidate indices (groups,)."""
        return self._added[self._groups, indices].sum(0) + self._fixed

    def size_change(self, indices: Tensor, groups: Tensor, new_indices: Tensor) -> Tensor:
        """Return the change of the axis sizes if single groups change their candidate.

        Args:
            indices: (groups,) candidate indices before.
            groups: (...) the group of each change.
            new_indices: (...) its new candidate index.

        Returns:
            (..., size).
        """
        # Only the changed groups are looked at; all others keep what they add.
        return self._added[groups, new_indices] - self._added[groups, indices[groups]]

    def neighbors(self, indices: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return all possible changes of single groups by these steps of the candidate index.

        Returns:
            The group of each change, and its new candidate index, both (changes,).
        """
        new_indices = indices[:, None] + torch.tensor(steps)
        exists = (new_indices >= 0) & (new_indices <= self.last_index[:, None])
        groups = self._groups[:, None].expand_as(new_indices)
        return groups[exists], new_indices[exists]
