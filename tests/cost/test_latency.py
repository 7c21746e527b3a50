"""Latency: width grid, lookup table on disk, interpolation, comparison; on a fake clock."""

import json

import pytest
import torch
from fake_clock import dncnn
from networks import SHALLOW_CASES, example, network
from topologies import with_fixed_weight
from torch import nn

from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.latency_benchmark import LatencyBenchmark, width_grid
from dhp_sr.cost.latency_lut import FORMAT, LatencyLUT, record_layer_calls
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert
from dhp_sr.utils.errors import UserError


def test_grid_holds_both_sides_of_every_block():
    assert width_grid(5) == [1, 2, 3, 4, 5]
    assert width_grid(32) == [8, 9, 16, 17, 24, 25, 32]
    assert width_grid(100) == [16, 17, 32, 33, 48, 49, 64, 65, 80, 81, 96, 97, 100]
    assert width_grid(16, 4) == [4, 8, 12, 16]
    assert all(len(width_grid(width)) <= 16 for width in range(1, 600))


@pytest.mark.parametrize("width", [1, 5, 8, 13, 16, 20, 28, 32])
def test_times_that_are_products_are_interpolated_exactly(clock, width):
    """Multiply-adds are bilinear in the widths, so the prediction is exact."""
    plain, x = dncnn(), torch.rand(1, 1, 8, 8)
    plan = make_plan(plain, x)
    costs = CostModel(plan, LatencyBenchmark(x).lut(plain))
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


@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_the_dense_network_takes_what_was_measured(case, clock):
    plain = network(case)
    x = example(plain)
    table = LatencyBenchmark(x).lut(plain)
    costs = CostModel(make_plan(plain, x), table)
    ones = torch.ones(costs.axis_sizes._occurrences.shape[1])
    assert costs.value(ones).latency == pytest.approx(table.dense_ms)
    assert float(costs.by_parameter(ones, "latency").sum()) == pytest.approx(table.dense_ms)
    marginal = costs.marginal(ones, "latency")
    assert marginal.shape == ones.shape and (marginal > 0).all()


def test_every_call_of_a_layer_counts():
    shared = nn.Conv2d(4, 4, 3, padding=1)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.ReLU(), shared)
    calls = record_layer_calls(plain, torch.rand(1, 1, 8, 8))
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
    calls = record_layer_calls(Named(nn.Conv2d(4, 16, 3)), torch.rand(1, 1, 8, 8))
    assert [call.input_shape for call in calls] == [(1, 1, 8, 8), (1, 4, 6, 6), (1, 16, 4, 4)]


@pytest.mark.parametrize("norm", [
    nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm,
    nn.utils.parametrizations.spectral_norm,
])  # fmt: skip
def test_layers_with_computed_weights_are_part_of_the_rest(clock, norm):
    plain, x = Named(computed(norm)).eval(), torch.rand(1, 1, 12, 12)
    table = LatencyBenchmark(x).lut(plain)
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
    with pytest.raises(UserError, match=r"Functions: .*macs"):
        hyper.prune_to(latency=0.5)
    assert hyper.prune_to(macs=0.5, round_to=1).macs_ratio == pytest.approx(0.5)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 3, groups=16),
    nn.Conv2d(16, 16, 3, groups=4),
    nn.ConvTranspose2d(16, 24, 2, stride=2, bias=False), nn.Conv1d(16, 9, 3),
], ids=str)  # fmt: skip
def test_layers_of_all_kinds_are_rebuilt_at_every_width(layer):
    x = torch.rand(1, 16, *[8] * (layer.weight.dim() - 2))
    (times,) = LatencyBenchmark(x).lut(layer).layers.values()
    assert (
        times["first"][-1] == layer.weight.shape[0] and times["second"][-1] == layer.weight.shape[1]
    )
    assert all(ms > 0 for row in times["ms"] for ms in row)


def test_a_layer_whose_weight_is_a_buffer_is_timed_like_any_other():
    fixed = with_fixed_weight(nn.Conv2d(8, 8, 3, groups=8))
    plain, x = nn.Sequential(nn.Conv2d(1, 8, 3), fixed, nn.Conv2d(8, 1, 3)), torch.rand(1, 1, 8, 8)
    costs = CostModel(make_plan(plain, x), LatencyBenchmark(x).lut(plain))
    shares = dict(
        zip(costs.names, costs.by_parameter(torch.ones(8), "latency").tolist(), strict=True)
    )
    assert shares["1.weight"] > 0
    assert sum(shares.values()) == pytest.approx(costs.value(torch.ones(8)).latency)


