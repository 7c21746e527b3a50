"""Latency: grid, table on disk, interpolation, and the loop that corrects it; times come from a fake clock."""

import json

import pytest
import torch
from networks import CASES, example, network
from topologies import with_fixed_weight
from torch import nn

from dhp_sr.allocation.allocate import allocate_measured_widths
from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.cost.latency_lut import grid, prepare_lut, record_calls
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert
from dhp_sr.utils.errors import UserError


@pytest.fixture
def clock(monkeypatch):
    """A clock on which a layer takes as many microseconds as it has multiply-adds, and a ReLU one per element."""
    state = {"now": 0.0, "passes": 0}

    def spend(module, inputs, output):
        if isinstance(module, nn.Conv2d | nn.Linear):
            state["now"] += output.numel() * module.weight[0].numel() * 1e-6
            state["passes"] += 1
        elif isinstance(module, nn.ReLU):
            state["now"] += output.numel() * 1e-6

    handle = nn.modules.module.register_module_forward_hook(spend)
    for name in ("time.perf_counter", "time.thread_time"):
        monkeypatch.setattr(name, lambda: state["now"])
    yield state
    handle.remove()


def dncnn():
    torch.manual_seed(0)
    return build("DnCNN", num_feat=32, num_layers=4, batch_norm=False)


def test_grid_holds_both_sides_of_every_block():
    assert grid(5) == [1, 2, 3, 4, 5]
    assert grid(32) == [8, 9, 16, 17, 24, 25, 32]
    assert grid(100) == [16, 17, 32, 33, 48, 49, 64, 65, 80, 81, 96, 97, 100]
    assert grid(16, 4) == [4, 8, 12, 16]
    assert all(len(grid(width)) <= 16 for width in range(1, 600))


@pytest.mark.parametrize("width", [1, 5, 8, 13, 16, 20, 28, 32])
def test_times_that_are_products_are_interpolated_exactly(clock, width):
    """Multiply-adds are bilinear in the widths, so what the table predicts is what the cut network takes."""
    plain, x = dncnn(), torch.rand(1, 1, 8, 8)
    plan = make_plan(plain, x)
    costs = CostModel(plan, prepare_lut(plain, x))
    mask = torch.cat([torch.arange(group.width) < width for group in plan.prunable])
    found, macs, dense = (
        costs.value(mask),
        CostModel(plan).value(mask).macs,
        costs.value(torch.ones(plan.size)),
    )
    elements = sum(width * 64 for _ in plan.prunable) + 64
    whole = sum(32 * 64 for _ in plan.prunable) + 64
    rest_ms = (
        (dense.latency - dense.macs * 1e-3) * elements / whole
    )  # ReLUs, charged by the elements of all layers
    assert found.latency == pytest.approx(macs * 1e-3 + rest_ms, rel=1e-9)
    assert dense.latency == pytest.approx(dense.macs * 1e-3 + 3 * 32 * 64 * 1e-3, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_dense_network_takes_what_was_measured(case, clock):
    plain = network(case)
    x = example(plain)
    table = prepare_lut(plain, x)
    costs = CostModel(make_plan(plain, x), table)
    ones = torch.ones(costs.axis_sizes._occurrences.shape[1])
    assert costs.value(ones).latency == pytest.approx(table.dense_ms)
    assert float(costs.by_parameter(ones, "latency").sum()) == pytest.approx(table.dense_ms)
    marginal = costs.marginal(ones, "latency")
    assert marginal.shape == ones.shape and (marginal > 0).all()


def test_every_call_of_a_layer_counts():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.ReLU(), shared)
    calls = record_calls(plain, torch.rand(1, 1, 8, 8))
    assert [call.weight for call in calls] == ["0.weight", "1.weight", "1.weight"]
    assert calls[1].signature == calls[2].signature != calls[0].signature


class Named(nn.Module):
    """Hands an image to its layers by the name of their argument."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(1, 4, 3), middle, nn.Conv2d(16, 1, 3)

    def forward(self, x):
        return self.last(input=self.middle(self.first(input=x)).relu())


def computed(norm):
    return nn.Sequential(norm(nn.Conv2d(4, 4, 3)), nn.ReLU(), nn.Conv2d(4, 16, 3))


def test_layers_called_by_the_name_of_their_argument():
    calls = record_calls(Named(nn.Conv2d(4, 16, 3)), torch.rand(1, 1, 8, 8))
    assert [call.input_shape for call in calls] == [(1, 1, 8, 8), (1, 4, 6, 6), (1, 16, 4, 4)]


@pytest.mark.parametrize("norm", [
    nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm,
])  # fmt: skip
def test_layers_with_computed_weights_are_part_of_the_rest(clock, norm):
    plain, x = Named(computed(norm)).eval(), torch.rand(1, 1, 12, 12)
    table = prepare_lut(plain, x)
    assert [call.weight for call in table.calls] == [
        "first.weight",
        "middle.2.weight",
        "last.weight",
    ]
    assert table.dense_ms > sum(table.layers[call.signature]["ms"][-1][-1] for call in table.calls)
    report = convert(plain, x).prune_to(latency=0.7, round_to=1, tolerance=0.3)
    assert abs(report.measured_latency_ratio - 0.7) <= 0.21


class Functions(nn.Module):
    """Convolutions without modules."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (
            nn.Parameter(torch.rand(8, 1, 3, 3)),
            nn.Parameter(torch.rand(1, 8, 3, 3)),
        )

    def forward(self, x):
        return nn.functional.conv2d(nn.functional.conv2d(x, self.up).relu(), self.down)


