"""HSN: closed forms of gates, regularizer and scaling; budget, mask and cut of a search."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from dhp_sr.allocation.budget import Budget
from dhp_sr.archs import build
from dhp_sr.config.compress import HSNOptions
from dhp_sr.hyper import convert
from dhp_sr.search import SearchSettings, build_search
from dhp_sr.search.hsn.objective import COST_REGULARIZERS, MAX_FACTOR, MIN_FACTOR, LayerScaling
from dhp_sr.search.hsn.search import target_schedule
from dhp_sr.search.hsn.structure import (
    GUMBEL_MEDIAN,
    StructureNetwork,
    keep_probability,
    sample_gates,
)
from dhp_sr.utils.errors import UserError


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("shifted", "kept"), [(3.0, 1.0), (-0.3665, 0.5), (-1.0, 0.308), (-2.0, 0.127), (0.0, 0.632)]
)
def test_a_channel_is_kept_as_often_as_the_closed_form_says(shifted, kept):
    logits = torch.full((200_000,), shifted)
    assert float(keep_probability(logits[:1])) == pytest.approx(kept, abs=5e-4)
    for soft in (False, True):
        sample = sample_gates(logits, 0.4, noise(), soft=soft)
        assert float((sample.values >= 0.5).float().mean()) == pytest.approx(kept, abs=5e-3)
    assert float(keep_probability(torch.tensor(-GUMBEL_MEDIAN))) == pytest.approx(0.5)


def test_gates_are_0_or_1_and_their_gradient_is_the_sigmoids():
    logits = torch.randn(500, dtype=torch.float64, requires_grad=True)
    hard, soft = (sample_gates(logits.detach(), 0.4, noise(), soft=soft) for soft in (False, True))
    assert set(hard.values.tolist()) == {0.0, 1.0}
    assert torch.equal(hard.values, (soft.values > 0.5).double())
    added = (soft.noisy_logits - logits).detach()
    torch.sigmoid((logits + added) / 0.4).sum().backward()
    torch.testing.assert_close(hard.gradients, logits.grad)
    assert torch.equal(hard.gradients, soft.gradients)


@pytest.mark.parametrize("name", COST_REGULARIZERS)
def test_regularizers_return_their_derivative(name):
    for kept in (0.3, 0.7):
        value, slope = COST_REGULARIZERS[name](kept, 0.5)
        beyond, _ = COST_REGULARIZERS[name](kept + 1e-6, 0.5)
        assert (beyond - value) / 1e-6 == pytest.approx(slope, abs=1e-4)
        assert COST_REGULARIZERS[name](0.5, 0.5) == (0, 0)
    assert COST_REGULARIZERS["one_sided"](0.3, 0.5) == (0, 0)
    assert (
        COST_REGULARIZERS["one_sided"](1.0, 0.5)[0]
        == COST_REGULARIZERS["two_sided"](1.0, 0.5)[0]
        == pytest.approx(math.log(2))
    )
    assert COST_REGULARIZERS["two_sided"](0.25, 0.5)[0] == pytest.approx(math.log(2))


def test_the_structure_network_has_the_size_it_should():
    """ResNet-56: 27 gates on 9 blocks of 16, 32 and 64 channels."""
    widths = [16] * 9 + [32] * 9 + [64] * 9
    torch.manual_seed(1)
    state = torch.get_rng_state()
    network = StructureNetwork(widths, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(parameter.numel() for parameter in network.parameters()) == 408_560
    torch.testing.assert_close(network.inputs @ network.inputs.T, torch.eye(27), atol=1e-5, rtol=0)
    assert "inputs" not in dict(network.named_parameters()) and "inputs" in network.state_dict()
    assert network.states().shape == (27, 256) and network.logits(network.states()).shape == (1008,)
    again = StructureNetwork(widths, seed=3)
    assert torch.equal(again.logits(again.states()), network.logits(network.states()))


def test_a_head_sees_its_own_group_alone_and_only_the_direction_of_its_rows():
    network = StructureNetwork([2, 3], seed=0)
    states = network.states().detach().requires_grad_()
    network.logits(states)[:2].sum().backward()
    assert states.grad[0].any() and not states.grad[1].any()
    before = network.logits(states)
    with torch.no_grad():
        network.direction.mul_(5)
    torch.testing.assert_close(network.logits(states), before)


def test_factors_follow_the_hyper_gradient():
    layer = torch.tensor([0, 0, 1])
    scaling = LayerScaling(layer, "loss", 0.5)
    task, budget = (
        torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 2.0]]),
        torch.tensor([[0.0, 4.0], [0.0, 0.0], [0.0, -4.0]]),
    )
    assert torch.equal(scaling.combine(task, budget), task + budget)
    # layer 0: cosine of (3, 4) and (3, 0) = 0.6; layer 1: of (0, -2) and (0, 2) = -1
    combined = scaling.combine(task, budget)
    torch.testing.assert_close(scaling.factors, torch.tensor([1.3, 0.5]))
    torch.testing.assert_close(combined, torch.tensor([[1.3], [1.3], [0.5]]) * task + budget)
    for _ in range(50):
        scaling.combine(task, budget)
    assert scaling.factors.tolist() == pytest.approx([MAX_FACTOR, MIN_FACTOR])
    on_budget = LayerScaling(layer, "cost", 0.5)
    for _ in range(2):
        combined = on_budget.combine(task, budget)
    torch.testing.assert_close(on_budget.factors, torch.tensor([1.4, 1.5]))
    torch.testing.assert_close(combined, task + torch.tensor([[1.4], [1.4], [1.5]]) * budget)


@pytest.mark.parametrize("size", [1e-18, 1e-13, 1.0, 1e13])
def test_the_factors_follow_the_direction_of_gradients_of_any_size(size):
    """Saturated gates have gradients far below 1e-10."""
    scaling = LayerScaling(torch.tensor([0]), "loss", 0.1)
    nothing = torch.zeros(1, 4)
    scaling.combine(size * torch.tensor([[1.0, 1, 1, 1]]), nothing)
    scaling.combine(size * torch.tensor([[1.0, 1, 1, -1]]), nothing)
    torch.testing.assert_close(scaling.factors, torch.tensor([1.05]))


LENGTH = 120
COARSE = Budget.from_target("macs", 0.5, round_to=1)


def network():
    torch.manual_seed(0)
    return build("DnCNN", num_feat=16, num_layers=4)


def settings(budget=COARSE, **options):
    return SearchSettings(budget, LENGTH, method_options=dict(HSNOptions(**options)))


def hsn(plain=None, *, budget=COARSE, **options):
    hyper = convert(plain or network(), torch.rand(1, 1, 16, 16))
    return build_search("hsn", hyper, settings(budget, **options))


def run(search, steps):
    """Search with the dense network's output as the target: no loss until a gate is closed."""
    hyper, logs = search.hyper.eval(), []
    plain = copy.deepcopy(hyper.network)
    for iteration in range(steps):
        torch.manual_seed(iteration)
        x = torch.rand(2, 1, 12, 12)
        with torch.no_grad():
            target = plain(x)
        hyper.zero_grad()
        search.prepare(iteration)
        (hyper(x) - target).square().mean().backward()
        logs.append(search.step(iteration))
    return logs


