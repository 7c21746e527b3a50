"""All methods on a toy: budget, resume; and which channels the default search prunes."""

import copy
import math
from dataclasses import fields

import pytest
import torch
from slow_rows import rows
from topologies import conv, with_fixed_weight
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.archs import build
from dhp_sr.config.compress import Compress, DHPOptions, HSNOptions
from dhp_sr.hyper import convert
from dhp_sr.search import METHODS, SearchSettings, build_search, paper
from dhp_sr.search.base import DHPSettings, HSNSettings
from dhp_sr.search.gradual_taylor import INTERVAL, MIN_HEADROOM
from dhp_sr.search.proximal import keep_ratio_schedule
from dhp_sr.search.width_prior import width_prior
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.methods import METHODS as METHOD_SPECS

LENGTH = 60
BUDGET = {"kind": "macs", "keep_ratio": 0.5, "tolerance": None, "round_to": 2, "min_width": 2}


def hyper_network(parametrization="factored"):
    torch.manual_seed(0)
    plain = build("DnCNN", num_feat=16, num_layers=5)
    return convert(plain, torch.rand(1, 1, 16, 16), parametrization)


def run(search, start=0, stop=LENGTH):
    hyper, logs = search.hyper, []
    optimizer = torch.optim.SGD(hyper.network_parameters(), lr=1e-3)
    for iteration in range(start, stop):
        torch.manual_seed(iteration)
        search.prepare(iteration)
        hyper.train(search.trains_weights)
        clean = torch.rand(2, 1, 16, 16)
        noisy = clean + 0.1 * torch.randn_like(clean)
        search.observe(noisy)
        loss = (hyper(noisy) - clean).abs().mean()
        hyper.zero_grad()
        loss.backward()
        if search.trains_weights:
            optimizer.step()
        logs.append(search.step(iteration))
    return logs


def make(method, hyper, *, preset="default", iterations=LENGTH, seed=0, options=None, **budget):
    """Make a search; options are those of the method's section of `compress`."""
    section = METHOD_SPECS[method].section
    compress = Compress(
        method=method,
        preset=preset,
        target={"macs": 0.5},
        search_iter=iterations,
        **({section: options or {}} if section else {}),
    )
    settings = SearchSettings(
        budget=Budget.from_target(**{**BUDGET, **budget}),
        iterations=iterations,
        seed=seed,
        preset=preset,
        method_options=compress.method_options,
    )
    return build_search(method, hyper, settings)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_meets_the_budget(method):
    search = make(method, hyper_network())
    logs = run(search)
    report = search.finish()
    assert 0.49 <= report.macs_ratio <= 0.5
    assert set(logs[-1]) >= {"macs_ratio", "params_ratio"}


@pytest.mark.parametrize("method", rows(METHODS, ["dhp", "obs"]))
def test_every_method_takes_fixed_kernels(method):
    """A fixed blur passes channels on, and a fixed filter bank produces some."""
    blur, bank = with_fixed_weight(conv(16, 16, groups=16)), with_fixed_weight(conv(1, 16))
    plain = nn.Sequential(bank, conv(16, 16), nn.ReLU(), blur, conv(16, 16), nn.ReLU(), conv(16, 1))
    search = make(method, convert(plain, torch.rand(1, 1, 16, 16)), tolerance=0.05)
    run(search)
    report = search.finish()
    assert 0.45 <= report.macs_ratio <= 0.5
    search.hyper.cut()


def test_magnitude_takes_a_layer_of_zeros():
    """The last layer of a residual branch often begins so."""
    hyper = hyper_network()
    layer = hyper.network.model[2]
    nn.init.zeros_(layer.weight)
    search = make("magnitude", hyper)
    scores = hyper.plan.split(search.scores())
    assert not scores.pop("model.2").any()
    assert all(of_group.all() for of_group in scores.values())
    assert 0.49 <= search.finish().macs_ratio <= 0.5


