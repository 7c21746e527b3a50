"""Width prior: equal fractions where weights cost the same, a power of the cost elsewhere."""

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.archs import build
from dhp_sr.config.compress import DHPOptions
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.hyper import convert
from dhp_sr.search import SearchSettings, build_search
from dhp_sr.search.width_prior import MAX_EXPONENT, MIN_EXPONENT, NUM_CANDIDATES, width_prior


def budget(keep_ratio=0.5, kind="macs", min_width=1, round_to=1):
    return Budget.from_target(
        kind=kind, keep_ratio=keep_ratio, round_to=round_to, min_width=min_width
    )


class Upsampled(nn.Sequential):
    """Two groups of 64 channels with as many weights; the second has s * s times as many pixels."""

    def __init__(self, s):
        first, second = (
            [nn.Conv2d(*ends, 1, bias=False) for ends in pair]
            for pair in ([(64, 64), (64, 1)], [(1, 64), (64, 64)])
        )
        named = {"0": first[0], "a": nn.ReLU(), "1": first[1], "2": nn.Upsample(scale_factor=s)}
        super().__init__(OrderedDict({**named, "3": second[0], "b": nn.ReLU(), "4": second[1]}))


def prior_of(network, example, power=0.5, **asked):
    hyper = convert(network, example)
    return hyper, width_prior(hyper, budget(**asked), power)


def cost_at(hyper, kept, kind="macs"):
    kept_fractions = torch.cat(
        [torch.full((group.width,), kept[group.name]) for group in hyper.plan.prunable]
    )
    return hyper.cost_ratio(kind, kept_fractions)


def widths(hyper, kept):
    return [round(kept[group.name] * group.width) for group in hyper.plan.prunable]


def chain():
    return build("DnCNN", num_feat=32, num_layers=12, batch_norm=False)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("keep_ratio", [0.3, 0.5, 0.8])
def test_a_chain_of_equal_layers_keeps_equal_widths(keep_ratio, power):
    hyper, kept = prior_of(chain(), torch.rand(1, 1, 16, 16), power, keep_ratio=keep_ratio)
    inner = widths(hyper, kept)[1:-1]
    assert max(inner) - min(inner) <= 4
    assert keep_ratio - 0.01 < cost_at(hyper, kept) <= keep_ratio


def test_with_few_candidates_wide_and_narrow_layers_alternate():
    hyper, kept = prior_of(chain(), torch.rand(1, 1, 16, 16), 0.0, round_to=16)
    assert widths(hyper, kept) == [16, 32] * 5 + [16]


@pytest.mark.parametrize("power", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("s", [2, 4])
def test_expensive_weights_are_kept_by_that_power_of_their_cost(s, power):
    """Fractions k and r k, r = s**2p, at (r k + s s k) / (1 + s s) of the cost; up to a step."""
    kept = prior_of(Upsampled(s), torch.rand(1, 64, 8, 8), power, keep_ratio=0.15)[1]
    cost = 0.15 * (1 + s * s)
    assert kept["3"] == pytest.approx(cost / (s ** (2 * power) + s * s), abs=1 / NUM_CANDIDATES)
    assert kept["0"] == pytest.approx(min(1.0, cost - s * s * kept["3"]), abs=1 / NUM_CANDIDATES)


def test_a_budget_of_parameters_gives_equal_widths():
    hyper, kept = prior_of(Upsampled(4), torch.rand(1, 64, 8, 8), kind="params")
    assert max(widths(hyper, kept)) - min(widths(hyper, kept)) <= 1


def test_minimum_and_dense_widths_hold_and_the_rest_meets_the_budget():
    hyper, kept = prior_of(Upsampled(4), torch.rand(1, 64, 8, 8), keep_ratio=0.76, min_width=48)
    assert kept["3"] == 0.75 and 0.75 < kept["0"] <= 1
    assert set(width_prior(hyper, budget(1.0), 0.5).values()) == {1.0}
    assert set(width_prior(hyper, budget(0.1, min_width=48), 0.5).values()) == {0.75}


def test_channels_before_an_activation_are_wider_than_linear_ones():
    edsr = build("EDSR", num_feat=32, num_block=4, upscale=2)
    kept = prior_of(edsr, torch.rand(1, 3, 8, 8), 0.5, keep_ratio=0.4)[1]
    interiors = [fraction for name, fraction in kept.items() if name.startswith("body")]
    assert min(interiors) > 1.3 * kept["conv_first"]
    nonlinear = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3)
    )
    kept = prior_of(nonlinear, torch.rand(1, 3, 12, 12), 0.5, round_to=4)[1]
    assert kept["0"] > kept["2"]


