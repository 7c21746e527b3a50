"""Kept sizes of axes: how often a channel occurs in one."""

import pytest
import torch
from torch import nn

from dhp_sr.hyper import convert


def repetitions_of(network, example):
    """Name of a layer's weight -> repetitions of its output axis."""
    hyper = convert(network, example)
    axis_sizes = hyper.costs.axis_sizes
    rows = {}
    for layer in hyper.plan.layers:
        if layer.weight in hyper.plan.parameters:
            for dim in (0, 1):
                rows[layer.weight, dim] = axis_sizes.row(layer.weight, dim)
    values = axis_sizes.repetitions(torch.tensor(list(rows.values()))).tolist()
    outputs = {}
    for (weight, dim), value in zip(rows, values, strict=True):
        if dim == 0:
            outputs[weight] = value
    return outputs


def chain(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *layers)


@pytest.mark.parametrize("scale", [2, 3])
def test_channels_before_a_pixel_shuffle_occur_at_every_place_that_they_fill(scale):
    network = chain(
        nn.Conv2d(8, 4 * scale**2, 3, padding=1),
        nn.PixelShuffle(scale),
        nn.Conv2d(4, 3, 3, padding=1),
    )
    outputs = repetitions_of(network, torch.rand(1, 3, 8, 8))
    assert outputs == {"0.weight": 1, "2.weight": scale**2, "4.weight": 1}


def test_the_places_of_a_flattened_map_repeat_the_inputs_of_a_layer_not_its_outputs():
    network = chain(nn.Flatten(), nn.Linear(8 * 16, 8), nn.ReLU(), nn.Linear(8, 2))
    outputs = repetitions_of(network, torch.rand(1, 3, 4, 4))
    assert outputs == {"0.weight": 1, "3.weight": 1, "5.weight": 1}


class Attention(nn.Module):
    """Heads are pruned as a whole."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.last(self.attention(x, x, x, need_weights=False)[0])


def test_an_attention_head_is_one_element_of_many_entries_and_repeats_nothing():
    network = Attention().eval()
    outputs = repetitions_of(network, torch.rand(1, 5, 3))
    assert set(outputs.values()) == {1}
