"""Budgets of measured latency: measurements correct the setpoint; on a fake clock."""

import pytest
import torch
from fake_clock import dncnn

from dhp_sr.allocation.allocate import allocate_measured_widths
from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert


@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_a_latency_is_met_by_the_clock(clock, ratio):
    plain = dncnn()
    benchmark = LatencyBenchmark(torch.rand(1, 1, 8, 8))
    hyper = convert(plain, benchmark.example_input)
    scores = {name: torch.rand(len(mask)) for name, mask in hyper.masks.items()}
    report = hyper.prune_to(latency=ratio, round_to=1, scores=scores)
    assert abs(report.measured_latency_ratio - ratio) <= 0.025
    assert report.latency_ratio == pytest.approx(report.measured_latency_ratio, rel=0.02)
    again = benchmark.ratio(hyper.cut(), plain)
    assert again == pytest.approx(report.measured_latency_ratio)


def allocate(true_ratio, ratio=0.5, **rules):
    """Allocate where the measured ratio is `true_ratio(predicted ratio)`."""
    plain, x = dncnn(), torch.rand(1, 1, 8, 8)
    plan = make_plan(plain, x)
    costs = CostModel(plan, LatencyBenchmark(x).lut(plain))
    measured = []

    def measure(mask):
        measured.append(true_ratio(costs.ratio(mask, "latency")))
        return measured[-1]

    rules = {"tolerance": 0.05, "round_to": 1, "min_width": 2, **rules}
    budget = Budget.from_target("latency", ratio, **rules)
    _, reached = allocate_measured_widths(plan, torch.rand(plan.size), budget, costs, measure)
    return reached, measured


@pytest.mark.parametrize("true_ratio", [
    lambda p: p, lambda p: 0.3 + 0.7 * p, lambda p: p**2, lambda p: p**0.4,
    lambda p: round(p * 12) / 12,
], ids=["right", "overhead", "square", "root", "steps"])  # fmt: skip
def test_a_wrong_latency_model_is_corrected(clock, true_ratio):
    reached, measured = allocate(true_ratio)
    assert abs(reached - 0.5) <= 0.025
    assert len(measured) <= 8, "the last mask is measured twice"


def test_the_tolerance_is_relative_to_the_target(clock):
    assert allocate(lambda p: 0.476, 0.5)[0] == 0.476


@pytest.mark.parametrize(("ratio", "measured"), [(0.5, 0.474), (0.2, 0.211)])
def test_outside_of_the_relative_tolerance_the_budget_is_missed(clock, ratio, measured):
    with pytest.raises(BudgetError) as caught:
        allocate(lambda p: measured, ratio)
    facts = [f"latency of {ratio} ", f"within {0.05 * ratio:g}", f"{measured:.3f} (predicted"]
    assert all(fact in str(caught.value) for fact in facts)


def test_a_measurement_that_a_second_does_not_confirm_counts_half(clock):
    times = iter([0.5, 0.6])
    reached, measured = allocate(lambda p: next(times, p))
    assert measured[:2] == [0.5, 0.6] and len(measured) > 3
    assert reached == pytest.approx(sum(measured[-2:]) / 2) and abs(reached - 0.5) <= 0.0125


def test_masks_that_meet_the_budget_are_kept(clock):
    """A second call with these scores keeps the masks; other scores choose anew."""
    hyper = convert(dncnn(), torch.rand(1, 1, 8, 8))
    scores = {name: torch.rand(len(mask)) for name, mask in hyper.masks.items()}
    hyper.prune_to(latency=0.5, scores=scores)
    mask = hyper.mask.clone()
    hyper.prune_to(latency=0.49, scores=scores)
    assert torch.equal(hyper.mask, mask)
    hyper.prune_to(latency=0.5, scores={name: -score for name, score in scores.items()})
    assert not torch.equal(hyper.mask, mask)


def test_a_target_between_two_steps_of_latency_is_missed_with_what_was_reached(clock):
    with pytest.raises(BudgetError, match=r"0\.900 \(predicted"):
        allocate(lambda p: 0.9 if p > 0.4 else 0.1)


def test_a_latency_below_the_lower_bound_states_both(clock):
    with pytest.raises(BudgetError) as caught:
        allocate(lambda p: 0.8 + 0.2 * p, min_width=16)
    assert "min_width 16" in str(caught.value) and "minimum widths: 0.8" in str(caught.value)