def test_the_cost_of_the_mask_or_of_a_sample_is_regularized():
    """They differ while gates are ambiguous."""
    ratios = {}
    for gates in ("mask", "sampled"):
        search = hsn(logit_bias=0.5, cost_gates=gates)
        mask = search.ratios()["macs_ratio"]
        ratios[gates] = run(search, 1)[0]["regularized_ratio"]
    assert ratios["mask"] == mask != ratios["sampled"]


@pytest.mark.parametrize("gates", ["mask", "sampled"])
def test_with_all_gates_open_the_cost_is_the_whole(gates):
    search = hsn(logit_bias=50.0, target_ramp=0.0, cost_gates=gates)
    x = torch.rand(2, 1, 16, 16)
    search.prepare(0)
    assert all(bool((latent == 1).all()) for latent in search.hyper.latents.values())
    torch.testing.assert_close(search.hyper.eval()(x), network().eval()(x))
    search.hyper(x).sum().backward()
    log = search.step(0)
    assert log["regularized_ratio"] == log["macs_ratio"] == 1
    assert log["cost_regularizer"] == pytest.approx(math.log(2))


def test_with_all_gates_closed_the_minimum_width_is_kept():
    search = hsn(logit_bias=-50.0, budget=replace(COARSE, min_width=3))
    search.prepare(0)
    assert {int((latent == 1).sum()) for latent in search.hyper.latents.values()} == {3}
    search.hyper(torch.rand(1, 1, 16, 16)).sum().backward()
    search.step(0)
    assert {int(mask.sum()) for mask in search.hyper.masks.values()} == {3}