class Shuffled(nn.Sequential):
    """Two groups of 64 channels; the weights before the shuffle fill its four places."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(64, 64, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(64, 4 * 64, 1, bias=False),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(64, 1, 1, bias=False),
        )


def test_weights_before_a_shuffle_count_for_one_of_its_places():
    """Both layers of 64 x 64 count alike then, and the second costs four times as much."""
    hyper, kept = prior_of(Shuffled(), torch.rand(1, 64, 8, 8), 1.0, keep_ratio=0.3)
    assert kept["2"] < 0.5 * kept["0"]
    assert 0.28 < cost_at(hyper, kept) <= 0.3


@pytest.mark.parametrize(
    "s, power, keep_ratio, step",
    [
        (2, 0.5, 0.6, 8),
        (4, 0.0, 0.5, 2),
        (4, 0.25, 0.5, 8),
        (2, 0.5, 0.4, 4),
        (2, 0.75, 0.3, 8),
        (4, 1.0, 0.5, 4),
    ],
)
def test_the_prior_is_optimal_among_all_widths(s, power, keep_ratio, step):
    hyper, kept = prior_of(
        Upsampled(s), torch.rand(1, 64, 8, 8), power, keep_ratio=keep_ratio, round_to=step
    )
    exponent = min(MAX_EXPONENT, max(MIN_EXPONENT, (1 - power) / max(power, MIN_EXPONENT)))
    names = [group.name for group in hyper.plan.prunable]
    fractions = [width / 64 for width in range(step, 65, step)]
    pairs = itertools.product(fractions, repeat=2)
    choices = [dict(zip(names, pair, strict=True)) for pair in pairs]
    feasible = [choice for choice in choices if cost_at(hyper, choice) <= keep_ratio]

    def loss(choice):
        return sum((fraction**-exponent - 1) / exponent for fraction in choice.values())

    assert loss(kept) == pytest.approx(min(loss(choice) for choice in feasible), rel=1e-6)


def test_a_latency_that_rises_in_steps_is_met_at_their_ends(monkeypatch):
    """By this clock a convolution takes the time of its channels, in and out, rounded up to 8."""
    now = [0.0]

    def spend(layer, inputs, output):
        if isinstance(layer, nn.Conv2d):
            pixels = output.numel() / layer.out_channels
            now[0] += 1e-6 * pixels * 64 * -(-layer.out_channels // 8) * -(-layer.in_channels // 8)

    for name in ("time.perf_counter", "time.thread_time"):
        monkeypatch.setattr(name, lambda: now[0])
    handle = nn.modules.module.register_module_forward_hook(spend)
    try:
        hyper = convert(chain(), torch.rand(1, 1, 8, 8))
        hyper.use_latency(LatencyBenchmark(torch.rand(1, 1, 8, 8)))
    finally:
        handle.remove()
    kept = width_prior(hyper, budget(0.6, "latency"), 0.0)
    assert {width % 8 for width in widths(hyper, kept)} == {0}
    assert 0.55 < cost_at(hyper, kept, "latency") <= 0.6


def test_a_network_without_groups_has_no_prior():
    assert (
        width_prior(
            convert(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.rand(1, 1, 8, 8)), budget(), 0.0
        )
        == {}
    )


def test_the_search_takes_the_exponent_of_its_settings():
    hyper = convert(Upsampled(4), torch.rand(1, 64, 8, 8))
    for exponent in (0.0, 0.5):
        options = dict(DHPOptions(cost_exponent=exponent))
        search = build_search("dhp", hyper, SearchSettings(budget(), 10, method_options=options))
        assert search._width_prior == width_prior(hyper, budget(), exponent)
