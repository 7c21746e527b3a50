"""From channel scores to the mask that meets a budget, or to the reason why none does."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import could_be_chosen
from dhp_sr.allocation.diagnostics import (
    Measurement,
    check_prunable,
    infeasible_budget,
    missed_budget,
)
from dhp_sr.allocation.width_solver import WidthSolver
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel

MAX_MEASUREMENTS = 12
"""Cut networks measured for a budget, at most."""

STRICT_MEASUREMENTS = 5
"""The first of them have to meet the budget by half the tolerance."""

SOLVER_TOLERANCE = 1 / 8
"""Tolerance of the predicted cost, as a fraction of the budget's."""

MIN_SETPOINT = 0.01
"""Smallest predicted ratio that is asked of the width solver."""


def allocate_widths(plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel) -> Tensor:
    """Choose the channels to keep for a budget of a counted cost.

    Args:
        plan: The groups.
        scores: (plan.size,) comparable between groups, larger = keep.
        budget: Cost to keep, and the widths allowed.
        costs: Costs of the plan.

    Returns:
        (plan.size,) mask, True for a kept channel.

    Raises:
        BudgetError: Minimum widths or pinned groups make the budget infeasible, or the widths are
            too coarse for the tolerance.
    """
    if budget.keep_ratio == 1:
        return torch.ones(plan.size, dtype=torch.bool)
    solver = _make_solver(plan, scores, budget, costs)
    if solver.lowest_ratio() > budget.keep_ratio + budget.margin:
        raise infeasible_budget(plan, costs, budget)
    indices = solver.solve()
    ratio = solver.ratio(indices)
    # The solver prefers costs below the budget; with coarse widths it may end just above.
    if abs(ratio - budget.keep_ratio) > budget.margin + 1e-12:
        raise BudgetError(
            f"the closest choice of widths keeps {ratio:.4f} of {budget.kind}, asked for "
            f"{budget.keep_ratio:g} within {budget.margin:g}: multiples of {budget.round_to} are "
            "too coarse for this network. Lower round_to or raise the tolerance"
        )
    return solver.mask(indices)


def allocate_measured_widths(
    plan: ChannelPlan,
    scores: Tensor,
    budget: Budget,
    costs: CostModel,
    measure: Callable[[Tensor], float],
    current: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Choose the channels to keep so that the measured latency of the cut network meets the budget.

    The latency model only predicts, so its setpoint is corrected by measurements: solve the widths
    for the setpoint, cut, measure, and move the setpoint by false position (regula falsi). Where
    that leads to a mask measured before, because times rise in steps and widths are coarse, the
    solver's further solutions are measured in turn.

    The tolerance is relative: 0.5 of the latency within 0.05 is 0.475 to 0.525 of the dense
    network's.

    Args:
        plan: The groups.
        scores: (plan.size,) larger = keep.
        budget: Budget of a measured kind.
        costs: With a latency model.
        measure: Mask -> measured latency of the network cut to it, as a fraction of the dense.
        current: Mask that is kept if these scores could have chosen it and it meets the budget, so
            that noise does not overrule a search that has settled on its masks.

    Returns:
        The mask, and the fraction measured.

    Raises:
        BudgetError: No mask is within the tolerance; the message has the fractions measured.
    """
    if current is not None and could_be_chosen(plan, scores, budget, current):
        measured = _measure_twice(measure, current, budget)
        if abs(measured - budget.keep_ratio) <= budget.margin:
            return current, measured
    dense = Measurement(1.0, 1.0, torch.ones(plan.size, dtype=torch.bool))
    measurements = [dense]
    best = dense
    setpoint = budget.keep_ratio
    while setpoint < 1 and len(measurements) <= MAX_MEASUREMENTS:
        tolerance = budget.tolerance * SOLVER_TOLERANCE
        prediction = replace(budget, keep_ratio=setpoint, tolerance=tolerance)
        candidate = _first_unmeasured(_make_solver(plan, scores, prediction, costs), measurements)
        if candidate is None:
            break
        predicted, mask = candidate
        measurements.append(Measurement(predicted, _measure_twice(measure, mask, budget), mask))
        best = min(measurements, key=lambda tried: abs(tried.measured - budget.keep_ratio))
        # At first half the tolerance is asked for, so that a third measurement by the user agrees.
        limit = budget.margin
        if len(measurements) <= 1 + STRICT_MEASUREMENTS:  # the dense one was not measured
            limit = budget.margin / 2
        if abs(best.measured - budget.keep_ratio) <= limit:
            break
        setpoint = _next_setpoint(measurements, budget.keep_ratio)
    if abs(best.measured - budget.keep_ratio) > budget.margin:
        raise missed_budget(plan, costs, budget, measurements)
    return best.mask, best.measured


def _make_solver(
    plan: ChannelPlan, scores: Tensor, budget: Budget, costs: CostModel
) -> WidthSolver:
    check_prunable(plan)
    return WidthSolver(plan, scores, budget, costs)


def _measure_twice(measure: Callable[[Tensor], float], mask: Tensor, budget: Budget) -> float:
    """Return the measured latency of a mask, the mean of two if the first meets the budget."""
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
        # Compared by mask: different setpoints often lead to the same rounded widths.
        if not any(torch.equal(mask, tried.mask) for tried in measurements):
            return solver.ratio(indices), mask
    return None


def _next_setpoint(measurements: Sequence[Measurement], wanted: float) -> float:
    """Return the predicted ratio to ask for, so that the measured ratio becomes `wanted`.

    By false position: on the line between the nearest measurements below and above.
    """
    # A network without channels takes no time: the lower end before anything was measured there.
    low = Measurement(0.0, 0.0, torch.zeros(0))
    # The dense network is always above: a budget of 1 needs no measurement.
    high = measurements[0]
    for tried in measurements[1:]:
        if low.measured < tried.measured <= wanted:
            low = tried
        elif wanted < tried.measured < high.measured:
            high = tried
    fraction = (wanted - low.measured) / (high.measured - low.measured)
    # False position converges slowly while the measurements stay on the same side: bisect then.
    if len(measurements) > 2 and low.measured > 0:
        last_two = measurements[-2:]
        if (last_two[0].measured > wanted) == (last_two[1].measured > wanted):
            fraction = 0.5
    setpoint = low.predicted + fraction * (high.predicted - low.predicted)
    return min(1.0, max(MIN_SETPOINT, setpoint))
