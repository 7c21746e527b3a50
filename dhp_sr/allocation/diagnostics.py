"""Diagnostics of a budget: shares of groups in the cost, lower bound, and errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.allocation.removals import lowest_mask
from dhp_sr.channels.plan import ChannelPlan, append_pinned
from dhp_sr.cost.model import CostModel

MAX_NAMED = 3
"""Groups named in a message; the others are summed up."""

MIN_NAMED_SHARE = 5e-5
"""Smaller shares would be printed as 0.0000."""


@dataclass(frozen=True)
class Measurement:
    """A mask, and the latency of the network cut to it as fractions of the dense network's."""

    predicted: float
    measured: float
    mask: Tensor


class LowerBound(NamedTuple):
    """Lowest kept fraction of a cost, and the groups that account for it."""

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
    """Return by how much each prunable group, alone at its minimum width, lowers the cost.

    Returns:
        Group name -> fraction of the dense cost.
    """
    narrow = min_width_mask(plan, budget)
    shares = {}
    for group in plan.prunable:
        # Each group alone: the shares of neighbors overlap and do not add up.
        mask = torch.ones(plan.size, dtype=torch.bool)
        mask[group.span] = narrow[group.span]
        shares[group.name] = 1 - costs.ratio(mask, budget.kind)
    return shares


def lower_bound(plan: ChannelPlan, costs: CostModel, budget: Budget) -> LowerBound:
    """Compute the lowest kept fraction that widths, and removals where allowed, can reach.

    The cost of a parameter is attributed to the groups of its output channels, in proportion to
    their kept channels.
    """
    mask = lowest_mask(plan, budget)
    index_of_axis = {(axis.tensor, axis.dim): axis.index for axis in plan.axes}
    out_dims = {layer.weight: layer.out_dim for layer in plan.layers}
    reasons = {}
    for group in plan.groups:
        if group.reason:
            reasons.update(dict.fromkeys(group.members, f"{group.name}: {group.reason}"))

    # Pinned entries have the index plan.size; they form a further group, behind the prunable
    # groups.
    widths = [group.width for group in plan.prunable]
    pinned_group = len(widths)
    widths.append(1)
    pinned_entry = torch.tensor([plan.size])
    group_of_channel = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    padded_mask = append_pinned(mask)

    pinned: dict[str, float] = {}
    shares = torch.zeros(len(widths), dtype=torch.double)
    attributed = costs.by_parameter(mask, budget.kind) / costs.dense[budget.kind]
    for name, ratio in zip(costs.names, attributed.tolist(), strict=True):
        # An axis without a record has no channels of a group, so it is pinned.
        index = index_of_axis.get((name, out_dims.get(name, 0)), pinned_entry)
        # Its kept entries may belong to several groups, after a concatenation.
        kept = index[padded_mask[index]]
        counts = torch.bincount(group_of_channel[kept], minlength=len(widths))
        fractions = counts.double() / max(len(kept), 1)
        shares += ratio * fractions
        if fractions[pinned_group] > 0:
            # Parameters of a pinned layer are named by its group; others, such as the bias of a
            # fixed kernel, by themselves.
            layer = name.rpartition(".")[0]
            reason = reasons.get(layer, f"{name}: pinned")
            pinned[reason] = pinned.get(reason, 0.0) + ratio * float(fractions[pinned_group])
    min_widths = {}
    for group, share in zip(plan.prunable, shares.tolist(), strict=False):
        if share > 0:
            min_widths[group.name] = share
    return LowerBound(pinned, min_widths)


def infeasible_budget(plan: ChannelPlan, costs: CostModel, budget: Budget) -> BudgetError:
    """Return the error of a budget below the lower bound, with the groups that account for it."""
    bound = lower_bound(plan, costs, budget)
    removal = ""
    if budget.remove_blocks and plan.branches:
        removal = ", all residual branches that can be removed being removed,"
    return BudgetError(
        f"a kept fraction of {budget.keep_ratio:g} of {budget.kind} cannot be met: with every "
        f"prunable group at its minimum width (min_width {budget.min_width}, multiples of "
        f"{budget.round_to}){removal} {bound.ratio:.4f} of {budget.kind} remains: pinned groups "
        f"account for {bound.pinned_ratio:.4f} ({_largest(bound.pinned)}), minimum widths for "
        f"{bound.min_width_ratio:.4f} ({_largest(bound.min_widths)}). "
        "Ask for more, lower min_width or round_to, or exclude fewer layers"
    )


def missed_budget(
    plan: ChannelPlan, costs: CostModel, budget: Budget, measurements: Sequence[Measurement]
) -> BudgetError:
    """Return the error of a latency that no measured network met, with what was reached.

    Args:
        plan: The groups.
        costs: Costs of the plan.
        budget: Budget of a measured kind.
        measurements: The dense network first.
    """
    # Even the narrowest network was too slow: then the reason is the lower bound, not the noise.
    narrowest = min(measurements, key=lambda tried: int(tried.mask.sum()))
    if torch.equal(narrowest.mask.sum(), min_width_mask(plan, budget).sum()):
        return BudgetError(
            f"{infeasible_budget(plan, costs, budget)}. Measured at the minimum widths: "
            f"{narrowest.measured:.3f}"
        )
    # The dense network comes first and is no attempt.
    reached = []
    for tried in measurements[1:]:
        reached.append(f"{tried.measured:.3f} (predicted {tried.predicted:.3f})")
    return BudgetError(
        f"a latency of {budget.keep_ratio:g} of the dense network's within {budget.margin:g} was "
        f"not met; measured on {len(reached)} cut networks: {', '.join(reached)}. Lower round_to, "
        "raise the tolerance, or measure on a quieter machine"
    )


def _largest(shares: Mapping[str, float]) -> str:
    """Name the largest shares, and sum up the others."""
    named: list[str] = []
    num_others = 0
    sum_of_others = 0.0
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        if share < MIN_NAMED_SHARE:
            break
        if len(named) < MAX_NAMED:
            named.append(f"{name} {share:.4f}")
        else:
            num_others += 1
            sum_of_others += share
    if num_others:
        named.append(f"{num_others} more {sum_of_others:.4f}")
    return ", ".join(named) or "none"


def check_prunable(plan: ChannelPlan) -> None:
    """Check that there is something to prune.

    Raises:
        BudgetError: All groups are pinned; the message names the widest.
    """
    if not plan.prunable:
        raise BudgetError(f"the network has no channels to prune; pinned: {describe_pinned(plan)}")


def describe_pinned(plan: ChannelPlan, count: int = 6) -> str:
    """Return the widest pinned groups with their reasons, for a message.

    Args:
        plan: Plan of the network.
        count: How many are named; large networks have hundreds.
    """
    pinned = [group for group in plan.groups if not group.prunable]
    pinned.sort(key=lambda group: -group.width)
    described = [f"{group.name} ({group.reason})" for group in pinned[:count]]
    if len(pinned) > count:
        described.append(f"and {len(pinned) - count} more")
    return ", ".join(described)
