"""The proximal step against closed forms."""

import pytest
import torch

from dhp_sr.hyper.proximal import ProximalAdam, soft_threshold


def test_soft_threshold_closed_form():
    value = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0])
    assert soft_threshold(value, 0.5).tolist() == [-1.5, 0.0, 0.0, 0.0, 0.5]


def test_soft_threshold_minimises_its_objective():
    value, threshold = torch.randn(20).double(), 0.7
    found = soft_threshold(value, threshold)
    grid = torch.linspace(-4, 4, 80001).double()[:, None]
    objective = 0.5 * (grid - value).square() + threshold * grid.abs()
    best = grid[objective.argmin(dim=0), 0]
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)


def test_without_penalty_it_is_torch_adam():
    parameter = torch.nn.Parameter(torch.randn(7))
    ours, value = ProximalAdam(7, lr=0.01, betas=(0.9, 0.999), eps=1e-8), parameter.detach().clone()
    adam = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(5):
        gradient = torch.randn(7)
        parameter.grad = gradient.clone()
        adam.step()
        ours.observe(gradient)
        value = ours.step(value, torch.zeros(7))
    torch.testing.assert_close(value, parameter.detach())


def test_a_large_gradient_shrinks_slowly():
    adam = ProximalAdam(2, lr=0.1)
    for sign in (1.0, -1.0) * 50:
        adam.observe(torch.tensor([10.0, 0.1]) * sign)
    shrunk = 1 - adam.step(torch.ones(2), torch.full((2,), 0.01))
    moved = adam.direction() * 0.1
    assert float((shrunk - moved)[1] / (shrunk - moved)[0]) == pytest.approx(100, rel=1e-3)


def test_state_round_trip():
    adam = ProximalAdam(3, lr=0.1)
    adam.observe(torch.ones(3))
    other = ProximalAdam(3, lr=0.1)
    other.load_state_dict(adam.state_dict())
    adam.observe(torch.arange(3.0))
    other.observe(torch.arange(3.0))
    assert torch.equal(adam.direction(), other.direction())
