"""From channel scores to the mask that meets a budget, or to the reason why none does."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import allowed_widths, min_width_mask
from dhp_sr.allocation.diagnostics import infeasible_budget
from dhp_sr.allocation.width_solver import WidthSolver
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

MEASUREMENTS, PATIENCE = 12, 6
"""Cut networks measured for one budget of latency, at most; and those that have to meet it by half the tolerance."""


class Trial(NamedTuple):
    """A mask, and how fast the network cut to it is; fractions of the dense network's time."""

    predicted: float
    measured: float
    mask: Tensor


NOTHING = Trial(0.0, 0.0, torch.zeros(0))
"""A network without channels takes no time."""


def allocate_widths(plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> Tensor:
    """Choose the channels to keep.

    A threshold on the scores is bisected onto the budget; widths are rounded; then single steps, and exchanges between
    two groups, bring the cost into the tolerance at the least loss of score.

    Args:
        plan: the groups.
        scores: (plan.size,) comparable between groups, larger means keep.
        budget: what to keep.
        costs: the plan's cost.

    Returns:
        (plan.size,) mask, True for a kept channel.

    Raises:
        BudgetError: floors or pinned groups stand in the way, or the widths are too coarse for the tolerance.
    """
    if budget.keep_ratio == 1:
        return torch.ones(plan.size, dtype=torch.bool)
    chooser = _chooser(plan, scores, budget, costs)
    if chooser.least() > budget.keep_ratio + budget.margin:
        raise infeasible_budget(plan, costs, budget)
    levels = chooser.choose()
    ratio = chooser.ratio(levels)
    if abs(ratio - budget.keep_ratio) > budget.margin + 1e-12:
        raise BudgetError(
            f"the closest choice of widths keeps {ratio:.4f} of {budget.kind}, asked for {budget.keep_ratio:g} within "
            f"{budget.margin:g}: multiples of {budget.round_to} are too coarse for this network. Lower round_to or "
            "raise the tolerance"
        )
    return chooser.mask(levels)


def allocate_measured_widths(
    plan: ChannelPlan,
    scores: Tensor,
    budget: Budget,
    costs: CostModel,
    measure: Callable[[Tensor], float],
    current: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Choose the channels to keep so that the cut network is as fast as asked for, measured.

    The table of layer times proposes a mask; the network cut to it is measured; what the table was wrong by moves the
    ratio asked of the table, by interpolation between the masks measured so far. Where that leads to a mask tried
    before (real times jump, widths are coarse), one group is set to another of its widths, and the neighbors are
    measured one after the other. What comes within the tolerance is measured twice, and the mean counts. The closest
    mask is taken; the first few have to come within half the tolerance, so that a third measurement agrees.

    The tolerance is relative: half the time within 0.05 is anything from 0.475 to 0.525 of the dense network's.

    Args:
        plan: the groups.
        scores: (plan.size,) larger means keep.
        budget: of kind latency.
        costs: with a table.
        measure: mask -> measured time of the network cut to it, as a fraction of the dense one's.
        current: a mask that stays if these scores could have chosen it and it meets the budget, so that a search that
            has settled on its masks is not overruled by the noise of a second measurement.

    Returns:
        The mask, and the fraction measured.

    Raises:
        BudgetError: no mask tried comes within the tolerance; the message says what was reached.
    """
    whole = torch.ones(plan.size, dtype=torch.bool)
    tried, aim = [Trial(1.0, 1.0, whole)], budget.keep_ratio
    if current is not None and _could_be_chosen(plan, scores, budget, current):
        measured = _confirmed(measure, current, budget)
        if abs(measured - budget.keep_ratio) <= budget.margin:
            return current, measured
    while aim < 1 and len(tried) <= MEASUREMENTS:
        chooser = _chooser(
            plan, scores, replace(budget, keep_ratio=aim, tolerance=budget.tolerance / 8), costs
        )
        untried = (
            levels for levels in chooser.proposals() if not _is_tried(chooser.mask(levels), tried)
        )
        levels = next(untried, None)
        if levels is None:
            break
        mask = chooser.mask(levels)
        tried.append(Trial(chooser.ratio(levels), _confirmed(measure, mask, budget), mask))
        best = min(tried, key=lambda one: abs(one.measured - budget.keep_ratio))
        if abs(best.measured - budget.keep_ratio) <= budget.margin * (
            0.5 if len(tried) <= PATIENCE else 1
        ):
            break
        aim = _next_aim(tried, budget.keep_ratio)
    best = min(tried, key=lambda one: abs(one.measured - budget.keep_ratio))
    if abs(best.measured - budget.keep_ratio) > budget.margin:
        raise _missed(plan, costs, budget, tried)
    return best.mask, best.measured


def _chooser(plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> WidthSolver:
    if not plan.prunable:
        pinned = ", ".join(f"{group.name} ({group.reason})" for group in plan.groups)
        raise BudgetError(f"the network has no channels to prune; pinned: {pinned}")
    return WidthSolver(plan, scores, budget, costs)


def _could_be_chosen(plan: ChannelPlan, scores: Tensor, budget: Budget, mask: Tensor) -> bool:
    """Return whether a mask prunes, has allowed widths, and keeps the best channels of every group."""
    for group in plan.prunable:
        kept, worth = mask[group.span].cpu(), scores[group.span].cpu()
        if int(kept.sum()) not in allowed_widths(group, budget):
            return False
        if not kept.all() and worth[kept].min() < worth[~kept].max():
            return False
    return not bool(mask.all())


def _confirmed(measure: Callable[[Tensor], float], mask: Tensor, budget: Budget) -> float:
    """Return the measured time of a mask; the mean of two measurements where the first one meets the budget."""
    first = measure(mask)
    return (first + measure(mask)) / 2 if abs(first - budget.keep_ratio) <= budget.margin else first


def _is_tried(mask: Tensor, tried: Sequence[Trial]) -> bool:
    return any(torch.equal(mask, one.mask) for one in tried)


def _next_aim(tried: Sequence[Trial], wanted: float) -> float:
    """Return the predicted ratio at which the measured one should be `wanted`.

    It lies on the line between the nearest trials on either side, or half way where the last two fell on one side.
    """
    below = max(
        (one for one in tried if one.measured <= wanted),
        key=lambda one: one.measured,
        default=NOTHING,
    )
    above = min((one for one in tried if one.measured > wanted), key=lambda one: one.measured)
    share = (wanted - below.measured) / (above.measured - below.measured)
    one_sided = len(tried) > 2 and (tried[-1].measured > wanted) == (tried[-2].measured > wanted)
    if one_sided and below is not NOTHING:
        share = 0.5
    return min(1.0, max(0.01, below.predicted + share * (above.predicted - below.predicted)))


def _missed(
    plan: ChannelPlan, costs: CostModel, budget: Budget, tried: Sequence[Trial]
) -> BudgetError:
    reached = ", ".join(f"{one.measured:.3f} (predicted {one.predicted:.3f})" for one in tried[1:])
    least = min(tried, key=lambda one: int(one.mask.sum()))
    if torch.equal(least.mask.sum(), min_width_mask(plan, budget).sum()):
        return BudgetError(
            f"{infeasible_budget(plan, costs, budget)}. Measured at the floors: {least.measured:.3f}"
        )
    return BudgetError(
        f"a latency of {budget.keep_ratio:g} of the dense network's within {budget.margin:g} was not met; "
        f"measured on {len(tried) - 1} cut networks: {reached}. Lower round_to, raise the tolerance, or measure on a "
        "quieter machine"
    )