@pytest.mark.parametrize("cost_exponent", [0.0, 1.0])
def test_prior_widths_keeps_about_the_widths_of_the_prior(cost_exponent):
    """Up to a step that the budget needs; the first channels are kept, whatever their gradients."""
    hyper = hyper_network()
    search = make("prior_widths", hyper, options={"cost_exponent": cost_exponent})
    wanted = width_prior(hyper, search.settings.budget, cost_exponent)
    assert len(set(wanted.values())) > 1
    before = hyper.mask.clone()
    run(search)
    assert hyper.mask.equal(before)
    for group in hyper.plan.prunable:
        assert abs(int(before[group.span].sum()) - wanted[group.name] * group.width) < 2.1
        assert (
            before[group.span].sort(descending=True, stable=True).values.equal(before[group.span])
        )


def test_the_paper_preset_meets_the_budget_from_random_latents():
    options = {"penalty": 50.0, "latent_lr": 1e-3}
    search = make("dhp", hyper_network("full"), preset="paper", options=options)
    before = search.scores()
    logs = run(search)
    assert logs[0]["lambda"] == 50
    assert float(before.std()) > 0.3
    assert (search.scores() == 0).any()
    assert 0.49 <= search.finish().macs_ratio <= 0.5


def test_the_penalty_of_the_paper_preset_pauses_near_the_budget(monkeypatch):
    monkeypatch.setattr(paper, "INTERVAL", 1)
    options = {"penalty": 50.0, "latent_lr": 1e-3}
    logs = run(make("dhp", hyper_network("full"), preset="paper", options=options))
    for log in logs:
        assert (log["lambda"] == 0) == (log["macs_ratio"] <= 0.5 + paper.STOP_MARGIN)
    assert logs[0]["lambda"] == 50 and logs[-1]["lambda"] == 0


def test_the_paper_preset_needs_the_full_hypernetwork():
    with pytest.raises(UserError, match="parametrization: full"):
        make("dhp", hyper_network(), preset="paper")


def test_the_kept_ratio_follows_the_schedule():
    search = make("dhp", hyper_network(), keep_ratio=0.4)
    for iteration, log in enumerate(run(search)):
        if iteration % INTERVAL == INTERVAL - 1:
            assert log["macs_ratio"] <= keep_ratio_schedule(iteration / LENGTH, 0.4) + 1e-9
    assert keep_ratio_schedule(0, 0.4) == 1
    assert keep_ratio_schedule(1, 0.4) == pytest.approx(0.4)


