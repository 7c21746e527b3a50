"""Budgets: met on both sides, rounded, with floors, or refused with the reason."""

import functools

import pytest
import torch
from networks import CASES, example, network
from torch import nn

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import allowed_widths, enforce_min_width, min_width_mask
from dhp_sr.allocation.diagnostics import lower_bound, share_per_group
from dhp_sr.allocation.width_solver import WidthSolver
from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity

WIDE = {
    "EDSR": {"num_feat": 128, "num_block": 8, "upscale": 4},
    "SRResNet": {"num_feat": 64, "num_block": 16, "upscale": 4},
    "DnCNN": {"num_feat": 64, "num_layers": 17},
    "UNet": {"num_feat": 32, "num_levels": 5},
}


SCORES = {
    "equal": lambda width, generator: torch.ones(width),
    "skewed": lambda width, generator: (
        torch.rand(width, generator=generator) * 10 ** (3 * torch.rand((), generator=generator))
    ),
    **dict.fromkeys(
        ("random 0", "random 1", "random 2"),
        lambda width, generator: torch.rand(width, generator=generator),
    ),
}


def scored(hyper, name):
    generator = torch.Generator().manual_seed(int(name[-1]) if name[-1].isdigit() else 0)
    return {group: SCORES[name](len(mask), generator) for group, mask in hyper.masks.items()}


@functools.cache
def converted(name):
    """The network in the paper's setting, on a small image: kept fractions hardly depend on its size."""
    plain = build(name, **WIDE[name])
    x = torch.rand(1, plain.in_channels, 32, 32)
    return plain, x, convert(plain, x)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("ratio", [0.6, 0.4, 0.2])
@pytest.mark.parametrize("name", WIDE)
def test_budget_is_met_in_multiples_of_8(name, ratio, kind, scores):
    plain, x, hyper = converted(name)
    report = hyper.prune_to(**{kind: ratio}, round_to=8, scores=scored(hyper, scores))
    small = hyper.cut(check=False)
    dense, kept = complexity(plain, tuple(x.shape)), complexity(small, tuple(x.shape))
    measured = getattr(kept, kind) / getattr(dense, kind)
    assert 0 <= ratio - measured <= 0.01
    assert measured == pytest.approx(getattr(report, f"{kind}_ratio"), abs=1e-12)
    assert all(width % 8 == 0 for width in report.widths.values())


