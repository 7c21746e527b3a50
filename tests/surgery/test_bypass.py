"""Blocks that are left out: what goes past them, and what the layers behind make up for."""

import copy

import pytest
import torch
from topology_base import conv
from torch import nn

from dhp_sr.graph.capture import trace
from dhp_sr.hyper import convert
from dhp_sr.surgery.bypass import find_bypass
from dhp_sr.surgery.correct import correct
from dhp_sr.utils.errors import UserError


class Block(nn.Module):
    """A linear residual block, or one with an activation."""

    def __init__(self, *, is_linear):
        super().__init__()
        self.inner, self.outer = conv(8, 8, 1), conv(8, 8, 1)
        self.act = nn.Identity() if is_linear else nn.ReLU()

    def forward(self, x):
        return x + 0.3 * self.outer(self.act(self.inner(x)))


class Blocks(nn.Module):
    def __init__(self, is_linear):
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 3)
        self.body = nn.Sequential(*(Block(is_linear=linear) for linear in is_linear))

    def forward(self, x):
        y = self.first(x)
        return self.last(self.body(y) + y)


def built(*is_linear):
    torch.manual_seed(0)
    return Blocks(is_linear).double().eval(), torch.rand(6, 3, 12, 12, dtype=torch.float64)


def corrected(network, x, left_out):
    """Return the network without blocks, corrected; its body is shorter."""
    hyper = convert(network, x[:1])
    mask = torch.ones_like(hyper.mask)
    values = dict(network.named_parameters())
    values, report = correct(network, hyper.plan, mask, values, [x], left_out=left_out)
    shorter = copy.deepcopy(network)
    shorter.load_state_dict({**network.state_dict(), **values})
    return without(shorter, left_out), report


def without(network, left_out):
    network = copy.deepcopy(network)
    body = nn.Sequential()
    for number, block in enumerate(network.body):
        if f"body.{number}" not in left_out:
            body.append(block)
    network.body = body
    return network


def test_the_layers_behind_make_up_for_linear_blocks_exactly():
    network, x = built(True, True, True)
    for block in network.body:  # at the border, zeros stand beside what a shift has moved
        for layer in (block.inner, block.outer):
            nn.init.zeros_(layer.bias)
    y = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    shorter, report = corrected(network, x, ["body.1", "body.2"])
    assert len(shorter.body) == 1
    with torch.no_grad():
        expected, found = network(y), shorter(y)
    # A ridge, not zero, is between the two.
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    # What lies before the first block that goes is left as it was.
    assert {layer.layer for layer in report.layers} == {"last"}


def test_the_correction_lowers_the_error_of_blocks_that_are_not():
    network, x = built(False, False, False)
    y = torch.rand(4, 3, 9, 9, dtype=torch.float64)
    shorter, _ = corrected(network, x, ["body.0"])
    plain = without(network, ["body.0"])
    with torch.no_grad():
        errors = [float((net(y) - network(y)).square().mean()) for net in (plain, shorter)]
    assert errors[1] < 0.5 * errors[0]


def test_a_row_of_blocks_is_passed_by_its_input():
    network, x = built(True, True, True)
    graph = trace(network, x[:1]).graph_module.graph
    bypass = find_bypass(graph, ["body.0", "body.1"])
    ((source, results),) = bypass.results.items()
    assert source.target == "first"
    assert len(results) == 2
    assert {str(node.target) for node in bypass.inside if node.op == "call_module"} == {
        *(f"body.{number}.{layer}" for number in (0, 1) for layer in ("inner", "act", "outer")),
    }


class TwoInputs(Blocks):
    def forward(self, x):
        y = self.first(x)
        return self.last(self.body[0](y) + self.body[0](y * 2))


def test_a_block_with_several_inputs_is_refused():
    network, x = TwoInputs([True]).double(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(UserError, match=r"body\.0 cannot be left out"):
        find_bypass(trace(network, x).graph_module.graph, ["body.0"])
