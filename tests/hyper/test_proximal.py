"""The proximal step against closed forms."""

import pytest
import torch

from dhp_sr.hyper.proximal import AdamPreconditioner, soft_threshold


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