def test_a_network_without_layers_that_can_be_timed_is_told_what_to_ask_for():
    hyper = convert(Functions(), torch.rand(1, 1, 8, 8))
    with pytest.raises(
        UserError, match=r"Functions: expected convolutions .* Ask for macs or params instead"
    ):
        hyper.prune_to(latency=0.5)
    assert hyper.prune_to(macs=0.5, round_to=1).macs_ratio == pytest.approx(0.5)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(16, 16, 3, groups=4),
    nn.ConvTranspose2d(16, 24, 2, stride=2, bias=False), nn.Conv1d(16, 9, 3),
], ids=str)  # fmt: skip
def test_layers_of_all_kinds_are_rebuilt_at_every_width(layer):
    x = torch.rand(1, 16, *[8] * (layer.weight.dim() - 2))
    (times,) = prepare_lut(layer, x).layers.values()
    assert (
        times["first"][-1] == layer.weight.shape[0] and times["second"][-1] == layer.weight.shape[1]
    )
    assert all(ms > 0 for row in times["ms"] for ms in row)


def test_a_layer_whose_weight_is_a_buffer_is_timed_like_any_other():
    fixed = with_fixed_weight(nn.Conv2d(8, 8, 3, groups=8))
    plain, x = nn.Sequential(nn.Conv2d(1, 8, 3), fixed, nn.Conv2d(8, 1, 3)), torch.rand(1, 1, 8, 8)
    costs = CostModel(make_plan(plain, x), prepare_lut(plain, x))
    shares = dict(
        zip(costs.names, costs.by_parameter(torch.ones(8), "latency").tolist(), strict=True)
    )
    assert shares["1.weight"] > 0
    assert sum(shares.values()) == pytest.approx(costs.value(torch.ones(8)).latency)


def test_a_linear_layer_is_timed_at_its_own_axis():
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 6))
    table = prepare_lut(plain, torch.rand(1, 1, 4, 4))
    assert [len(times["ms"]) for times in table.layers.values()] == [8, 6]


def test_the_table_is_kept_and_used_again(clock, tmp_path):
    path, plain, x = tmp_path / "table.json", dncnn(), torch.rand(1, 1, 8, 8)
    random = torch.get_rng_state()
    first = prepare_lut(plain, x, path=path)
    assert torch.equal(torch.get_rng_state(), random)
    passes, text = clock["passes"], path.read_text()
    again = prepare_lut(plain, x, path=path)
    assert clock["passes"] - passes == len(
        first.calls
    )  # one pass to see the shapes, none to measure
    assert again.times() == first.times() and path.read_text() == text
    prepare_lut(build("DnCNN", num_feat=16, num_layers=4), x, path=path)
    assert set(first.layers) < set(json.loads(path.read_text())["layers"])  # added to, not replaced


@pytest.mark.parametrize(("change", "expected"), [
    ({"threads": 7}, r"other conditions \(threads: 7 there, 1 here\); measured anew"),
    ({"torch": "0.1", "device": "abacus"}, r"device: 'abacus' there, .*; torch: '0.1' there"),
])  # fmt: skip
def test_a_table_of_other_conditions_is_not_used(clock, tmp_path, change, expected):
    path, plain, x = tmp_path / "table.json", dncnn(), torch.rand(1, 1, 8, 8)
    prepare_lut(plain, x, path=path)
    content = json.loads(path.read_text())
    content["conditions"].update(change)
    content["networks"] = {key: 1e9 for key in content["networks"]}
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=expected):
        table = prepare_lut(plain, x, path=path)
    assert table.dense_ms < 1e9 and json.loads(path.read_text())["conditions"]["threads"] == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}'])
def test_a_file_that_is_no_table(clock, tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"table\.json: expected a table of latencies"):
        assert prepare_lut(dncnn(), torch.rand(1, 1, 8, 8), path=path).dense_ms > 0


def test_a_stopwatch_measures_a_layer_once(clock):
    watch, plain = LatencyBenchmark(torch.rand(1, 1, 8, 8)), dncnn()
    first = watch.table(plain)
    passes = clock["passes"]
    assert watch.table(plain).times() == first.times()
    assert clock["passes"] - passes == len(first.calls)


