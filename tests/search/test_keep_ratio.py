"""Keep-ratio schedule, and the proximal step that meets it."""

import pytest
import torch

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.hyper.proximal import soft_threshold
from dhp_sr.search.keep_ratio import COOLDOWN, WARMUP, keep_ratio_schedule, prune_to_ratio

BUDGET = Budget.from_target("macs", 0.5, round_to=1)


@pytest.fixture
def hyper():
    torch.manual_seed(0)
    return convert(build("DnCNN", num_feat=16, num_layers=5), torch.rand(1, 1, 16, 16))


def test_the_schedule_is_linear_between_warmup_and_cooldown():
    middle = (WARMUP + 1 - COOLDOWN) / 2
    points = [0.0, WARMUP, middle, 1 - COOLDOWN, 1.0]
    ratios = [keep_ratio_schedule(point, 0.4) for point in points]
    assert ratios == pytest.approx([1.0, 1.0, 0.7, 0.4, 0.4])


@pytest.mark.parametrize("keep_ratio", [0.9, 0.5])
def test_the_step_is_the_soft_threshold_of_the_smallest_lambda_that_meets_the_ratio(
    hyper, keep_ratio
):
    scores = torch.rand(hyper.plan.size)
    thresholds = torch.rand(hyper.plan.size) + 0.1
    new_scores, penalty = prune_to_ratio(hyper, scores, thresholds, BUDGET, keep_ratio)
    expected = soft_threshold(scores, penalty * thresholds)
    torch.testing.assert_close(new_scores.clamp_min(0), expected, atol=1e-6, rtol=0)
    assert kept_ratio(hyper, new_scores) <= keep_ratio
    smaller = soft_threshold(scores, 0.9999 * penalty * thresholds)
    assert kept_ratio(hyper, smaller) > keep_ratio


def kept_ratio(hyper, scores):
    return hyper.cost_ratio("macs", enforce_min_width(hyper.plan, scores, BUDGET.min_width))


def test_nothing_changes_where_the_ratio_is_met(hyper):
    scores = torch.rand(hyper.plan.size)
    new_scores, penalty = prune_to_ratio(hyper, scores, torch.ones_like(scores), BUDGET, 1.0)
    assert penalty == 0 and torch.equal(new_scores, scores)


def test_of_equal_channels_only_as_many_are_pruned_as_the_ratio_requires(hyper):
    ones = torch.ones(hyper.plan.size)
    new_scores, penalty = prune_to_ratio(hyper, ones, ones, BUDGET, 0.95)
    assert penalty == 1
    assert 0.9 < kept_ratio(hyper, new_scores) <= 0.95


def test_pruned_channels_go_on_falling_and_are_not_pruned_again(hyper):
    """Their order tells when they were pruned."""
    scores = torch.rand(hyper.plan.size)
    thresholds = torch.ones_like(scores)
    first, _ = prune_to_ratio(hyper, scores, thresholds, BUDGET, 0.9)
    second, penalty = prune_to_ratio(hyper, first, thresholds, BUDGET, 0.7)
    early = first <= 0
    late = (second <= 0) & ~early
    assert early.any() and late.any()
    torch.testing.assert_close(second[early], first[early] - penalty)
    assert second[early].max() < second[late].min()
