"""Operators called in unusual ways: their rules never fail; what they do not handle is pinned, and
a cut stays exact.
"""

import pytest
import torch
import torch.nn.functional as F
from topologies import Net, conv, masked
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity

CALLS = {
    "convolution without batch axis": lambda net, y: net.inner(y[0])[None],
    "convolution by keywords": lambda net, y: F.conv2d(
        input=y, weight=net.inner.weight, bias=net.inner.bias, padding=1
    ),
    "weights fused by a convolution": lambda net, y: F.conv2d(
        y, F.conv2d(input=net.inner.weight, weight=net.inner.weight.sum((2, 3), True)), padding=1
    ),
    "linear with a single output": lambda net, y: (
        y * F.linear(y.permute(0, 2, 3, 1), net.linear.bias)[:, None]
    ),
    "pooling without batch axis": lambda net, y: F.interpolate(
        F.max_pool2d(y[0], 2)[None], scale_factor=2
    ),
    "pixel shuffle without batch axis": lambda net, y: F.avg_pool2d(
        F.pixel_shuffle(y[0], 2), 2
    ).repeat(1, 4, 1, 1),
    "pixel unshuffle without batch axis": lambda net, y: F.pixel_shuffle(
        F.pixel_unshuffle(y[0], 2)[None], 2
    ),
    "joined with nothing along space": lambda net, y: torch.cat([y[:, :, :0], y, y[:, :, :0]], 2),
    "joined with no channels": lambda net, y: torch.cat([y[:, :0], y], 1),
    "nothing joined with nothing": lambda net, y: (
        y + torch.cat([y[:, :, :0], y[:, :, :0]], 2).sum((1, 2))[:, None, None]
    ),
    "softmax over a guessed axis": lambda net, y: F.softmax(y[0])[None],
    "linear on a vector": lambda net, y: (
        y + F.linear(y.mean((0, 2, 3)), net.linear.weight)[None, :, None, None]
    ),
    "weight transposed": lambda net, y: F.linear(
        y.permute(0, 2, 3, 1), net.linear.weight.T
    ).permute(0, 3, 1, 2),
    "addmm": lambda net, y: (
        y + torch.addmm(net.linear.bias, y.mean((2, 3)), net.linear.weight.t())[..., None, None]
    ),
    "vectors multiplied": lambda net, y: y * torch.dot(y.mean((0, 2, 3)), net.linear.bias),
    "inner product": lambda net, y: y * torch.inner(net.linear.bias, y.mean((0, 2, 3))),
    "addmv": lambda net, y: (
        y + torch.addmv(net.linear.bias, net.linear.weight, y.mean((0, 2, 3)))[:, None, None]
    ),
    "products of a batch added": lambda net, y: y * torch.addbmm(y[0, 0], y[0], y[0]).mean(),
    "einsum entry by entry": lambda net, y: torch.einsum("bchw,bchw->bchw", y, y),
    "einsum by a vector": lambda net, y: torch.einsum("bchw,c->bchw", y, y.mean((0, 2, 3))),
    "einsum summed in one operand": lambda net, y: torch.einsum("bchw,bcij->bchw", y, y),
    "einsum summed over one entry": lambda net, y: torch.einsum("bchw,bchv->bcwv", y[:, :, :1], y),
    "einsum summed over one entry of one operand": lambda net, y: torch.einsum(
        "bchw,bchw->bcw", y[:, :, :1], y
    )[..., None],
    "einsum summed in one operand and in both": lambda net, y: torch.einsum(
        "bchwi,bchv->bcwv", y[..., None] * y.mean((2, 3))[..., None, None, :1], y
    ),
    "einsum over channels": lambda net, y: y * torch.einsum("bchw,bchw->bhw", y, y)[:, None],
    "einsum of an outer product": lambda net, y: (
        y * torch.einsum("bh,bw->bhw", y[:, 0, 0], y[:, 1, 0])[:, None]
    ),
    "einsum of three operands": lambda net, y: torch.einsum(
        "bchw,bchw,c->bchw", y, y, y[0, :, 0, 0]
    ),
    "einsum of three operands with a sum": lambda net, y: torch.einsum(
        "bchw,bcij,bcij->bchw", y, y.tanh(), y
    ),
    "einsum of a product over space": lambda net, y: torch.einsum(
        "bchw,bcwv,bcvu->bchu", y, y.tanh(), y
    ),
    "einsum of three operands over channels": lambda net, y: (
        y * torch.einsum("bchw,bchw,bchw->bhw", y, y.tanh(), y)[:, None]
    ),
    "unsqueezed in place": lambda net, y: (z := y.tanh(), z.unsqueeze_(1), y * z[:, 0])[2],
    "squeezed in place": lambda net, y: y * y.mean((2, 3), True).squeeze_(3).unsqueeze_(3),
    "sorted pixels": lambda net, y: y * y.flatten(2).sort(-1, descending=True)[0].view(y.shape),
    "largest pixels": lambda net, y: (
        y * y.flatten(2).topk(3, dim=2).values.mean(-1)[..., None, None]
    ),
    "median of pixels": lambda net, y: y * y.flatten(2).median(-1)[0][..., None, None],
    "median of columns": lambda net, y: y * torch.median(y, dim=3, keepdim=True).values,
    "median of all": lambda net, y: y * y.median(),
    "sorted channels": lambda net, y: y * y.sort(1)[0],
    "running sum of rows": lambda net, y: y.cumsum(2),
    "pixels chosen by an index": lambda net, y: y.index_select(3, torch.arange(7, -1, -1)),
    "channels chosen by an index": lambda net, y: y.index_select(1, torch.arange(7, -1, -1)),
    "pixels gathered": lambda net, y: torch.gather(y, 3, y.argsort(3)),
    "pixels taken by an index": lambda net, y: torch.take_along_dim(y, y.argsort(2), dim=2),
    "channels taken by an index": lambda net, y: torch.take_along_dim(y, y.argsort(1), dim=1),
    "ones put at the largest pixels": lambda net, y: (
        y + torch.zeros_like(y).scatter_(3, y.topk(2, dim=3)[1], 1.0)
    ),
    "pixels added where they belong": lambda net, y: y.scatter_add(3, y.argsort(3), y),
    "divided by a deviation": lambda net, y: y / (y.std((2, 3), keepdim=True) + 1e-6),
    "divided by a length": lambda net, y: y / (y.norm(dim=(2, 3), keepdim=True) + 1e-6),
    "relu by keyword": lambda net, y: F.relu(input=y),
    "mean over a list": lambda net, y: y * y.mean(dim=[2, 3], keepdim=True),
    "sum over all axes": lambda net, y: y * y.sum(),
    "sum over axis": lambda net, y: y * y.sum(axis=3, keepdim=True),
    "std of all": lambda net, y: y * y.std(),
    "variance by keywords": lambda net, y: y * y.var(dim=(2, 3), unbiased=False, keepdim=True),
    "norm by order": lambda net, y: y * y.norm(2, dim=3, keepdim=True),
    "linalg norm": lambda net, y: y * torch.linalg.norm(y, dim=3, keepdim=True),
    "maximum of all": lambda net, y: y * y.max(),
    "maximum with indices": lambda net, y: y * y.max(3, keepdim=True)[0],
    "maximum by name": lambda net, y: y * torch.max(y, dim=2, keepdim=True).values,
    "pooling with indices": lambda net, y: F.interpolate(
        F.max_pool2d(y, 2, return_indices=True)[0], scale_factor=2
    ),
    "split by the long keyword": lambda net, y: torch.cat(
        torch.split(y, split_size_or_sections=[3, 5], dim=1), 1
    ),
    "split over a negative axis": lambda net, y: torch.cat(y.split(4, -3), -3),
    "chunk by keywords": lambda net, y: torch.cat(torch.chunk(input=y, chunks=2, dim=1), dim=1),
    "tensor_split at positions": lambda net, y: torch.cat(torch.tensor_split(y, (3,), dim=1), 1),
    "index by a tensor": lambda net, y: y[:, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])],
    "index by a list": lambda net, y: y[:, [1, 0, 2, 3, 4, 5, 6, 7]],
    "index by a mask": lambda net, y: y[:, torch.ones(8, dtype=torch.bool)],
    "axis added and taken": lambda net, y: y[None][0],
    "axis behind": lambda net, y: y[..., None].squeeze(-1),
    "narrow from a tensor": lambda net, y: y.narrow(1, torch.tensor(0), 8),
    "power with a tensor": lambda net, y: torch.pow(y, torch.tensor(2.0)),
    "power of a number": lambda net, y: 2**y,
    "power by keyword": lambda net, y: torch.pow(y, exponent=2),
    "number minus value": lambda net, y: 1 - y,
    "number over value": lambda net, y: 1 / y.exp(),
    "logarithm of a weighted sum": lambda net, y: torch.log(
        torch.add(F.softplus(y), y.exp(), alpha=0.5)
    ),
    "logarithm between bounds": lambda net, y: torch.log(y.clamp(0.1, 10.0)),
    "logarithm of a quotient": lambda net, y: torch.log(F.softplus(y) / y.exp()),
    "rounded division": lambda net, y: torch.div(y, 2, rounding_mode="floor"),
    "clamp by tensors": lambda net, y: y.clamp(torch.tensor(0.0), torch.tensor(1.0)),
    "clamp by keyword": lambda net, y: torch.clamp(input=y, min=0),
    "layer norm of all": lambda net, y: F.layer_norm(y, y.shape[1:]),
    "functional group norm": lambda net, y: F.group_norm(y, 4),
    "batch norm without statistics": lambda net, y: F.batch_norm(y, None, None, training=True),
    "cropping by padding": lambda net, y: F.pad(y, (-1, -1, -1, -1)),
    "channels cropped by padding": lambda net, y: F.pad(y, (0, 0, 0, 0, -1, 1)),
    "shape as a tuple": lambda net, y: y.view((y.size(0), -1)).view(y.size()),
    "size by keyword": lambda net, y: y.view(y.size(dim=0), -1, 8, 8),
    "permute with separate axes": lambda net, y: y.permute(0, 1, 3, 2),
    "cast like another": lambda net, y: y.to(torch.float64).to(y.device).to(y),
    "joined with zeros": lambda net, y: torch.cat([y, torch.zeros(1, 1, 8, 8)], 1)[:, :8],
    "joined alone": lambda net, y: torch.cat([y], dim=0),
    "joined along axis": lambda net, y: torch.cat((y, y), axis=1)[:, :8],
    "stacked in front": lambda net, y: torch.stack([y, y])[0],
    "chosen with a number": lambda net, y: torch.where(y > 0, y, 0.0),
    "indices of true entries": lambda net, y: y * torch.where(y > 0)[0].numel(),
    "number of entries that are not negative": lambda net, y: y * torch.where(y >= 0)[0].numel(),
    "mean index of true entries": lambda net, y: y * torch.where(y > 0)[1].double().mean(),
    "range of channels": lambda net, y: y * torch.arange(y.shape[1])[None, :, None, None],
    "expanded by -1": lambda net, y: y * y.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8),
    "repeated by a tensor": lambda net, y: y * y[:, :4].repeat_interleave(torch.full((4,), 2), 1),
    "rolled flattened": lambda net, y: y.roll(1),
    "rolled flattened by three channels": lambda net, y: y.roll(192),
    "rolled channels": lambda net, y: y.roll(1, 1),
    "flipped channels": lambda net, y: y.flip(1),
    "one channel assigned": lambda net, y: (y.__setitem__((slice(None), 0), 0), y)[1],
    "unfolded": lambda net, y: F.fold(F.unfold(y, 3, padding=1), (8, 8), 3, padding=1),
    "width as a number": lambda net, y: y * float(y.shape[1]),
    "values of a weight": lambda net, y: y * net.inner.weight.mean((1, 2, 3)).view(1, -1, 1, 1),
}


