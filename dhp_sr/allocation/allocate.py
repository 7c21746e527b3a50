"""From channel scores to the mask that meets a budget, or to the reason why none does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import allowed_widths, min_width_mask
from dhp_sr.allocation.diagnostics import infeasible_budget
from dhp_sr.allocation.width_solver import WidthSolver
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

MAX_MEASUREMENTS = 12
"""Cut networks measured for one budget, at most."""

STRICT_MEASUREMENTS = 6
"""The first of them have to meet the budget by half the tolerance."""

SOLVER_TOLERANCE = 1 / 8
"""Tolerance of the predicted cost, as a fraction of that of the measured one."""

MIN_SETPOINT = 0.01
"""Smallest predicted ratio that is asked of the width solver."""


def allocate_widths(plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> Tensor:
    """Choose the channels to keep for a budget of a counted cost.

    Args:
        plan: the groups.
        scores: (plan.size,) comparable between groups, larger = keep.
        budget: cost to keep, and the widths allowed.
        costs: of the plan.

    Returns:
        (plan.size,) mask, True for a kept channel.

    Raises:
        BudgetError: minimum widths or pinned groups make the budget infeasible, or the widths are too coarse for the
            tolerance.
    """
    if budget.keep_ratio == 1:
        return torch.ones(plan.size, dtype=torch.bool)
    solver = _make_solver(plan, scores, budget, costs)
    if solver.lowest_ratio() > budget.keep_ratio + budget.margin:
        raise infeasible_budget(plan, costs, budget)
    indices = solver.solve()
    ratio = solver.ratio(indices)
    # The solver prefers costs below the budget; where widths are coarse, one just above it will do.
    if abs(ratio - budget.keep_ratio) > budget.margin + 1e-12:
        raise BudgetError(
            f"the closest choice of widths keeps {ratio:.4f} of {budget.kind}, asked for "
            f"{budget.keep_ratio:g} within {budget.margin:g}: multiples of {budget.round_to} are "
            "too coarse for this network. Lower round_to or raise the tolerance"
        )
    return solver.mask(indices)


@dataclass(frozen=True)
class Measurement:
    """A mask, and the latency of the network cut to it as fractions of the dense network's."""

    predicted: float
    measured: float
    mask: Tensor


