"""The multiple of channels that a runtime computes best is read from the times of its layers."""

import random

import pytest
import torch
from torch import nn

from dhp_sr.config import load_options
from dhp_sr.cost.latency_benchmark import width_grid
from dhp_sr.cost.latency_lut import LatencyLUT, record_layer_calls
from dhp_sr.cost.width_multiple import estimate, interpolate, learn_multiple, lower_hull
from dhp_sr.hyper import convert
from dhp_sr.training.pruning import make_budgets
from dhp_sr.utils.pixels import round_up


class Two(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu())


def table(width, out_block, in_block, noise=0.0):
    """Times of kernels that compute whole blocks of channels, as they are measured."""
    generator = random.Random(0)
    calls = record_layer_calls(Two(width), torch.rand(1, 3, 8, 8))
    layers = {}
    for call in calls:
        first, second = (width_grid(size) for size in call.weight_shape[:2])
        ms = []
        for out_width in first:
            row = []
            for in_width in second:
                time = 2.0 + round_up(out_width, out_block) * round_up(in_width, in_block) / 100
                row.append(time * (1 + noise * generator.random()))
            ms.append(row)
        layers[call.signature] = {"first": first, "second": second, "ms": ms}
    lut = LatencyLUT({}, layers, calls=calls)
    lut.networks[lut.network_signature] = 1e4
    return lut


@pytest.mark.parametrize("width, block", [(32, 8), (64, 8), (64, 16), (128, 8), (128, 16)])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_block_of_the_kernels_is_found(width, block, noise):
    assert learn_multiple(table(width, block, 1, noise)) == block
    assert learn_multiple(table(width, block, block, noise)) == block


def test_where_nothing_is_wasted_any_width_will_do():
    assert learn_multiple(table(64, 1, 1)) == 1
    assert learn_multiple(table(64, 4, 1)) == 4
    # No layer has a width to choose.
    assert learn_multiple(table(8, 8, 8)) == 8


@pytest.mark.parametrize("width, coarsest", [(16, 4), (32, 8), (52, 8), (64, 16)])
def test_a_layer_has_widths_to_choose_from(width, coarsest):
    """Where a block is as long as the layer is wide, nothing but its dense width is on the hull."""
    assert learn_multiple(table(width, 64, 64)) <= coarsest


def test_lower_hull():
    widths, times = [1, 2, 3, 4, 6], [1.0, 3.0, 3.0, 4.0, 9.0]
    assert lower_hull(widths, times) == [(1, 1.0), (4, 4.0), (6, 9.0)]
    assert interpolate([(2, 1.0), (4, 2.0)], 3) == 1.5
    assert interpolate([(2, 1.0), (4, 2.0)], 1) == 1.0


def test_steps_between_measured_widths():
    points = [(16, 1.0), (17, 1.5), (32, 2.0)]
    assert [estimate(points, width) for width in (17, 20, 24, 25, 32)] == [1.5, 1.5, 1.5, 2, 2]
    assert estimate([(16, 1.0), (17, 2.0), (32, 2.0)], 18) == 2.0
    assert estimate([(16, 1.0), (17, 1.0625), (32, 2.0)], 24) == 1.5


class Known:
    """A benchmark whose table is given."""

    def __init__(self, lut):
        self.lut = lambda network: lut

    def ratio(self, candidate, reference):
        kept = sum(value.numel() for value in candidate.parameters())
        return kept / sum(value.numel() for value in reference.parameters())


def test_budgets_of_latency_take_the_multiple_from_the_table():
    hyper = convert(Two(64), torch.rand(1, 3, 8, 8))
    hyper.use_latency(Known(table(64, 16, 16)))
    report = hyper.prune_to(latency=0.5, tolerance=0.3)
    assert report.budget.round_to == 16
    assert all(width % 16 == 0 for width in report.widths.values())
    assert hyper.prune_to(latency=0.5, tolerance=0.3, round_to=8).budget.round_to == 8
    # Counted costs do not depend on the runtime.
    assert hyper.prune_to(macs=0.5, tolerance=0.1).budget.round_to == 8

    for kind, stated, expected in (
        ("latency", "null", 16),
        ("latency", "4", 4),
        ("macs", "null", 8),
    ):
        changes = [f"compress.target={{{kind}: 0.5}}", f"compress.round_to={stated}"]
        options = load_options("options/dncnn_s25_cpu.yml", changes, check_network=None)
        (budget,) = make_budgets(options.compress, hyper)
        assert budget.round_to == expected
