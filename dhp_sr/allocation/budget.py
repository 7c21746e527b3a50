"""What to keep of a network: the budget, how it was met, and masks by group."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan, Group
from dhp_sr.cost.model import KINDS, CostModel
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

TOLERANCES = {"macs": 0.01, "params": 0.01, "latency": 0.05}
"""Tolerance of each kind of budget where none is given; measured times need more."""


class BudgetError(UserError):
    """No choice of widths meets the budget; the message says what stands in the way."""


@dataclass(frozen=True)
class Budget:
    """Fraction of the dense network's cost to keep, and the widths that layers may take.

    Made once, by `from_target`, from the option file or the command line; the same object goes on to the search, the
    width solver and the report.
    """

    kind: str
    """Cost kind: `macs`, `params` or `latency`."""
    keep_ratio: float
    """Kept fraction of the dense network's cost, in (0, 1]."""
    tolerance: float
    """Largest distance between the kept fraction reached and `keep_ratio`; for latency as a fraction of
    `keep_ratio`."""
    round_to: int
    """Widths of layers are multiples of this, or the dense width."""
    min_width: int
    """Minimum number of channels of every layer of a prunable group."""

    @classmethod
    def from_target(
        cls,
        kind: str,
        keep_ratio: float,
        tolerance: float | None = None,
        round_to: int = 8,
        min_width: int | None = None,
    ) -> "Budget":
        """Make a budget from a target, with the default tolerance of its kind.

        Args:
            kind: cost kind.
            keep_ratio: kept fraction, in (0, 1].
            tolerance: see the field; default: that of the kind in `TOLERANCES`.
            round_to: see the field.
            min_width: see the field; default: `round_to`.

        Raises:
            BudgetError: an unknown kind, a fraction outside (0, 1], or widths below 1.
        """
        if kind not in KINDS:
            raise BudgetError(f"a budget is of kind {', '.join(KINDS)}; found {kind!r}")
        if tolerance is None:
            tolerance = TOLERANCES[kind]
        if min_width is None:
            min_width = round_to
        return cls(kind, keep_ratio, tolerance, round_to, min_width)

    def __post_init__(self) -> None:
        """Refuse widths below 1 and a fraction outside (0, 1]."""
        if self.round_to < 1 or self.min_width < 1:
            raise BudgetError(
                f"round_to and min_width must be at least 1, found {self.round_to} and {self.min_width}"
            )
        if not 0 < self.keep_ratio <= 1:
            raise BudgetError(
                f"the kept fraction of {self.kind} must lie in (0, 1], found {self.keep_ratio}"
            )

    @property
    def margin(self) -> float:
        """Largest distance between the kept fraction and `keep_ratio`."""
        return self.tolerance * (self.keep_ratio if self.kind == "latency" else 1.0)


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
    latency_ratio: float = math.nan
    """Kept fraction of time that the table predicts; nan without a table."""
    measured_latency_ratio: float = math.nan
    """Kept fraction of time, measured on the cut network; nan unless the budget is one of latency."""


def allowed_widths(group: Group, budget: Budget) -> list[int]:
    """Return the widths a group may take, ascending: the dense width, and those that suit all layers.

    A layer has as many channels as the group times one of its `units`; they are a multiple of `round_to`, not below
    the floor.
    """
    step = math.lcm(
        *(budget.round_to // math.gcd(budget.round_to, unit) for unit in group.channels_per_element)
    )
    first = round_up(min_group_width(group, budget.min_width), step)
    return [*range(first, group.width, step), group.width]


def min_group_width(group: Group, min_width: int) -> int:
    """Return the width below which a layer of the group has fewer channels than `min_width`, or the dense width."""
    return min(group.width, max(1, math.ceil(min_width / min(group.channels_per_element))))


def report_kept(
    plan: ChannelPlan, mask: Tensor, budget: Budget, costs: CostModel, measured: float = math.nan
) -> BudgetReport:
    """Say what a mask keeps."""
    dense, kept = costs.value(torch.ones(plan.size)), costs.value(mask.cpu())
    macs, params, latency = (now / before for now, before in zip(kept, dense, strict=True))
    widths = {group.name: int(mask[group.span].sum()) for group in plan.prunable}
    return BudgetReport(budget.kind, budget.keep_ratio, macs, params, widths, latency, measured)


def split_by_group(plan: ChannelPlan, flat: Tensor) -> dict[str, Tensor]:
    """Return the part of a flat vector that belongs to each prunable group."""
    return {group.name: flat[group.span] for group in plan.prunable}


def join_groups(plan: ChannelPlan, parts: Mapping[str, Tensor]) -> Tensor:
    """Concatenate one vector for each prunable group into a flat one.

    Raises:
        ValueError: a group has no vector, or one of another length, or one that is not finite.
    """
    for group in plan.prunable:
        found = parts.get(group.name)
        if found is None or tuple(found.shape) != (group.width,) or not torch.isfinite(found).all():
            shape = "none" if found is None else f"shape {tuple(found.shape)}"
            raise ValueError(
                f"{group.name}: expected finite numbers of shape ({group.width},), found {shape}"
            )
    return (
        torch.cat([parts[group.name] for group in plan.prunable])
        if plan.prunable
        else torch.zeros(0)
    )


def enforce_min_width(plan: ChannelPlan, life: Tensor, min_width: int) -> Tensor:
    """Return the mask life > 0, with the best channels of every group up to its floor kept whatever their value.

    Args:
        plan: the groups.
        life: (plan.size,) larger = keep.
        min_width: least channels of every layer.
    """
    mask = life > 0
    for group in plan.prunable:
        floor = min_group_width(group, min_width)
        if int(mask[group.span].sum()) < floor:
            best = torch.topk(life[group.span], floor).indices
            mask[group.start + best] = True
    return mask