def test_a_linear_layer_is_timed_at_its_own_axis():
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 6))
    table = LatencyBenchmark(torch.rand(1, 1, 4, 4)).lut(plain)
    assert [len(times["ms"]) for times in table.layers.values()] == [8, 6]


def test_the_table_is_kept_and_used_again(clock, tmp_path):
    path, plain, x = tmp_path / "table.json", dncnn(), torch.rand(1, 1, 8, 8)
    random = torch.get_rng_state()
    first = LatencyBenchmark(x, path=path).lut(plain)
    assert torch.equal(torch.get_rng_state(), random)
    passes, text = clock["passes"], path.read_text()
    again = LatencyBenchmark(x, path=path).lut(plain)
    assert clock["passes"] - passes == len(
        first.calls
    )  # one pass to see the shapes, none to measure
    assert again.times() == first.times() and path.read_text() == text
    LatencyBenchmark(x, path=path).lut(build("DnCNN", num_feat=16, num_layers=4))
    assert set(first.layers) < set(json.loads(path.read_text())["layers"])  # added to, not replaced


@pytest.mark.parametrize(
    "change",
    [
        {"conditions": []},
        {"conditions": "x"},
        {"layers": {"Conv2d": {"first": [1], "second": [1]}}},
        {"layers": {"Conv2d": {"first": [1], "second": [1], "ms": [[1.0], [2.0]]}}},
        {"layers": {"Conv2d": {"first": [1], "second": [1], "ms": [[float("nan")]]}}},
        {"networks": {"x": "fast"}},
    ],
)
def test_a_table_of_other_contents_is_not_used(tmp_path, change):
    conditions = {"threads": 1}
    table = {"format": FORMAT, "conditions": conditions, "layers": {}, "networks": {}}
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table, **change}))
    with pytest.warns(UserWarning, match=r"table\.json.*measured anew"):
        assert LatencyLUT.read(path, conditions).times() == {"layers": {}, "networks": {}}


def test_the_time_of_a_network_is_not_that_of_its_layers_twin(clock, tmp_path):
    """The same convolutions, with something else between them."""
    path, x = tmp_path / "table.json", torch.rand(1, 3, 8, 8)
    twins = [nn.Sequential(nn.Conv2d(3, 4, 3), layer) for layer in (nn.ReLU(), nn.GELU())]
    tables = [LatencyBenchmark(x, path=path).lut(twin) for twin in twins]
    assert tables[0].network_signature != tables[1].network_signature
    assert len(tables[1].networks) == 2 and len(tables[1].layers) == 1


@pytest.mark.parametrize(("change", "expected"), [
    ({"threads": 7}, r"table\.json.*threads: 7 there, 1 here"),
    ({"torch": "0.1", "device": "abacus"}, r"device: 'abacus' there, .*; torch: '0.1' there"),
])  # fmt: skip
def test_a_table_of_other_conditions_is_not_used(clock, tmp_path, change, expected):
    path, plain, x = tmp_path / "table.json", dncnn(), torch.rand(1, 1, 8, 8)
    LatencyBenchmark(x, path=path).lut(plain)
    content = json.loads(path.read_text())
    content["conditions"].update(change)
    content["networks"] = {key: 1e9 for key in content["networks"]}
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=expected):
        table = LatencyBenchmark(x, path=path).lut(plain)
    assert table.dense_ms < 1e9 and json.loads(path.read_text())["conditions"]["threads"] == 1


@pytest.mark.parametrize("content", [b"{}", b'{"format": "other"}', b"\x80 weights"])
def test_a_file_that_is_no_table_is_not_replaced(clock, tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.safetensors: .*dhp_sr\.latency\.1"):
        LatencyBenchmark(torch.rand(1, 1, 8, 8), path=path).lut(dncnn())
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "text", ["", '{"format": "dhp_sr.latency.0"}', '{"format": "dhp_sr.latency.1", "conditi']
)
def test_a_damaged_table_is_measured_anew(clock, tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"table\.json: .*dhp_sr\.latency\.1"):
        assert LatencyBenchmark(torch.rand(1, 1, 8, 8), path=path).lut(dncnn()).dense_ms > 0


def test_a_benchmark_measures_a_layer_once(clock):
    benchmark, plain = LatencyBenchmark(torch.rand(1, 1, 8, 8)), dncnn()
    first = benchmark.lut(plain)
    passes = clock["passes"]
    assert benchmark.lut(plain).times() == first.times()
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
