"""Budgets of counted costs: met from below, in allowed widths, or refused with the reason."""

import functools

import pytest
import torch
from networks import example, network

from dhp_sr.allocation.budget import BudgetError
from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity

WIDE = {
    "EDSR": {"num_feat": 128, "num_block": 8, "upscale": 4},
    "SRResNet": {"num_feat": 64, "num_block": 16, "upscale": 4},
    "DnCNN": {"num_feat": 64, "num_layers": 17},
    "UNet": {"num_feat": 32, "num_levels": 5},
}
RANDOM = ("random 0", "random 1", "random 2")
SCORES = {
    "equal": lambda width, generator: torch.ones(width),
    "skewed": lambda width, generator: (
        torch.rand(width, generator=generator) * 10 ** (3 * torch.rand((), generator=generator))
    ),
    **dict.fromkeys(RANDOM, lambda width, generator: torch.rand(width, generator=generator)),
}


def make_scores(hyper, name):
    generator = torch.Generator().manual_seed(int(name[-1]) if name[-1].isdigit() else 0)
    return {group: SCORES[name](len(mask), generator) for group, mask in hyper.masks.items()}


@functools.cache
def converted(name):
    """The network in the paper's setting, on a small image, as kept fractions hardly change."""
    plain = build(name, **WIDE[name])
    x = torch.rand(1, plain.in_channels, 32, 32)
    return complexity(plain, tuple(x.shape)), tuple(x.shape), convert(plain, x)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("ratio", [0.6, 0.4, 0.2])
@pytest.mark.parametrize("name", WIDE)
def test_a_budget_is_met_in_multiples_of_8(name, ratio, kind, scores):
    dense, shape, hyper = converted(name)
    report = hyper.prune_to(**{kind: ratio}, round_to=8, scores=make_scores(hyper, scores))
    kept = complexity(hyper.cut(check=False), shape)
    counted = getattr(kept, kind) / getattr(dense, kind)
    assert 0 <= ratio - counted <= 0.01
    assert counted == pytest.approx(report.achieved(kind), abs=1e-12)
    assert all(width % 8 == 0 for width in report.widths.values())


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_coarse_widths_meet_the_budget(ratio, seed):
    """32 channels in steps of 8: one step of the trunk is a tenth of the cost."""
    hyper = convert(build("EDSR", num_feat=32, num_block=8, upscale=4), torch.rand(1, 3, 32, 32))
    scores = make_scores(hyper, "equal" if seed is None else f"random {seed}")
    report = hyper.prune_to(macs=ratio, scores=scores)
    assert 0 <= ratio - report.macs_ratio <= 0.01


@pytest.mark.parametrize("scores", SCORES)
def test_excluded_layers_and_minimum_widths_are_kept(scores):
    plain = build("UNet", num_feat=32, num_levels=4)
    hyper = convert(plain, torch.rand(1, 1, 32, 32), exclude=["encoder.0.*"])
    report = hyper.prune_to(macs=0.5, min_width=24, scores=make_scores(hyper, scores))
    small = hyper.cut()
    assert abs(report.macs_ratio - 0.5) <= 0.01 and min(report.widths.values()) >= 24
    for name, layer in plain.named_modules():
        if name.startswith("encoder.0.") and hasattr(layer, "weight"):
            assert small.get_submodule(name).weight.shape[0] == layer.weight.shape[0]


def test_a_budget_of_1_keeps_everything():
    plain = network("unet_gray")
    hyper = convert(plain, example(plain))
    assert hyper.prune_to(macs=1.0).macs_ratio == 1
    assert hyper.mask.all()


@pytest.mark.parametrize(("arguments", "error", "facts"), [
    ({"macs": 0.05}, BudgetError, ["0.05 of macs", "min_width 8", "x: input of the network"]),
    ({"macs": 0.5, "tolerance": 1e-9}, BudgetError, ["0.5 within 1e-09", "multiples of 8"]),
    ({"macs": 1.5}, BudgetError, ["(0, 1]", "1.5"]),
    ({}, ValueError, ["macs, params"]),
    ({"macs": 0.5, "params": 0.5}, ValueError, ["macs", "params"]),
    ({"flops": 0.5}, TypeError, ["'flops'", "macs, params"]),
    ({"macs": 0.5, "round_to": 0, "min_width": 8}, BudgetError, ["round_to", "0 and 8"]),
    ({"macs": 0.5, "scores": {}}, ValueError, ["conv_first", "(16,)", "none"]),
])  # fmt: skip
def test_refusals_have_the_facts(arguments, error, facts):
    plain = network("edsr_x4")
    hyper = convert(plain, example(plain))
    with pytest.raises(error) as caught:
        hyper.prune_to(**arguments)
    assert all(fact in str(caught.value) for fact in facts)
    assert hyper.mask.all()


def test_scores_that_are_not_finite_are_refused():
    hyper = convert(network("edsr_x4"), example(network("edsr_x4")))
    scores = {name: mask / 0 for name, mask in hyper.masks.items()}
    with pytest.raises(ValueError, match="conv_first"):
        hyper.prune_to(macs=0.5, scores=scores)


def test_a_network_without_prunable_channels_is_refused():
    hyper = convert(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), torch.rand(1, 1, 8, 8))
    with pytest.raises(BudgetError, match="input of the network"):
        hyper.prune_to(macs=0.5)
