"""The registry: every operator has a topology that all identities are tested on, and a receptive
field.
"""

import pytest
import torch
from topologies import TOPOLOGIES
from torch import nn

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.graph.capture import trace
from dhp_sr.hyper import convert
from dhp_sr.operators import Unsupported, register_op
from dhp_sr.operators.registry import registered_specs, spec_for
from dhp_sr.operators.resize import resize
from dhp_sr.tiling import receptive_field

WITHOUT_IMAGE = {"size", "number of entries", "number", "assertion"}
"""Entries whose results are numbers, or nothing: they read no pixels."""


def specs_in(network):
    traced = trace(network, torch.rand(1, 2, 8, 8))
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    for node in traced.graph_module.graph.nodes:
        if node.op in ("call_module", "call_function", "call_method"):
            yield spec_for(node, modules[node.target] if node.op == "call_module" else None)


def test_every_entry_has_a_topology():
    covered = {spec.name for _, network in TOPOLOGIES.values() for spec in specs_in(network)}
    assert [spec.name for spec in registered_specs() if spec.name not in covered] == []


def test_every_channel_rule_has_a_receptive_field_rule():
    missing = {spec.name for spec in registered_specs() if spec.receptive_field is None}
    assert missing == WITHOUT_IMAGE


def test_names_are_unique():
    names = [spec.name for spec in registered_specs()]
    assert len(names) == len(set(names))


class ChannelGain(nn.Module):
    """The worked example of `register_op`."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.gain = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        assert x.shape[1] == self.width
        return x * self.gain[:, None, None]


def gain_channels(op):
    if op.value.dim() != 4:
        raise Unsupported(f"ChannelGain at {op.layer} expects (N, C, H, W)")
    channels = op.channels(op.source)
    op.analysis.bind_axis(f"{op.layer}.gain", 0, channels)
    return op.broadcast_along(channels)


def resize_gain(layer, old, new):
    layer.width = new["gain"][0]
    return {"gain": (layer.width,)}


def gained(*between):
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), *between, nn.Conv2d(8, 2, 3, padding=1))


def test_a_registered_operator_is_planned_cut_and_tiled(registry_restored):
    register_op(
        ChannelGain,
        channels=gain_channels,
        receptive_field=lambda op: op.field,
        resize=resize_gain,
    )
    network = gained(ChannelGain(8)).double().eval()
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    hyper = convert(network, x).eval()
    hyper.set_masks({"0": torch.arange(8) < 5})
    small = hyper.cut()
    assert small[1].width == 5 and small[1].gain.shape == (5,)
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    assert receptive_field(network, 2).halo == 2
    resize(
        small, {"0.weight": (3, 2, 3, 3), "0.bias": (3,), "1.gain": (3,), "2.weight": (2, 3, 3, 3)}
    )
    assert small[1].width == 3


def test_unsupported_pins_with_its_reason(registry_restored):
    register_op(ChannelGain, channels=gain_channels)
    network = gained(nn.Flatten(2), ChannelGain(8), nn.Unflatten(2, (8, 8)))
    network[2].forward = lambda x: x  # as if it took any rank
    groups = {group.name: group for group in make_plan(network, torch.rand(1, 2, 8, 8)).groups}
    assert not groups["0"].prunable and "ChannelGain at 2" in groups["0"].reason


@pytest.mark.parametrize("error", [AttributeError, IndexError, KeyError, RuntimeError, ValueError])
def test_a_bug_in_a_rule_propagates(registry_restored, error):
    def faulty(op):
        raise error("a bug")

    register_op(nn.ReLU, channels=faulty)
    with pytest.raises(error, match="a bug"):
        make_plan(gained(nn.ReLU()), torch.rand(1, 2, 8, 8))


def test_an_operator_without_receptive_field_is_unbounded(registry_restored):
    register_op(ChannelGain, channels=gain_channels)
    field = receptive_field(gained(ChannelGain(8)), 2)
    assert field.halo is None and "ChannelGain" in field.reason


def test_a_registration_needs_a_target():
    with pytest.raises(ValueError, match="module class"):
        register_op(channels=gain_channels)
