"""Diagnostics of a budget: the share of each group in the cost, and the lowest cost that can be reached."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

MAX_NAMED = 3
"""Groups named in a message; the others are summed up."""

MIN_NAMED_SHARE = 5e-5
"""Smaller shares would be printed as 0.0000."""


class LowerBound(NamedTuple):
    """Lowest kept fraction of a cost: every group at its minimum width, by the groups that account for it."""

    pinned: dict[str, float]
    """`group: reason` -> fraction of the dense cost that pinned groups account for."""
    min_widths: dict[str, float]
    """Prunable group -> fraction of the dense cost that its minimum width accounts for."""

    @property
    def pinned_ratio(self) -> float:
        """Fraction of the dense cost that all pinned groups account for."""
        return sum(self.pinned.values())

    @property
    def min_width_ratio(self) -> float:
        """Fraction of the dense cost that all minimum widths account for."""
        return sum(self.min_widths.values())

    @property
    def ratio(self) -> float:
        """The lowest kept fraction."""
        return self.pinned_ratio + self.min_width_ratio


def share_per_group(plan: ChannelPlan, costs: CostModel, budget: Budget) -> dict[str, float]:
    """Return, for each prunable group, the fraction of the dense cost saved by cutting it alone to its minimum width."""
    narrow = min_width_mask(plan, budget)
    shares = {}
    for group in plan.prunable:
        mask = torch.ones(plan.size, dtype=torch.bool)
        mask[group.span] = narrow[group.span]
        shares[group.name] = 1 - costs.ratio(mask, budget.kind)
    return shares


def lower_bound(plan: ChannelPlan, costs: CostModel, budget: Budget) -> LowerBound:
    """Compute the lowest kept fraction that widths can reach.

    The cost of a parameter is attributed to the groups of its output channels, in proportion to their kept channels.
    """
    mask = min_width_mask(plan, budget)
    index_of_axis = {(axis.tensor, axis.dim): axis.index for axis in plan.axes}
    out_dims = {layer.weight: layer.out_dim for layer in plan.layers}
    reasons = {}
    for group in plan.groups:
        if group.reason:
            reasons.update(dict.fromkeys(group.members, f"{group.name}: {group.reason}"))

    # Pinned entries have the index plan.size; they belong to one more group, behind the prunable ones.
    widths = [group.width for group in plan.prunable]
    pinned_group = len(widths)
    widths.append(1)
    group_of_channel = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    padded_mask = torch.cat((mask, torch.ones(1, dtype=torch.bool)))

    pinned: dict[str, float] = {}
    shares = torch.zeros(len(widths), dtype=torch.double)
    attributed = costs.by_parameter(mask, budget.kind) / costs.dense[budget.kind]
    for name, ratio in zip(costs.names, attributed.tolist(), strict=True):
        index = index_of_axis.get((name, out_dims.get(name, 0)))
        if index is None:
            fractions = torch.zeros(len(widths), dtype=torch.double)
            fractions[pinned_group] = 1.0
        else:
            fractions = _fraction_per_group(index, padded_mask, group_of_channel, len(widths))
        shares += ratio * fractions
        if fractions[pinned_group] > 0:
            layer = name.rpartition(".")[0]
            reason = reasons.get(layer, f"{name}: pinned")
            pinned[reason] = pinned.get(reason, 0.0) + ratio * float(fractions[pinned_group])
    min_widths = {}
    for group, share in zip(plan.prunable, shares.tolist(), strict=False):
        if share > 0:
            min_widths[group.name] = share
    return LowerBound(pinned, min_widths)


def _fraction_per_group(
    index: Tensor, padded_mask: Tensor, group_of_channel: Tensor, num_groups: int
) -> Tensor:
    """Return the fraction of an axis's kept entries that each group has, shape (num_groups,)."""
    kept = index[padded_mask[index]]
    counts = torch.bincount(group_of_channel[kept], minlength=num_groups)
    return counts.double() / max(len(kept), 1)


def infeasible_budget(plan: ChannelPlan, costs: CostModel, budget: Budget) -> BudgetError:
    """Return the error of a budget below the lower bound, with the groups that account for it."""
    bound = lower_bound(plan, costs, budget)
    return BudgetError(
        f"a kept fraction of {budget.keep_ratio:g} of {budget.kind} cannot be met: with every "
        f"prunable group at its minimum width (min_width {budget.min_width}, multiples of "
        f"{budget.round_to}) {bound.ratio:.4f} of {budget.kind} remains: pinned groups account for "
        f"{bound.pinned_ratio:.4f} ({_largest(bound.pinned)}), minimum widths for "
        f"{bound.min_width_ratio:.4f} ({_largest(bound.min_widths)}). "
        "Ask for more, lower min_width or round_to, or exclude fewer layers"
    )


def _largest(shares: Mapping[str, float]) -> str:
    """Name the largest shares, and sum up the others."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    ranked = [(name, share) for name, share in ranked if share >= MIN_NAMED_SHARE]
    named = [f"{name} {share:.4f}" for name, share in ranked[:MAX_NAMED]]
    others = ranked[MAX_NAMED:]
    if others:
        plural = "s" if len(others) > 1 else ""
        named.append(f"{len(others)} other{plural} {sum(share for _, share in others):.4f}")
    return ", ".join(named) or "none"
