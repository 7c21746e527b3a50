import copy

import pytest
import torch
from torch import nn

from dhp_sr.training.optimizers import STEP_RMS, Muon, is_matrix, orthogonalize


def train_on_uneven_directions(kind, steps=150, **settings):
    """Mean squared distance to a target, from a loss with very uneven directions of the input."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 6, 3, 3))
    target, loudness = torch.randn_like(weight), torch.logspace(-2, 0, 54)
    directions = torch.linalg.qr(torch.randn(54, 54)).Q
    optimizer = kind([weight], **settings)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * (1 - step / steps)
        optimizer.zero_grad()
        ((weight - target).flatten(1) @ directions * loudness).square().sum().backward()
        optimizer.step()
    return float((weight - target).detach().square().mean())


@pytest.mark.parametrize("shape", [(1, 8, 20), (3, 20, 8), (2, 16, 16)])
def test_all_directions_become_alike(shape):
    values = torch.linalg.svdvals(
        orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    )
    assert values.min() > 0.5 and values.max() < 1.3


def test_size_of_the_matrix_does_not_matter():
    matrix = torch.randn(1, 8, 20, dtype=torch.float64)
    assert torch.allclose(orthogonalize(matrix), orthogonalize(matrix * 1e-6), atol=1e-12)


def test_masked_channels_stay_where_they_are():
    matrix = torch.randn(1, 8, 20)
    matrix[:, 3], matrix[:, :, 5] = 0, 0
    turned = orthogonalize(matrix)
    assert not turned[:, 3].any() and not turned[:, :, 5].any() and turned[:, 0].any()
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


@pytest.mark.parametrize("size", [1e-18, 1e-23, 1e-25, 1e-30, 1e-37, 1e-40])
def test_the_rest_of_a_momentum_moves_nothing(size):
    turned = orthogonalize(torch.randn(1, 8, 72) * size)
    assert float(turned.abs().max()) < 0.05


def test_a_layer_without_gradients_comes_to_rest():
    weight = nn.Parameter(torch.zeros(8, 8, 3, 3))
    # The default momentum of 0.95 takes a thousand steps to what half of it takes seventy for.
    optimizer = Muon([weight], lr=0.01, momentum=0.5)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    weight.grad = torch.zeros_like(weight)
    for _ in range(90):
        optimizer.step()
    rest = weight.detach().clone()
    for _ in range(70):
        optimizer.step()
    assert torch.equal(weight, rest) and rest.isfinite().all()


def test_what_is_a_matrix():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)
    )
    names = {name for name, weight in network.named_parameters() if is_matrix(weight)}
    assert names == {"1.weight"}


def test_the_size_of_a_step():
    weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.5).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.5 * STEP_RMS, rel=0.15)


def test_rare_directions_are_learned_too():
    others = [
        train_on_uneven_directions(torch.optim.AdamW, lr=rate, weight_decay=0)
        for rate in (0.01, 0.03, 0.1)
    ]
    assert train_on_uneven_directions(Muon, lr=0.3) < 0.5 * min(others)


def test_what_is_no_matrix_takes_the_steps_of_adamw():
    mine, theirs = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    theirs.load_state_dict(mine.state_dict())
    for network, kind in ((mine, Muon), (theirs, torch.optim.AdamW)):
        optimizer = kind(network.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            network(torch.ones(1, 3, 5, 5)).square().sum().backward()
            optimizer.step()
    assert torch.equal(mine.weight, theirs.weight) and torch.equal(mine.bias, theirs.bias)


def test_the_same_as_pytorch_where_that_takes_the_weight():
    theirs = pytest.importorskip("torch.optim._muon").Muon
    start = torch.randn(12, 20)
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = Muon([one], lr=0.1, weight_decay=0.1)
    their = theirs([other], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        gradient = torch.randn(12, 20, generator=torch.Generator().manual_seed(seed))
        for weight, optimizer in ((one, ours), (other, their)):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (other - start).norm()
    assert (one - other).norm() < 0.05 * moved, "theirs computes in bfloat16"


def test_goes_on_from_a_saved_state():
    def steps(network, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            network(torch.ones(1, 3, 9, 9)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    optimizer = Muon(network.parameters(), lr=0.1, momentum=0.8)
    steps(network, optimizer, 2)
    again = copy.deepcopy(network)
    other = Muon(again.parameters(), lr=0.3)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in ((network, optimizer), (again, other)):
        steps(*one, 2)
    assert all(
        torch.equal(*pair) for pair in zip(network.parameters(), again.parameters(), strict=True)
    )
