"""What a forward writes into a value is seen by all that share its memory."""

import operator

import pytest
import torch
import torch.nn.functional as F
from topologies import Net, conv, masked
from torch import nn

from dhp_sr.graph.capture import trace
from dhp_sr.tiling import receptive_field


class Writing(Net):
    """The piece under test writes into a feature `y`, given another one."""

    def __init__(self, function):
        super().__init__(inner=conv(8, 8), fewer=conv(8, 4), same=conv(8, 8))
        self.identity = nn.Identity()
        self.norm = nn.InstanceNorm2d(8, affine=False, track_running_stats=True)
        self.function = function

    def middle(self, x):
        return self.function(self, self.inner(x), x)


def add_to_slice(net, y, x):
    v = y[:, :4]
    v += net.fewer(x)
    return y


def subtract_from_narrow(net, y, x):
    v = y.narrow(1, 0, 4)
    v -= net.fewer(x)
    return y


def multiply_chunk(net, y, x):
    first, _ = y.chunk(2, 1)
    first *= net.fewer(x)
    return y


def divide_view(net, y, x):
    v = y.view(y.shape[0], 8, -1)
    v /= 2
    return y


def square_slice(net, y, x):
    v = y[:, :4]
    v **= 2
    return y


def add_to_one_channel(net, y, x):
    v = y[:, 0]
    v += 1.0
    return y


def add_to_index(net, y, x):
    y[:, :4] += net.fewer(x)
    return y


def add_with_out(net, y, x):
    v = y[:, :4]
    torch.add(v, net.fewer(x), out=v)
    return y


def joined_with_out(net, y, x):
    torch.cat([net.fewer(x), net.fewer(x)], 1, out=y)
    return y


def multiply_select(net, y, x):
    v = y.select(1, 2)
    v *= 2
    return y


def add_to_another_name(net, y, x):
    shortcut = y
    y += net.same(x)
    y *= 2
    return y + shortcut


def add_to_identity(net, y, x):
    z = net.identity(y)
    z += net.same(x)
    return y


def add_to_group(net, y, x):
    y = y.unflatten(1, (2, 4))
    v = y[:, 0]
    v += net.fewer(x)
    return y.flatten(1, 2)


def write_a_mask(net, y, x):
    positive = y > 0
    positive &= x > 0
    return y * positive


def write_sizes(net, y, x):
    side = y.shape[2]
    side += 2
    side *= 2
    return F.interpolate(y, size=(side, side))[:, :, 2:-2, 2:-2]


WRITES = [
    *(add_to_slice, subtract_from_narrow, multiply_chunk, divide_view, square_slice),
    *(add_to_one_channel, add_to_index, add_with_out, joined_with_out, multiply_select),
    *(add_to_another_name, add_to_identity, add_to_group, write_a_mask, write_sizes),
]


def check_cut(function):
    hyper, x = masked(Writing(function), 0.5)
    with torch.no_grad():
        expected, found = hyper(x), hyper.cut()(x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("function", WRITES)
def test_the_graph_computes_what_the_network_does(function):
    torch.manual_seed(0)
    network = Writing(function).eval()
    x = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(trace(network, x).graph_module(x.clone()), network(x))


@pytest.mark.parametrize("function", WRITES)
def test_cut_equals_masked(function):
    check_cut(function)


@pytest.mark.parametrize("function", [add_to_another_name, add_to_identity, write_sizes])
def test_a_write_that_nothing_else_sees_is_plain_arithmetic(function):
    graph = trace(Writing(function).eval(), torch.rand(1, 2, 8, 8)).graph_module.graph
    targets = {node.target for node in graph.nodes}
    assert targets.isdisjoint((operator.iadd, operator.imul))


def summed_over_channels(y, z, x):
    product = y.flatten(2).transpose(1, 2) @ z.flatten(2)
    return x * product.mean((1, 2))[:, None, None, None]


def one_added(net, y, x):
    z = net.same(x)
    for v in (y[:, :4], z[:, :4]):
        v += 1
    return summed_over_channels(y, z, x)


def one_assigned(net, y, x):
    z = net.same(x)
    y[:, :4] = 1.0
    z[:, :4] = 1.0
    return summed_over_channels(y, z, x)


def gated_in_place(net, y, x):
    z = net.same(x)
    F.hardsigmoid(y, True)
    F.hardsigmoid(z, inplace=True)
    return summed_over_channels(y, z, x)


def running_mean_subtracted(net, y, x):
    return summed_over_channels(net.norm(y), net.norm(net.same(x)), x)


@pytest.mark.parametrize(
    "function", [one_added, one_assigned, gated_in_place, running_mean_subtracted]
)
def test_masked_channels_that_are_no_zeros_are_not_summed_over(function):
    check_cut(function)


def coupled_halves(net, y, x):
    first, second = y.chunk(2, 1)
    first += net.fewer(torch.cat([second, second], 1))
    second += net.fewer(torch.cat([first, first], 1))
    return torch.cat([first, second], 1)


def other_half_read(net, y, x):
    first = y[:, :4]
    first.add_(net.fewer(net.inner(x)))
    return torch.cat([first, y[:, 4:]], 1)


def whole_read_under_another_name(net, y, x):
    same = net.identity(y)
    y.add_(net.inner(net.inner(x)))
    return same


@pytest.mark.parametrize(
    ("function", "halo"),
    [(coupled_halves, 5), (other_half_read, 4), (whole_read_under_another_name, 4)],
)
def test_the_receptive_field_follows_a_write(function, halo):
    torch.manual_seed(0)
    network = Writing(function).double().eval()
    assert receptive_field(network, 2).halo == halo
    check_cut(function)
    x = torch.rand(1, 2, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x)[..., 12:20, 12:20]
        tile = network(x[..., 12 - halo : 20 + halo, 12 - halo : 20 + halo])
    assert torch.allclose(tile[..., halo:-halo, halo:-halo], whole, rtol=0, atol=1e-12)


def first_columns_added_to(net, y, x):
    v = y[..., :4]
    v.add_(net.same(x)[..., :4])
    return y


def some_rows_multiplied(net, y, x):
    v = y[:, :, 2:4]
    v *= 2
    return y


def every_other_row_assigned(net, y, x):
    v = y[:, :, ::2]
    v[:] = 0.5
    return y


def overlapping_half_read(net, y, x):
    v = y[:, :4]
    v += net.fewer(net.inner(x))
    return torch.cat([v, y[:, 3:7]], 1)


@pytest.mark.parametrize(
    "function",
    [first_columns_added_to, some_rows_multiplied, every_other_row_assigned, overlapping_half_read],
)
def test_a_write_into_a_part_that_is_read_elsewhere_has_no_bound(function):
    field = receptive_field(Writing(function), 2)
    assert field.halo is None and "writes into" in field.reason