class Called(Net):
    def __init__(self, function):
        super().__init__(inner=conv(8, 8), linear=nn.Linear(8, 8))
        self.function = function

    def middle(self, x):
        return self.function(self, self.inner(x))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")  # torch guesses an axis
@pytest.mark.parametrize("name", CALLS)
def test_cut_equals_masked(name):
    hyper, x = masked(Called(CALLS[name]), 0.5)
    small = hyper.cut()
    with torch.no_grad():
        expected, actual = hyper(x[:1]), small(x[:1])
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", CALLS)
def test_multiply_adds_are_those_that_torch_runs(name):
    network = Called(CALLS[name]).double().eval()
    hyper = convert(network, torch.rand(1, 2, 8, 8, dtype=torch.float64))
    assert hyper.dense_cost().macs == complexity(network, (1, 2, 8, 8)).macs


@pytest.mark.parametrize(
    ("arguments", "is_pinned"),
    [({}, False), ({"beta": -1}, True), ({"beta": 2, "threshold": -1}, True)],
)
def test_a_softplus_is_positive_only_with_positive_settings(arguments, is_pinned):
    for softplus in (nn.Softplus(**arguments), lambda y: F.softplus(y, **arguments)):
        network = Called(lambda net, y, softplus=softplus: torch.sqrt(softplus(y))).eval()
        plan = convert(network, torch.rand(1, 2, 8, 8)).plan
        names = {group.name for group in plan.prunable}
        assert ("inner" not in names) == is_pinned
