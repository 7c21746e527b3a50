"""What stands in the way of a budget: which pinned groups and which floors hold how much of a cost."""

import torch

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

SHOWN = 3


def share_per_group(plan: ChannelPlan, costs: CostModel, budget: Budget) -> dict[str, float]:
    """Return, for each prunable group, the fraction of the dense cost that goes when it alone is cut to its floor."""
    dense = getattr(costs.value(torch.ones(plan.size)), budget.kind)
    shares, floor = {}, min_width_mask(plan, budget)
    for group in plan.prunable:
        mask = torch.ones(plan.size, dtype=torch.bool)
        mask[group.span] = floor[group.span]
        shares[group.name] = 1 - getattr(costs.value(mask), budget.kind) / dense
    return shares


def lower_bound(
    plan: ChannelPlan, costs: CostModel, budget: Budget
) -> tuple[dict[str, float], dict[str, float]]:
    """Return what is left with every group at its floor: held by pinned groups, and by floors.

    A parameter is charged to the group of the channels that its layer puts out.

    Returns:
        `name: reason` of pinned groups, and names of prunable ones -> fraction of the dense cost. Together they are the
        least kept fraction that can be reached.
    """
    mask = min_width_mask(plan, budget)
    dense = getattr(costs.value(torch.ones(plan.size)), budget.kind)
    axes = {(axis.tensor, axis.dim): axis.index for axis in plan.axes}
    transposed = {layer.weight for layer in plan.layers if layer.kind == "transposed conv"}
    reasons = {
        layer: f"{group.name}: {group.reason}"
        for group in plan.groups
        if group.reason
        for layer in group.members
    }
    owner = [group.name for group in plan.prunable for _ in range(group.width)]
    pinned: dict[str, float] = {}
    floors: dict[str, float] = {}
    for name, cost in zip(costs.names, costs.by_parameter(mask, budget.kind).tolist(), strict=True):
        layer = name.rpartition(".")[0]
        index = axes.get((name, 1 if name in transposed else 0), torch.tensor([plan.size]))
        kept = [place for place in index.tolist() if place == plan.size or mask[place]]
        for place in kept:
            held, key = (
                (pinned, reasons.get(layer, f"{name}: pinned"))
                if place == plan.size
                else (floors, owner[place])
            )
            held[key] = held.get(key, 0.0) + cost / dense / len(kept)
    return pinned, floors


def infeasible_budget(plan: ChannelPlan, costs: CostModel, budget: Budget) -> BudgetError:
    """Return the error of a budget below what floors and pinned groups leave."""
    pinned, floors = lower_bound(plan, costs, budget)
    held, kept = sum(pinned.values()), sum(floors.values())
    floor = f"min_width {budget.min_width}, multiples of {budget.round_to}"
    return BudgetError(
        f"a kept fraction of {budget.keep_ratio:g} of {budget.kind} cannot be met: with every prunable group at its "
        f"floor ({floor}) {held + kept:.4f} of {budget.kind} remains: pinned groups hold {held:.4f} "
        f"({_largest(pinned)}), floors hold {kept:.4f} ({_largest(floors)}). "
        "Ask for more, lower min_width or round_to, or exclude fewer layers"
    )


def _largest(shares: dict[str, float]) -> str:
    """Name the largest shares, and sum up the others."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    ranked = [(name, share) for name, share in ranked if share >= 5e-5]
    parts = [f"{name} {share:.4f}" for name, share in ranked[:SHOWN]]
    others = ranked[SHOWN:]
    if others:
        parts.append(
            f"{len(others)} other{'s' if len(others) > 1 else ''} {sum(share for _, share in others):.4f}"
        )
    return ", ".join(parts) or "none"
