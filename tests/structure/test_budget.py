"""Budgets: met on both sides, rounded, with floors, or refused with the reason."""

import pytest
import torch
from networks import CASES, example, network

from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.structure import BudgetError, CostModel, make_plan

WIDE = {
    "EDSR": {"num_feat": 64, "num_block": 8, "upscale": 4},
    "SRResNet": {"num_feat": 64, "num_block": 8, "upscale": 4},
    "DnCNN": {"num_feat": 64, "num_layers": 17},
    "UNet": {"num_feat": 32, "num_levels": 5},
}


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("ratio", [0.6, 0.4, 0.2])
@pytest.mark.parametrize("name", WIDE)
def test_budget_is_met_in_multiples_of_8(name, ratio, kind):
    plain = build(name, **WIDE[name])
    x = torch.rand(1, plain.in_channels, 64, 64)
    hyper = convert(plain, x)
    with torch.no_grad():
        for latent in hyper.latents.values():
            latent.uniform_()
    report = hyper.prune_to(**{kind: ratio}, round_to=8)
    small = hyper.cut(check=False)
    dense, kept = complexity(plain, tuple(x.shape)), complexity(small, tuple(x.shape))
    measured = getattr(kept, kind) / getattr(dense, kind)
    assert 0 <= ratio - measured <= 0.01
    assert measured == pytest.approx(getattr(report, f"{kind}_ratio"), abs=1e-12)
    assert all(width % 8 == 0 for width in report.widths.values())


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_coarse_widths_meet_the_budget(ratio, seed):
    """32 channels in steps of 8: one step of the trunk is a tenth of the cost."""
    hyper = convert(build("EDSR", num_feat=32, num_block=8, upscale=4), torch.rand(1, 3, 32, 32))
    generator = torch.Generator().manual_seed(seed or 0)
    scores = {name: torch.rand(len(mask), generator=generator) for name, mask in hyper.masks.items()}
    report = hyper.prune_to(macs=ratio, scores=scores if seed is not None else None)
    assert 0 <= ratio - report.macs_ratio <= 0.01


def test_the_best_scored_channels_stay():
    plain = network("dncnn_grey")
    hyper = convert(plain, example(plain))
    scores = {name: torch.arange(len(mask)).double() for name, mask in hyper.masks.items()}
    hyper.prune_to(macs=0.5, round_to=1, tolerance=0.03, scores=scores)
    for mask in hyper.masks.values():
        assert torch.equal(mask, mask.sort().values)


def test_everything_stays_at_a_budget_of_one():
    plain = network("unet_grey")
    hyper = convert(plain, example(plain))
    assert hyper.prune_to(macs=1.0).macs_ratio == 1
    assert hyper.mask.all()


def test_refusals_say_why():
    plain = network("edsr_x4")
    hyper = convert(plain, example(plain))
    with pytest.raises(BudgetError, match=r"cannot be met.*min_width 8.*pinned: x \(input of the network\)"):
        hyper.prune_to(macs=0.05)
    with pytest.raises(BudgetError, match="too coarse"):
        hyper.prune_to(macs=0.5, tolerance=1e-9)
    with pytest.raises(BudgetError, match=r"must lie in \(0, 1\], found 1.5"):
        hyper.prune_to(macs=1.5)
    with pytest.raises(ValueError, match="exactly one of macs, params"):
        hyper.prune_to()
    with pytest.raises(BudgetError, match="at least 1, found 0 and 8"):
        hyper.prune_to(macs=0.5, round_to=0, min_width=8)
    with pytest.raises(ValueError, match=r"conv_first: expected finite numbers of shape \(16,\), found none"):
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
            up, down = (float(getattr(costs(mask + sign * step), kind)) for sign in (1, -1))
            assert float(marginal[place]) == pytest.approx((up - down) / 2e-3, rel=1e-6)


def test_a_network_without_prunable_channels_is_refused():
    hyper = convert(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), torch.rand(1, 1, 8, 8))
    hyper.set_masks({})
    with pytest.raises(BudgetError, match="no channels to prune; pinned: "):
        hyper.prune_to(macs=0.5)


def test_equal_scores_narrow_every_group_alike():
    plain = build("UNet", num_feat=32, num_levels=5)
    report = convert(plain, torch.rand(1, 1, 64, 64)).prune_to(macs=0.4, round_to=1)
    dense = {group.name: group.width for group in make_plan(plain, torch.rand(1, 1, 64, 64)).prunable}
    shares = sorted(width / dense[name] for name, width in report.widths.items())
    assert shares[len(shares) * 3 // 4] - shares[0] < 0.05  # what is left over goes to the cheapest
