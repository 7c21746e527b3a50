"""Time measurements: order, modes, threads; the times themselves come from a fake clock."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dhp_sr.metrics import latencies


def latency(network, shape, **options):
    return latencies({"": network}, shape, **options)[""]


class Ticking(nn.Module):
    """Moves a fake clock by so many seconds, one value after the other, and keeps what it saw."""

    def __init__(self, clock, *seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.clock, self.seconds, self.seen = clock, itertools.cycle(seconds), []

    def forward(self, x):
        self.clock.now += next(self.seconds)
        self.clock.order.append(self)
        self.seen.append(
            (self.training, torch.is_grad_enabled(), torch.get_num_threads(), x.shape, x.dtype)
        )
        return x


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `Ticking` moves."""

    fake = SimpleNamespace(now=0.0, order=[])
    monkeypatch.setattr("time.perf_counter", lambda: fake.now)
    return fake


def test_median_and_quartiles_without_warm_up(clock):
    network = Ticking(clock, 9, 9, 0.001, 0.002, 0.003, 0.004, 0.1)
    measured = latency(network, (1, 3, 4, 4), repeats=5)
    assert measured.median_ms == pytest.approx(3)
    assert (measured.low_ms, measured.high_ms) == (pytest.approx(2), pytest.approx(4))
    assert (measured.threads, measured.device) == (1, "cpu")


def test_one_repeat_is_enough(clock):
    measured = latency(Ticking(clock, 0.005), (1, 1, 2, 2), repeats=1)
    assert measured.low_ms == measured.median_ms == measured.high_ms == pytest.approx(5)


def test_networks_take_turns(clock):
    first, second = Ticking(clock, 0.001), Ticking(clock, 0.003)
    measured = latencies({"first": first, "second": second}, (1, 1, 2, 2), repeats=3)
    assert clock.order == [first, second] * 5
    assert measured["second"].median_ms == pytest.approx(3 * measured["first"].median_ms)


def test_conditions_hold_and_are_put_back(clock):
    network = nn.Sequential(Ticking(clock, 0.001), nn.Dropout().eval()).double().train()
    network[1].eval()
    random = torch.get_rng_state()
    measured = latency(network, (1, 3, 2, 5), repeats=1, threads=2)
    assert set(network[0].seen) == {(False, False, 2, (1, 3, 2, 5), torch.float64)}
    assert measured.threads == 2 and torch.get_num_threads() == 1
    assert network.training and network[0].training and not network[1].training
    assert torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), random)


def test_conditions_are_put_back_after_a_failure():
    network = nn.Conv2d(3, 4, 3).train()
    with pytest.raises(RuntimeError):
        latency(network, (1, 5, 8, 8), threads=2)
    assert torch.get_num_threads() == 1 and network.training


@pytest.mark.parametrize("options", [{"repeats": 0}, {"threads": 0}])
def test_mistakes_are_explained(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        latency(nn.ReLU(), (1,), **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_is_waited_for():
    network = nn.Sequential(*(nn.Conv2d(256, 256, 3) for _ in range(10))).cuda()
    measured = latency(network, (8, 256, 256, 256))
    assert measured.device == "cuda:0" and measured.median_ms > 1
