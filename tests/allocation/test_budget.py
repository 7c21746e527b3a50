"""The type `Budget`: defaults of each cost kind, refusals; the report of a met budget."""

import math

import pytest
import torch

from dhp_sr.allocation.budget import Budget, BudgetError, BudgetReport
from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.utils.cost_kinds import COST_KINDS


@pytest.mark.parametrize("kind", COST_KINDS)
def test_defaults_are_those_of_the_kind(kind):
    budget = Budget.from_target(kind, 0.5, round_to=4)
    assert budget == Budget(kind, 0.5, COST_KINDS[kind].tolerance, round_to=4, min_width=4)
    assert Budget.from_target(kind, 0.5, 0.2, 4, 6) == Budget(kind, 0.5, 0.2, 4, 6)


def test_the_tolerance_of_a_measured_kind_is_relative():
    assert Budget.from_target("macs", 0.5, 0.1).margin == 0.1
    assert Budget.from_target("latency", 0.5, 0.1).margin == pytest.approx(0.05)


@pytest.mark.parametrize(("changes", "facts"), [
    ({"kind": "flops"}, [*COST_KINDS, "'flops'"]), ({"keep_ratio": 1.5}, ["(0, 1]", "1.5"]),
    ({"keep_ratio": 0.0}, ["(0, 1]", "0.0"]),
    ({"round_to": 0, "min_width": 8}, ["round_to", "0 and 8"]),
    ({"min_width": 0}, ["min_width", "8 and 0"]),
])  # fmt: skip
def test_a_budget_without_meaning_is_refused(changes, facts):
    with pytest.raises(BudgetError) as caught:
        Budget.from_target(**{"kind": "macs", "keep_ratio": 0.5, **changes})
    assert all(fact in str(caught.value) for fact in facts)


def test_a_report_states_the_kinds_that_are_always_reported_and_its_own():
    hyper = convert(build("DnCNN", num_feat=8, num_layers=3), torch.rand(1, 1, 8, 8))
    report = hyper.prune_to(activations=0.5, round_to=1, tolerance=0.1)
    assert set(report.reported_ratios()) == {"macs_ratio", "params_ratio", "activations_ratio"}
    assert report.macs_ratio == report.ratios["macs"] == report.achieved("macs")
    assert math.isnan(report.latency_ratio) and math.isnan(report.measured_latency_ratio)
    with pytest.raises(AttributeError, match="flops_ratio"):
        _ = report.flops_ratio


def test_a_report_of_a_measured_budget_has_both_ratios():
    budget = Budget.from_target("latency", 0.5)
    report = BudgetReport(budget, {"macs": 0.4, "params": 0.3, "latency": 0.55}, {}, 0.51)
    assert report.latency_ratio == 0.55
    assert report.measured_latency_ratio == report.achieved("latency") == 0.51
    assert list(report.reported_ratios()) == [
        "macs_ratio", "params_ratio", "latency_ratio", "measured_latency_ratio",
    ]  # fmt: skip
