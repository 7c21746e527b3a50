"""Proximal steps against closed forms, and the schedule of kept fractions that they meet."""

import pytest
import torch

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.search.proximal import (
    COOLDOWN,
    WARMUP,
    AdamPreconditioner,
    keep_ratio_schedule,
    prune_to_ratio,
    soft_threshold,
)


def test_soft_threshold_closed_form():
    value = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0])
    assert soft_threshold(value, 0.5).tolist() == [-1.5, 0.0, 0.0, 0.0, 0.5]


def test_soft_threshold_minimizes_its_objective():
    value, threshold = torch.randn(20).double(), 0.7
    actual = soft_threshold(value, threshold)
    grid = torch.linspace(-4, 4, 80001).double()[:, None]
    objective = 0.5 * (grid - value).square() + threshold * grid.abs()
    best = grid[objective.argmin(dim=0), 0]
    torch.testing.assert_close(actual, best, atol=1e-4, rtol=0)


def test_the_direction_is_that_of_torch_adam():
    parameter = torch.nn.Parameter(torch.randn(7))
    ours, value = AdamPreconditioner(7, betas=(0.9, 0.999), eps=1e-8), parameter.detach().clone()
    adam = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(5):
        gradient = torch.randn(7)
        parameter.grad = gradient.clone()
        adam.step()
        ours.update(gradient)
        value -= 0.01 * ours.direction()
    torch.testing.assert_close(value, parameter.detach())


def test_the_threshold_solves_the_proximal_step_in_adams_metric():
    """The closed form against a fine grid over z of <g, z> + (z - z0)^2 D / 2 + c |z|."""
    adam = AdamPreconditioner(3)
    for sign in (1.0, -1.0, 1.0):
        adam.update(sign * torch.tensor([4.0, 0.5, 2.0]))
    start, cost = torch.tensor([0.3, -0.8, 0.05]), torch.tensor([1.0, 0.2, 3.0])
    actual = soft_threshold(start - adam.direction(), adam.threshold(cost))
    gradient = adam.direction() * adam.diagonal
    grid = torch.linspace(-3, 3, 600001)[:, None]
    objective = gradient * grid + adam.diagonal * (grid - start).square() / 2 + cost * grid.abs()
    torch.testing.assert_close(actual, grid[objective.argmin(dim=0), 0], atol=1e-4, rtol=0)


def test_entries_with_large_gradients_shrink_slowly():
    adam = AdamPreconditioner(2)
    for sign in (1.0, -1.0) * 50:
        adam.update(torch.tensor([10.0, 0.1]) * sign)
    threshold = adam.threshold(torch.ones(2))
    assert float(threshold[1] / threshold[0]) == pytest.approx(100, rel=1e-3)


def test_state_round_trip():
    adam = AdamPreconditioner(3)
    adam.update(torch.ones(3))
    other = AdamPreconditioner(3)
    other.load_state_dict(adam.state_dict())
    adam.update(torch.arange(3.0))
    other.update(torch.arange(3.0))
    assert torch.equal(adam.direction(), other.direction())


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