def around(width, middle):
    """A network with `middle` between two convolutions of `width` channels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(width, 1, 3)
    )


DIVIDED = {
    "8 groups of 4": (around(32, nn.Conv2d(32, 32, 3, groups=8)), [1, 2, 3, 4]),
    "6 groups of 8": (around(48, nn.Conv2d(48, 48, 3, groups=6)), [4, 8]),
    "3 groups of 8": (around(24, nn.Conv2d(24, 24, 3, groups=3)), [8]),
    "2 groups of 16": (around(32, nn.Conv2d(32, 32, 3, groups=2)), [4, 8, 12, 16]),
    "transposed, 8 groups of 4": (
        around(32, nn.ConvTranspose2d(32, 32, 3, groups=8)),
        [1, 2, 3, 4],
    ),
    "GroupNorm, 8 groups of 4": (around(32, nn.GroupNorm(8, 32)), [2, 4, 6, 8]),
}
"""What -> a network whose channels live and die by several at once, and how many such bundles its layers may have."""


@pytest.mark.parametrize("what", DIVIDED)
def test_widths_are_those_of_the_layers(what):
    plain, expected = DIVIDED[what]
    hyper = convert(plain, torch.rand(1, 1, 12, 12))
    dense = {group.name: group.width for group in hyper.plan.prunable}
    for group in hyper.plan.prunable:
        assert allowed_widths(group, Budget.from_target("macs", 0.5)) == expected
    for width in expected:
        hyper.set_masks({name: torch.arange(whole) < width for name, whole in dense.items()})
        convolutions = [
            layer for layer in hyper.cut() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        ]
        widths = {
            number for layer in convolutions for number in (layer.in_channels, layer.out_channels)
        } - {1}
        assert widths == {plain[0].out_channels * width // max(dense.values())}
        assert all(number % 8 == 0 for number in widths)


def test_the_floor_of_a_search_is_that_of_the_layers():
    plan = make_plan(DIVIDED["8 groups of 4"][0], torch.rand(1, 1, 12, 12))
    kept = enforce_min_width(plan, torch.arange(plan.size) - 100.0, 16)
    assert kept.tolist() == [False, False, True, True] * 2


def test_channels_that_a_shuffle_spreads_count_as_few():
    """Behind the shuffle, the layer has one channel where the up-sampler has four."""
    plan = make_plan(build("EDSR", num_feat=32, num_block=1, upscale=2), torch.rand(1, 3, 8, 8))
    (group,) = [group for group in plan.prunable if group.name == "upsample.0"]
    assert group.channels_per_element == (1, 4) and allowed_widths(
        group, Budget.from_target("macs", 0.5)
    ) == [
        8,
        16,
        24,
        32,
    ]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_coarse_widths_meet_the_budget(ratio, seed):
    """32 channels in steps of 8: one step of the trunk is a tenth of the cost."""
    hyper = convert(build("EDSR", num_feat=32, num_block=8, upscale=4), torch.rand(1, 3, 32, 32))
    generator = torch.Generator().manual_seed(seed or 0)
    scores = {
        name: torch.rand(len(mask), generator=generator) for name, mask in hyper.masks.items()
    }
    report = hyper.prune_to(macs=ratio, scores=scores if seed is not None else None)
    assert 0 <= ratio - report.macs_ratio <= 0.01


def test_the_best_scored_channels_stay():
    plain = network("dncnn_grey")
    hyper = convert(plain, example(plain))
    scores = {name: torch.arange(len(mask)).double() for name, mask in hyper.masks.items()}
    hyper.prune_to(macs=0.5, round_to=1, tolerance=0.03, scores=scores)
    for mask in hyper.masks.values():
        assert torch.equal(mask, mask.sort().values)


@pytest.mark.parametrize("scores", SCORES)
def test_excluded_layers_and_floors_are_kept(scores):
    plain = build("UNet", num_feat=32, num_levels=4)
    hyper = convert(plain, torch.rand(1, 1, 32, 32), exclude=["encoder.0.*"])
    report = hyper.prune_to(macs=0.5, min_width=24, scores=scored(hyper, scores))
    small = hyper.cut()
    assert abs(report.macs_ratio - 0.5) <= 0.01 and min(report.widths.values()) >= 24
    assert all(
        small.get_submodule(name).weight.shape[0] == layer.weight.shape[0]
        for name, layer in plain.named_modules()
        if name.startswith("encoder.0.") and hasattr(layer, "weight")
    )


def test_what_stands_in_the_way_is_named_and_adds_up():
    """An excluded up-sampler, floors elsewhere; the parts are those of the cut network, counted layer by layer."""
    plain = build("EDSR", num_feat=32, num_block=2, upscale=4)
    x = torch.rand(1, 3, 32, 32)
    hyper = convert(plain, x, exclude=["upsample.0", "upsample.2"])
    with pytest.raises(BudgetError) as caught:
        hyper.prune_to(macs=0.1)
    text = str(caught.value)
    hyper.mask.copy_(min_width_mask(hyper.plan, Budget.from_target("macs", 0.1)))
    costs = hyper.costs.by_parameter(hyper.mask, "macs")
    dense = hyper.dense_cost().macs
    part = {
        name.rpartition(".")[0]: float(cost) / dense
        for name, cost in zip(hyper.costs.names, costs, strict=True)
        if cost
    }
    least = complexity(hyper.cut(), tuple(x.shape)).macs / complexity(plain, tuple(x.shape)).macs
    up = part["upsample.0"] + part["upsample.2"]
    assert (
        f"with every prunable group at its floor (min_width 8, multiples of 8) {least:.4f} of macs remains"
        in text
    )
    assert (
        f"pinned groups hold {up + part['conv_last']:.4f} (upsample.2: excluded by name {part['upsample.2']:.4f}, "
        in text
    )
    assert f"upsample.0: excluded by name {part['upsample.0']:.4f}), floors" in text
    assert f"x: input of the network {part['conv_last']:.4f}, upsample.0" in text
    assert f"floors hold {least - up - part['conv_last']:.4f} (conv_first " in text
    assert text.endswith("Ask for more, lower min_width or round_to, or exclude fewer layers")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_parts_of_the_floors_add_up(case, kind):
    plan = make_plan(network(case), example(network(case)))
    costs, budget = CostModel(plan), Budget.from_target(kind, 0.5, None, 4, 4)
    pinned, floors = lower_bound(plan, costs, budget)
    least = getattr(costs.value(min_width_mask(plan, budget)), kind) / getattr(
        costs.value(torch.ones(plan.size)), kind
    )
    assert sum(pinned.values()) + sum(floors.values()) == pytest.approx(least)
    assert set(floors) <= {group.name for group in plan.prunable}


@pytest.mark.parametrize("case", CASES)
def test_a_group_controls_what_its_floor_saves(case):
    plain = network(case)
    hyper = convert(plain, example(plain))
    shares = share_per_group(hyper.plan, hyper.costs, Budget.from_target("macs", 0.5, None, 4, 4))
    dense = complexity(plain, tuple(example(plain).shape)).macs
    for group in hyper.plan.prunable:
        hyper.set_masks({name: torch.ones_like(mask) for name, mask in hyper.masks.items()})
        hyper.set_masks({group.name: torch.arange(group.width) < min(4, group.width)})
        small = complexity(hyper.cut(check=False), tuple(example(plain).shape)).macs
        assert shares[group.name] == pytest.approx(1 - small / dense)


@pytest.mark.parametrize("case", CASES)
def test_neighbors_are_priced_as_they_cost(case):
    """What is added to the counts for a changed group equals the cost of the changed mask."""
    plan = make_plan(network(case), example(network(case)))
    costs, scores = CostModel(plan), torch.rand(plan.size)
    chooser = WidthSolver(plan, scores, Budget.from_target("macs", 0.5, None, 4, 4), costs)
    dense = costs.value(torch.ones(plan.size)).macs
    levels = torch.zeros(len(plan.prunable), dtype=torch.long)
    places, to = chooser._moves(levels, 3)
    ratios, gains = chooser._neighbors(levels, places, to)
    for place, level, ratio, gain in zip(places, to, ratios, gains, strict=True):
        moved = levels.clone()
        moved[place] = level
        assert float(ratio) == pytest.approx(
            costs.value(chooser.mask(moved)).macs / dense, abs=1e-12
        )
        assert float(gain) == pytest.approx(
            float((scores[chooser.mask(moved)]).sum() - scores[chooser.mask(levels)].sum()),
            abs=1e-4,
        )


def test_everything_stays_at_a_budget_of_one():
    plain = network("unet_grey")
    hyper = convert(plain, example(plain))
    assert hyper.prune_to(macs=1.0).macs_ratio == 1
    assert hyper.mask.all()


def test_refusals_say_why():
    plain = network("edsr_x4")
    hyper = convert(plain, example(plain))
    with pytest.raises(
        BudgetError,
        match=r"cannot be met.*min_width 8.*pinned groups hold .*x: input of the network",
    ):
        hyper.prune_to(macs=0.05)
    with pytest.raises(BudgetError, match="too coarse"):
        hyper.prune_to(macs=0.5, tolerance=1e-9)
    with pytest.raises(BudgetError, match=r"must lie in \(0, 1\], found 1.5"):
        hyper.prune_to(macs=1.5)
    with pytest.raises(ValueError, match="exactly one of macs"):
        hyper.prune_to()
    with pytest.raises(BudgetError, match="at least 1, found 0 and 8"):
        hyper.prune_to(macs=0.5, round_to=0, min_width=8)
    with pytest.raises(
        ValueError, match=r"conv_first: expected finite numbers of shape \(16,\), found none"
    ):
        hyper.prune_to(macs=0.5, scores={})
    with pytest.raises(ValueError, match="conv_first: expected finite numbers"):
        hyper.prune_to(macs=0.5, scores={name: mask / 0 for name, mask in hyper.masks.items()})
    assert hyper.mask.all()


@pytest.mark.parametrize("case", CASES)
def test_marginal_cost_is_the_derivative_of_the_cost(case):
    plain = network(case)
    plan = make_plan(plain, example(plain))
    costs, mask = CostModel(plan), torch.ones(plan.size, dtype=torch.float64)
    for kind in ("macs", "params"):
        marginal = costs.marginal(mask, kind)
        for place in (0, plan.size - 1):
            step = torch.zeros_like(mask)
            step[place] = 1e-3
            up, down = (costs.evaluate(mask + sign * step, kind) for sign in (1, -1))
            assert float(marginal[place]) == pytest.approx((up - down) / 2e-3, rel=1e-6)


def test_a_network_without_prunable_channels_is_refused():
    hyper = convert(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), torch.rand(1, 1, 8, 8))
    hyper.set_masks({})
    with pytest.raises(BudgetError, match="no channels to prune; pinned: "):
        hyper.prune_to(macs=0.5)


def test_equal_scores_narrow_every_group_alike():
    plain = build("UNet", num_feat=32, num_levels=5)
    report = convert(plain, torch.rand(1, 1, 64, 64)).prune_to(macs=0.4, round_to=1)
    dense = {
        group.name: group.width for group in make_plan(plain, torch.rand(1, 1, 64, 64)).prunable
    }
    shares = sorted(width / dense[name] for name, width in report.widths.items())
    assert shares[len(shares) * 3 // 4] - shares[0] < 0.05  # what is left over goes to the cheapest


def test_one_very_low_score_leaves_the_order_of_the_others_alone():
    """One group is worth more than all others, by little beside the lowest score."""
    hyper = convert(build("DnCNN", num_feat=16, num_layers=5), torch.rand(1, 1, 16, 16))
    for lowest in (-1.0, -1e12):
        scores = (
            torch.rand(hyper.plan.size, generator=torch.Generator().manual_seed(0)).double() * 1e-3
        )
        scores[16:32] += 1e-2
        scores[-1] = lowest
        widths = hyper.prune_to(macs=0.4, round_to=1, scores=hyper.plan.split(scores)).widths
        assert list(widths.values())[1] == 16, lowest
