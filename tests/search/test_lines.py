"""The widths that prices suggest: alike where all weights cost the same, by a power of the price where they do not."""

import pytest
import torch
from torch import nn

from dhp_sr.archs import build
from dhp_sr.hyper import convert
from dhp_sr.search import build_search
from dhp_sr.search.lines import lines
from dhp_sr.structure import Budget


def budget(keep_ratio=0.5, kind="macs", min_width=1):
    return Budget(kind=kind, keep_ratio=keep_ratio, round_to=1, min_width=min_width)


class Upsampled(nn.Sequential):
    """Two pairs of layers, the second of which works on s * s times as many places."""

    def __init__(self, s):
        wide = [nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 1), nn.Conv2d(40, 3, 1)]
        super().__init__(
            *wide, nn.Upsample(scale_factor=s), nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 1), nn.Conv2d(40, 3, 1)
        )


def of(network, example, power=0.5, **asked):
    hyper = convert(network, example)
    return hyper, lines(hyper, budget(**asked), power)


def cost_at(hyper, kept, kind="macs"):
    part = torch.cat([torch.full((group.width,), kept[group.name]) for group in hyper.plan.prunable])
    return getattr(hyper.cost_of(part), kind) / getattr(hyper.dense_cost(), kind)


@pytest.mark.parametrize("keep_ratio", [0.2, 0.5, 0.8])
def test_a_chain_of_equal_layers_keeps_equal_parts(keep_ratio):
    hyper, kept = of(
        build("DnCNN", num_feat=32, num_layers=6, batch_norm=False), torch.rand(1, 1, 16, 16), keep_ratio=keep_ratio
    )
    assert max(kept.values()) - min(kept.values()) < 0.02
    assert cost_at(hyper, kept) == pytest.approx(keep_ratio, abs=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("s", [2, 4])
def test_a_weight_that_multiplies_at_more_places_is_kept_by_that_power_of_its_price(s, power):
    hyper, kept = of(Upsampled(s), torch.rand(1, 3, 8, 8), power, keep_ratio=0.1)
    assert kept["1"] / kept["5"] == pytest.approx(s ** (2 * power), rel=0.02)
    assert cost_at(hyper, kept) == pytest.approx(0.1, abs=1e-4)


def test_a_budget_of_parameters_makes_all_groups_alike():
    _, kept = of(Upsampled(4), torch.rand(1, 3, 8, 8), kind="params")
    assert max(kept.values()) == pytest.approx(min(kept.values()))


def test_floors_and_whole_groups_hold_and_the_rest_meets_the_budget():
    hyper, kept = of(Upsampled(4), torch.rand(1, 3, 8, 8), keep_ratio=0.4, min_width=24)
    assert kept["5"] == 0.6 and 0.6 < kept["1"] < 1
    assert cost_at(hyper, kept) == pytest.approx(0.4, abs=1e-4)
    assert min(lines(hyper, budget(1.0), 0.5).values()) == pytest.approx(1.0)


def test_a_group_keeps_no_more_than_all_and_the_dear_one_gives_the_rest():
    hyper, kept = of(Upsampled(4), torch.rand(1, 3, 8, 8), keep_ratio=0.6)
    assert kept["1"] == 1 and kept["5"] < 0.9
    assert cost_at(hyper, kept) == pytest.approx(0.6, abs=1e-4)


@pytest.mark.parametrize("keep_ratio", [0.2, 0.5, 0.8])
def test_an_even_cut_of_a_chain_solves_the_square(keep_ratio):
    """Of 1 x 1 layers 1 -> 40 -> 40 -> 1, fractions k keep (80 k + 1600 k k) / 1680 of the multiply-adds."""
    chain = nn.Sequential(
        nn.Conv2d(1, 40, 1, bias=False), nn.Conv2d(40, 40, 1, bias=False), nn.Conv2d(40, 1, 1, bias=False)
    )
    _, kept = of(chain, torch.rand(1, 1, 8, 8), 0.0, keep_ratio=keep_ratio)
    even = ((1 + 4 * 20 * 21 * keep_ratio) ** 0.5 - 1) / 40
    assert list(kept.values()) == pytest.approx([even, even], abs=1e-5)


def test_a_network_without_groups_has_no_lines():
    assert lines(convert(nn.Sequential(nn.Conv2d(1, 1, 3)), torch.rand(1, 1, 8, 8)), budget(), 0.0) == {}


def test_the_search_takes_the_power_that_was_asked_for():
    hyper = convert(Upsampled(4), torch.rand(1, 3, 8, 8))
    asked = {"kind": "macs", "keep_ratio": 0.5, "iterations": 10, "round_to": 1, "min_width": 1}
    for power in (0.0, 0.5):
        assert build_search("dhp", hyper, **asked, price_power=power)._lines == lines(hyper, budget(), power)