def test_the_target_falls_linearly_to_the_budget():
    targets = [target_schedule(progress, 0.5, ramp=0.5) for progress in (0, 0.25, 0.5, 1)]
    assert targets == pytest.approx([1, 0.75, 0.5, 0.5])
    assert target_schedule(0, 0.5, ramp=0.0) == 0.5


def test_the_penalty_balances_the_gradients_or_is_what_was_given():
    search = hsn(gradient_balance=3.0)
    task, budget = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])
    assert search._penalty(task, budget) == pytest.approx(3 * 5 / 0.5)
    assert search._penalty(torch.zeros(2), budget) == pytest.approx(0.9 * 30)
    assert search._penalty(task, torch.zeros(2)) == 0
    assert hsn(penalty=4.0)._penalty(task, budget) == 4


def test_weights_and_statistics_do_not_change():
    search = hsn()
    before = {name: tensor.clone() for name, tensor in search.hyper.network.state_dict().items()}
    run(search, 5)
    after = search.hyper.network.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(bool((latent == 1).all()) for latent in search.hyper.latents.values())


def test_constant_factors_of_1_are_plain_training():
    """Bit for bit."""
    plain, still, moving = hsn(layer_scaling="none"), hsn(scaling_lr=0.0), hsn(scaling_lr=0.05)
    for search in (plain, still, moving):
        run(search, 8)
    assert torch.equal(plain.scores(), still.scores())
    assert not torch.equal(plain.scores(), moving.scores())


def test_factors_reach_the_heads_and_nothing_else():
    """A step with other factors moves the recurrent network alike."""
    searches = [hsn(logit_bias=0.0, target_ramp=0.0) for _ in range(2)]
    searches[1]._scaling.factors = torch.full((3,), 3.0)
    for search in searches:
        run(search, 1)
    first, second = (search.network.state_dict() for search in searches)
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    assert differing and differing <= {"direction", "length"}


@pytest.fixture(scope="module")
def searched():
    """A search at its end, and its logs."""
    search = hsn(lr=5e-3)
    return search, run(search, LENGTH)


def test_the_search_lands_on_its_budget_before_the_cut(searched):
    search, logs = searched
    late = [log["macs_ratio"] for log in logs[-20:]]
    assert sum(late) / len(late) == pytest.approx(0.5, abs=0.02)
    assert max(late) - min(late) < 0.1
    assert logs[0]["macs_ratio"] == 1
    assert max(log["ambiguous"] for log in logs) > 0.1 > logs[-1]["ambiguous"]
    for name, mask in search.hyper.masks.items():
        assert logs[-1][f"width/{name}"] == int(mask.sum()) and f"scaling/{name}" in logs[-1]


def test_the_mask_is_the_median_sample(searched):
    search, _ = searched
    assert torch.equal(search.hyper.mask, keep_probability(search.scores() - GUMBEL_MEDIAN) > 0.5)
    assert not search.hyper.mask.all()


def test_masked_is_cut_after_a_search(searched):
    search, _ = searched
    report = search.finish()
    assert 0.49 <= report.macs_ratio <= 0.5
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        masked, small = search.hyper.eval()(x), search.hyper.cut()(x)
    torch.testing.assert_close(small, masked, rtol=1e-4, atol=1e-5)


def test_the_full_hypernetwork_is_refused():
    hyper = convert(network(), torch.rand(1, 1, 16, 16), "full")
    with pytest.raises(UserError, match=r"method hsn: .*set compress\.parametrization: factored"):
        build_search("hsn", hyper, settings())


def test_a_channel_costs_what_the_table_for_resnet_56_says():
    """Four times as much in the first stage as in the last, by the size of the feature maps."""
    hyper = convert(build("ResNet", depth=56), torch.rand(1, 3, 32, 32), prune_residual=False)
    slopes = hyper.costs.marginal(torch.ones(hyper.plan.size), "macs")
    costs = [slopes[group.span].unique().tolist() for group in hyper.plan.prunable]
    later = [[294_912]] * 9, [[110_592]] + [[147_456]] * 8, [[55_296]] + [[73_728]] * 8
    assert costs == [cost for stage in later for cost in stage]