def test_the_ratio_is_that_of_the_clock(clock):
    plain = dncnn().train()
    half = build("DnCNN", num_feat=16, num_layers=4, batch_norm=False)
    x = torch.rand(1, 1, 8, 8)
    cost = [
        sum(p.numel() for n, p in one.named_parameters() if n.endswith("weight"))
        for one in (half, plain)
    ]
    found = LatencyBenchmark(x).ratio(half, plain)
    assert found == pytest.approx((cost[0] + 3 * 16) / (cost[1] + 3 * 32))
    assert plain.training


@pytest.mark.parametrize("ratio", [0.7, 0.5, 0.3])
def test_a_latency_is_met_by_the_clock(clock, ratio):
    plain = dncnn()
    hyper = convert(plain, torch.rand(1, 1, 8, 8))
    report = hyper.prune_to(
        latency=ratio, round_to=1, scores={n: torch.rand(len(m)) for n, m in hyper.masks.items()}
    )
    assert abs(report.measured_latency_ratio - ratio) <= 0.025
    assert report.latency_ratio == pytest.approx(report.measured_latency_ratio, rel=0.02)
    again = LatencyBenchmark(torch.rand(1, 1, 8, 8)).ratio(hyper.cut(), plain)
    assert again == pytest.approx(report.measured_latency_ratio)


def loop(measure, ratio=0.5, **rules):
    """The loop over a network whose true times are `measure(predicted)`."""
    plain, x = dncnn(), torch.rand(1, 1, 8, 8)
    plan = make_plan(plain, x)
    costs = CostModel(plan, prepare_lut(plain, x))
    dense, seen = costs.value(torch.ones(plan.size)).latency, []

    def timed(mask):
        seen.append(measure(costs.value(mask).latency / dense))
        return seen[-1]

    rules = {"tolerance": 0.05, "round_to": 1, "min_width": 2, **rules}
    mask, measured = allocate_measured_widths(
        plan, torch.rand(plan.size), Budget.from_target("latency", ratio, **rules), costs, timed
    )
    return measured, seen, mask


@pytest.mark.parametrize("true", [
    lambda p: p, lambda p: 0.3 + 0.7 * p, lambda p: p**2, lambda p: p**0.4, lambda p: round(p * 12) / 12,
], ids=["right", "overhead", "square", "root", "steps"])  # fmt: skip
def test_the_loop_corrects_a_table_that_is_wrong(clock, true):
    measured, seen, _ = loop(true)
    assert abs(measured - 0.5) <= 0.025 and len(seen) <= 8  # the last one twice


@pytest.mark.parametrize(
    ("ratio", "found", "met"), [(0.5, 0.474, False), (0.5, 0.476, True), (0.2, 0.211, False)]
)
def test_the_tolerance_is_relative_to_the_target(clock, ratio, found, met):
    if met:
        assert loop(lambda p: found, ratio)[0] == found
        return
    with pytest.raises(
        BudgetError, match=rf"a latency of {ratio} .* within {0.05 * ratio:g} was not met"
    ):
        loop(lambda p: found, ratio)


def test_what_meets_the_budget_by_chance_is_not_taken(clock):
    """A first measurement that a second one does not confirm counts half."""
    times = iter([0.5, 0.6])
    measured, seen, _ = loop(lambda p: next(times, p))
    assert seen[:2] == [0.5, 0.6] and len(seen) > 3
    assert measured == pytest.approx(sum(seen[-2:]) / 2) and abs(measured - 0.5) <= 0.0125


def test_masks_that_meet_the_budget_stay(clock):
    """A second choice with the same scores measures once and keeps what is there; other scores choose anew."""
    hyper = convert(dncnn(), torch.rand(1, 1, 8, 8))
    scores = {name: torch.rand(len(mask)) for name, mask in hyper.masks.items()}
    hyper.prune_to(latency=0.5, scores=scores)
    mask = hyper.mask.clone()
    hyper.prune_to(latency=0.49, scores=scores)
    assert torch.equal(hyper.mask, mask)
    hyper.prune_to(latency=0.5, scores={name: -score for name, score in scores.items()})
    assert not torch.equal(hyper.mask, mask)


def test_a_target_that_times_jump_over_is_missed_with_what_was_reached(clock):
    with pytest.raises(
        BudgetError,
        match=r"latency of 0\.5 .* not met; measured on \d+ cut networks: 0\.900 \(predict",
    ):
        loop(lambda p: 0.9 if p > 0.4 else 0.1)


def test_a_latency_below_the_floors_names_them(clock):
    with pytest.raises(
        BudgetError, match=r"cannot be met: .*of latency remains: .*Measured at the floors: 0\.8"
    ):
        loop(lambda p: 0.8 + 0.2 * p, min_width=16)