def allocate_measured_widths(
    plan: ChannelPlan,
    scores: Tensor,
    budget: Budget,
    costs: CostModel,
    measure: Callable[[Tensor], float],
    current: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Choose the channels to keep so that the measured latency of the cut network meets the budget.

    The latency model only predicts, so its setpoint is corrected by measurements: solve the widths for the setpoint,
    cut, measure, and move the setpoint by false position (regula falsi) between the measurements on either side of the
    budget. Where that leads to a mask measured before, because times rise in steps and widths are coarse, the solver's
    further solutions are measured in turn. A mask that meets the budget is measured twice, and the mean counts.

    The tolerance is relative: 0.5 of the latency within 0.05 is 0.475 to 0.525 of the dense network's.

    Args:
        plan: the groups.
        scores: (plan.size,) larger = keep.
        budget: of a measured kind.
        costs: with a latency model.
        measure: mask -> measured latency of the network cut to it, as a fraction of the dense one's.
        current: a mask that is kept if these scores could have chosen it and it meets the budget, so that noise of a
            second measurement does not overrule a search that has settled on its masks.

    Returns:
        The mask, and the fraction measured.

    Raises:
        BudgetError: no mask measured is within the tolerance; the message has the fractions reached.
    """
    if current is not None and _could_be_chosen(plan, scores, budget, current):
        measured = _measure_twice(measure, current, budget)
        if abs(measured - budget.keep_ratio) <= budget.margin:
            return current, measured
    dense = Measurement(1.0, 1.0, torch.ones(plan.size, dtype=torch.bool))
    measurements = [dense]
    best = dense
    setpoint = budget.keep_ratio
    while setpoint < 1 and len(measurements) <= MAX_MEASUREMENTS:
        prediction = replace(
            budget, keep_ratio=setpoint, tolerance=budget.tolerance * SOLVER_TOLERANCE
        )
        candidate = _first_unmeasured(_make_solver(plan, scores, prediction, costs), measurements)
        if candidate is None:
            break
        predicted, mask = candidate
        measurements.append(Measurement(predicted, _measure_twice(measure, mask, budget), mask))
        best = min(measurements, key=lambda tried: abs(tried.measured - budget.keep_ratio))
        # At first half the tolerance is asked for, so that a third measurement by the user agrees.
        is_strict = len(measurements) <= STRICT_MEASUREMENTS
        limit = budget.margin / 2 if is_strict else budget.margin
        if abs(best.measured - budget.keep_ratio) <= limit:
            break
        setpoint = _next_setpoint(measurements, budget.keep_ratio)
    if abs(best.measured - budget.keep_ratio) > budget.margin:
        raise _missed_budget(plan, costs, budget, measurements)
    return best.mask, best.measured


def _make_solver(
    plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel
) -> WidthSolver:
    if not plan.prunable:
        pinned = ", ".join(f"{group.name} ({group.reason})" for group in plan.groups)
        raise BudgetError(f"the network has no channels to prune; pinned: {pinned}")
    return WidthSolver(plan, scores, budget, costs)


def _could_be_chosen(plan: ChannelPlan, scores: Tensor, budget: Budget, mask: Tensor) -> bool:
    """Return whether a mask prunes, has allowed widths, and keeps the best channels of every group."""
    for group in plan.prunable:
        kept = mask[group.span].cpu()
        group_scores = scores[group.span].cpu()
        if int(kept.sum()) not in allowed_widths(group, budget):
            return False
        if not kept.all() and group_scores[kept].min() < group_scores[~kept].max():
            return False
    return not bool(mask.all())


def _measure_twice(measure: Callable[[Tensor], float], mask: Tensor, budget: Budget) -> float:
    """Return the measured latency of a mask; the mean of two measurements where the first meets the budget."""
    first = measure(mask)
    if abs(first - budget.keep_ratio) > budget.margin:
        return first
    return (first + measure(mask)) / 2


def _first_unmeasured(
    solver: WidthSolver, measurements: Sequence[Measurement]
) -> tuple[float, Tensor] | None:
    """Return predicted ratio and mask of the solver's first solution that was not measured yet."""
    for indices in solver.solutions():
        mask = solver.mask(indices)
        if not any(torch.equal(mask, measurement.mask) for measurement in measurements):
            return solver.ratio(indices), mask
    return None


def _next_setpoint(measurements: Sequence[Measurement], wanted: float) -> float:
    """Return the predicted ratio at which the measured one should be `wanted`, by false position.

    It lies on the line between the nearest measurements on either side; a network without channels takes no time.
    """
    below = [tried for tried in measurements if tried.measured <= wanted]
    above = [tried for tried in measurements if tried.measured > wanted]
    low = max(below, key=lambda tried: tried.measured, default=None)
    high = min(above, key=lambda tried: tried.measured)
    low_predicted = 0.0 if low is None else low.predicted
    low_measured = 0.0 if low is None else low.measured
    fraction = (wanted - low_measured) / (high.measured - low_measured)
    # False position converges slowly while the measurements fall on one side: bisect then.
    is_above = [tried.measured > wanted for tried in measurements]
    if low is not None and len(measurements) > 2 and is_above[-1] == is_above[-2]:
        fraction = 0.5
    setpoint = low_predicted + fraction * (high.predicted - low_predicted)
    return min(1.0, max(MIN_SETPOINT, setpoint))


def _missed_budget(
    plan: ChannelPlan, costs: CostModel, budget: Budget, measurements: Sequence[Measurement]
) -> BudgetError:
    narrowest = min(measurements, key=lambda tried: int(tried.mask.sum()))
    if torch.equal(narrowest.mask.sum(), min_width_mask(plan, budget).sum()):
        return BudgetError(
            f"{infeasible_budget(plan, costs, budget)}. Measured at the minimum widths: "
            f"{narrowest.measured:.3f}"
        )
    reached = []
    for tried in measurements[1:]:
        reached.append(f"{tried.measured:.3f} (predicted {tried.predicted:.3f})")
    return BudgetError(
        f"a latency of {budget.keep_ratio:g} of the dense network's within {budget.margin:g} was "
        f"not met; measured on {len(reached)} cut networks: {', '.join(reached)}. Lower round_to, "
        "raise the tolerance, or measure on a quieter machine"
    )