def test_expensive_channels_are_pruned_before_cheap_ones():
    """Importance is equal, so cost decides; channels of equal cost, 4 % each, go singly."""
    hyper = hyper_network()
    search = make("dhp", hyper)
    order = torch.argsort(hyper.marginal_cost("macs"))
    for iteration in range(LENGTH // 2):
        for latent in hyper.latents.values():
            latent.grad = torch.ones_like(latent)
        log = search.step(iteration)
        if iteration % INTERVAL == INTERVAL - 1:
            assert log["macs_ratio"] > keep_ratio_schedule(iteration / LENGTH, 0.5) - 0.04
    kept = hyper.mask[order].float()
    assert kept[: len(kept) // 4].all()
    assert not kept[-len(kept) // 4 :].all()


@pytest.mark.parametrize(
    ("prior", "headroom"), [(0.2, 0.375), (0.5, MIN_HEADROOM), (0.7, MIN_HEADROOM)]
)
def test_thresholds_are_damped_by_the_square_of_the_headroom(prior, headroom):
    """Two groups of equal importance and cost; half of the first is pruned."""
    hyper = hyper_network()
    search = make("dhp", hyper)
    search._width_prior = dict.fromkeys(search._width_prior, prior)
    hyper.marginal_cost = lambda kind: torch.ones(hyper.plan.size)
    search._adam.update(torch.ones(hyper.plan.size))
    first, second = hyper.plan.prunable[:2]
    hyper.mask[first.start : first.start + first.width // 2] = False
    thresholds = search._current_thresholds()
    assert torch.allclose(thresholds[first.span], thresholds[second.span] * headroom**2)


def test_a_group_of_tiny_importance_is_not_emptied():
    """The gradients of a layer are a thousandth of the others': it keeps the budget's fraction."""
    hyper = hyper_network()
    search = make("dhp", hyper, keep_ratio=0.4, iterations=300, round_to=1)
    small = list(hyper.latents)[1]
    generator = torch.Generator().manual_seed(0)
    for iteration in range(300):
        for name, latent in hyper.latents.items():
            latent.grad = torch.randn(latent.shape, generator=generator) * (
                1e-3 if name == small else 1.0
            )
        search.step(iteration)
    widths = {name: int(mask.sum()) for name, mask in hyper.masks.items()}
    assert widths[small] == min(widths.values())
    assert widths[small] >= 0.4 * 16 - 1


def test_dhp_drops_channels_that_do_not_matter():
    """Half of each layer's filters are zero and cannot help: they go first."""
    hyper = hyper_network()
    with torch.no_grad():
        for module in hyper.network.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == 16:
                module.weight[:, 8:] = 0
    search = make("dhp", hyper, keep_ratio=0.5)
    for iteration in range(LENGTH):
        clean = torch.rand(2, 1, 16, 16)
        hyper.zero_grad()
        (hyper(clean + 0.1) - clean).abs().mean().backward()
        search.step(iteration)
    kept = torch.cat(
        [
            torch.stack((mask[:8].float().mean(), mask[8:].float().mean()))
            for mask in hyper.masks.values()
        ]
    )
    assert kept[0::2].mean() > kept[1::2].mean() + 0.3


RESUMED = [
    ("dhp", "default", "factored"),
    ("dhp", "paper", "full"),
    ("hsn", "default", "factored"),
]


@pytest.mark.parametrize(("method", "preset", "kind"), RESUMED)
def test_a_resumed_search_ends_where_an_uninterrupted_one_does(method, preset, kind):
    straight = make(method, hyper_network(kind), preset=preset)
    run(straight)
    first = make(method, hyper_network(kind), preset=preset)
    run(first, 0, 25)
    second = make(method, hyper_network(kind), preset=preset)
    second.hyper.load_state_dict(first.hyper.state_dict())
    second.load_state_dict(first.state_dict())
    run(second, 25, LENGTH)
    assert torch.equal(second.scores(), straight.scores())
    assert torch.equal(second.hyper.mask, straight.hyper.mask)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("method", "preset"), [("dhp", "default"), ("dhp", "paper"), ("hsn", "default")]
)
def test_a_gradient_that_is_not_finite_ends_the_search(method, preset, value):
    """The loss can be finite all the same, and with frozen weights it stays so."""
    search = make(method, hyper_network("full" if preset == "paper" else "factored"), preset=preset)
    search.prepare(0)
    for latent in search.hyper.latents.values():
        latent.grad = torch.full_like(latent, value)
    before = copy.deepcopy(search.state_dict())
    with pytest.raises(UserError, match=r"not finite in step 5 "):
        search.step(4)
    assert str(search.state_dict()) == str(before)


@pytest.mark.parametrize("keep_ratio", [0.5, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_prunable_channels_is_refused(method, keep_ratio):
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1))
    hyper = convert(network, torch.rand(1, 1, 16, 16), exclude=["*"])
    fact = r"no channels to prune; pinned: .*0 \(excluded by name\)"
    with pytest.raises(UserError, match=fact):
        make(method, hyper, keep_ratio=keep_ratio)


def test_unknown_methods_are_refused_with_a_suggestion():
    settings = SearchSettings(Budget.from_target("macs", 0.5), LENGTH)
    with pytest.raises(UserError, match=r"'dph'.*'dhp'"):
        build_search("dph", hyper_network(), settings)


@pytest.mark.parametrize(
    ("section", "settings"), [(DHPOptions, DHPSettings), (HSNOptions, HSNSettings)]
)
def test_sections_of_the_option_file_hold_the_settings_of_the_engine(section, settings):
    assert list(section.model_fields) == [field.name for field in fields(settings)]


def test_random_differs_between_seeds_and_repeats_with_one():
    masks = [make("random", hyper_network(), seed=seed).hyper.mask for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_uniform_narrows_every_group_alike():
    report = make("uniform", hyper_network(), round_to=1).finish()
    assert max(report.widths.values()) - min(report.widths.values()) <= 1
