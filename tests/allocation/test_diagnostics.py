"""Diagnostics of budgets against counts of cut networks, layer by layer."""

import pytest
import torch
from networks import SHALLOW_CASES, example, network

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.allocation.diagnostics import lower_bound, share_per_group
from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.counted import COUNTED_COSTS
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity


def test_an_infeasible_budget_names_the_groups_and_their_shares():
    """An excluded up-sampler, minimum widths elsewhere; shares are counted in the cut network."""
    plain = build("EDSR", num_feat=32, num_block=2, upscale=4)
    x = torch.rand(1, 3, 32, 32)
    hyper = convert(plain, x, exclude=["upsample.0", "upsample.2"])
    budget = Budget.from_target("macs", 0.1)
    with pytest.raises(BudgetError) as caught:
        hyper.prune_to_budget(budget)
    hyper.mask.copy_(min_width_mask(hyper.plan, budget))
    share = {}
    attributed = hyper.costs.by_parameter(hyper.mask, "macs") / hyper.dense_cost().macs
    for name, ratio in zip(hyper.costs.names, attributed.tolist(), strict=True):
        if ratio:
            share[name.rpartition(".")[0]] = ratio
    least = complexity(hyper.cut(), tuple(x.shape)).macs / complexity(plain, tuple(x.shape)).macs
    pinned = share["upsample.0"] + share["upsample.2"] + share["conv_last"]
    facts = [
        "0.1 of macs", "min_width 8", "multiples of 8", f"{least:.4f} of macs", f"{pinned:.4f} (",
        f"upsample.2: excluded by name {share['upsample.2']:.4f}",
        f"upsample.0: excluded by name {share['upsample.0']:.4f}",
        f"x: input of the network {share['conv_last']:.4f}", f"{least - pinned:.4f} (conv_first ",
    ]  # fmt: skip
    assert [fact for fact in facts if fact not in str(caught.value)] == []


@pytest.mark.parametrize("case", SHALLOW_CASES)
@pytest.mark.parametrize("kind", COUNTED_COSTS)
def test_shares_of_the_lower_bound_add_up(case, kind):
    plan = make_plan(network(case), example(network(case)))
    costs, budget = CostModel(plan), Budget.from_target(kind, 0.5, None, 4, 4)
    bound = lower_bound(plan, costs, budget)
    assert bound.ratio == pytest.approx(costs.ratio(min_width_mask(plan, budget), kind))
    assert set(bound.min_widths) <= {group.name for group in plan.prunable}


@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_the_share_of_a_group_is_what_its_minimum_width_saves(case):
    plain = network(case)
    hyper = convert(plain, example(plain))
    shares = share_per_group(hyper.plan, hyper.costs, Budget.from_target("macs", 0.5, None, 4, 4))
    dense = complexity(plain, tuple(example(plain).shape)).macs
    groups = hyper.plan.prunable
    # Some groups of a large network are enough: each of them is cut and counted.
    for group in groups[:: 1 + len(groups) // 10]:
        hyper.set_masks({name: torch.ones_like(mask) for name, mask in hyper.masks.items()})
        hyper.set_masks({group.name: torch.arange(group.width) < min(4, group.width)})
        small = complexity(hyper.cut(check=False), tuple(example(plain).shape)).macs
        assert shares[group.name] == pytest.approx(1 - small / dense)
