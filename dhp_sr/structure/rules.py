"""One small rule per operator: what it does to channels.

A rule gets a `Call` and returns the atoms of the call's result, broadcastable to it. `RULES` is the table; an operator
that is not in it pins its inputs, so nothing is pruned wrongly.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.structure.book import Call
from dhp_sr.structure.ties import along, collapse, tie_all

Rule = Callable[[Call], Any]


def pinned(call: Call, reason: str) -> Any:
    """Pin every input of a call, and its result; `reason` is shown in the plan."""
    for node in call.node.all_input_nodes:
        call.book.pin(call.atoms.get(node), reason)
    return _fresh(call, call.value, reason)


def _fresh(call: Call, value: Any, reason: str) -> Any:
    if isinstance(value, (tuple, list)):
        return [_fresh(call, item, reason) for item in value]
    if not isinstance(value, Tensor):
        return None
    atom = call.book.ties.new(1, call.layer)
    call.book.ties.pin(atom, reason)
    return atom.reshape([1] * value.dim())


def unknown(call: Call) -> Any:
    """Stand in for an operator without a rule."""
    return pinned(call, f"operator {call.operator} at {call.layer} has no rule")


def convolution(call: Call) -> Tensor:
    """Convolution: new output channels; a depthwise one hands its input's channels on."""
    module, source = call.module, call.source
    weight, incoming = f"{call.layer}.weight", call.channels(source)
    call.book.multiply(weight, math.prod(call.value.shape[2:]), "conv")
    if module.groups == 1:
        call.book.own(weight, 1, incoming)
        return _outgoing(call, call.book.produce(weight, 0, module.out_channels, call.layer))
    if module.weight.shape[1] == 1:
        repeated = incoming.repeat_interleave(module.out_channels // module.in_channels)
        return _outgoing(call, call.book.own(weight, 0, repeated))
    call.book.own(weight, 1, _tie_groups(call, incoming, module.groups)[: module.weight.shape[1]])
    produced = call.book.produce(weight, 0, module.out_channels, call.layer)
    return _outgoing(call, _tie_groups(call, produced, module.groups))


def _tie_groups(call: Call, channels: Tensor, groups: int) -> Tensor:
    """Tie the channels at the same place of every group, so that groups stay equally wide."""
    rows = channels.reshape(groups, -1)
    call.book.ties.tie(rows, rows[:1].expand_as(rows))
    return channels


def transposed_convolution(call: Call) -> Tensor:
    """Transposed convolution: its weight is (in, out, ...), and each entry meets every input position."""
    module, source = call.module, call.source
    if module.groups != 1:
        return pinned(call, f"grouped transposed convolution at {call.layer} has no rule")
    weight = f"{call.layer}.weight"
    call.book.multiply(weight, math.prod(call.shape(source)[2:]), "transposed conv")
    call.book.own(weight, 0, call.channels(source))
    return _outgoing(call, call.book.produce(weight, 1, module.out_channels, call.layer))


def linear(call: Call) -> Tensor:
    """Linear layer on the last axis."""
    weight, source = f"{call.layer}.weight", call.source
    call.book.multiply(weight, math.prod(call.value.shape[1:-1]), "linear")
    call.book.own(weight, 1, call.channels(source, dim=-1))
    return _outgoing(call, call.book.produce(weight, 0, call.module.out_features, call.layer), dim=-1)


def _outgoing(call: Call, channels: Tensor, dim: int = 1) -> Tensor:
    if call.module.bias is not None:
        call.book.own(f"{call.layer}.bias", 0, channels)
    return call.spread(channels, dim)


def per_channel(call: Call) -> Tensor:
    """A norm with statistics of its own for every channel, or a PReLU: its vectors follow their channels."""
    channels = call.channels(call.source)
    state = dict(call.module.named_parameters(recurse=False)) | dict(call.module.named_buffers(recurse=False))
    for name, tensor in state.items():
        if tensor is not None and tensor.dim() == 1 and len(tensor) == len(channels) > 1:
            call.book.own(f"{call.layer}.{name}", 0, channels)
    return call.spread(channels)


def elementwise(call: Call) -> Any:
    """One tensor in, the same channels out."""
    source = call.tensors()[0]
    return call.atoms[source]


def spatial(call: Call) -> Tensor:
    """Pooling, resizing or padding inside each channel."""
    return call.spread(call.channels(call.source))


def combine(call: Call) -> Any:
    """Sum, product and the like of broadcast tensors: equal places are tied."""
    if not isinstance(call.value, Tensor):
        return None
    aligned = []
    for node in call.tensors():
        if _broadcast_over_channels(call.shape(node), tuple(call.value.shape)):
            call.book.ties.pin(call.atoms[node], f"one value for all channels at {call.layer}")
        else:
            aligned.append(call.atoms[node])
    return tie_all(aligned, call.book.ties) if aligned else pinned(call, f"only scalars at {call.layer}")


def _broadcast_over_channels(shape: tuple[int, ...], result: tuple[int, ...]) -> bool:
    padded = (1,) * (len(result) - len(shape)) + shape
    return len(result) > 1 and padded[1] == 1 != result[1]


def divide(call: Call) -> Any:
    """Quotient: a masked divisor would be zero, so channels that divide stay."""
    divisor = call.argument(1, "other")
    if isinstance(divisor, fx.Node) and isinstance(call.atoms.get(divisor), Tensor):
        return pinned(call, f"division by channels at {call.layer}")
    return combine(call)


def concatenate(call: Call) -> Tensor:
    """Concatenation: along channels, one after the other; along another axis, tied."""
    parts, dim = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    rank = call.value.dim()
    if isinstance(parts, fx.Node):  # the list that another operator returned
        width = call.values[parts][0].shape[1]
        channels = [collapse(atoms, width, 1, call.book.ties) for atoms in call.atoms[parts]]
    else:
        channels = [call.channels(node) for node in parts]
    if dim % rank != 1:
        return tie_all([call.spread(one) for one in channels], call.book.ties)
    return call.spread(torch.cat(channels))


def chunk(call: Call) -> Any:
    """Equal parts of the channels: the same places of all parts are tied, so that the parts stay equal."""
    source, count, dim = call.source, call.argument(1, "chunks"), call.argument(2, "dim", 0)
    rank = len(call.shape(source))
    if dim % rank != 1:
        return [call.atoms[source] for _ in call.value]
    channels = call.channels(source)
    if len(channels) % count:
        return pinned(call, f"{len(channels)} channels in {count} unequal parts at {call.layer}")
    rows = channels.reshape(count, -1)
    call.book.ties.tie(rows, rows[:1].expand_as(rows))
    return [along(row, rank, 1) for row in rows]


def item(call: Call) -> Any:
    """One of several results; slices inside a tensor are left to `unknown` unless they spare the channels."""
    source, index = call.node.args
    atoms = call.atoms.get(source)
    if isinstance(atoms, list) and isinstance(index, int):
        return atoms[index]
    if atoms is None:
        return None
    keeps = isinstance(index, tuple) and len(index) > 1 and index[:2] == (slice(None), slice(None))
    if keeps and len(call.value.shape) == len(call.shape(source)):
        return call.spread(call.channels(source))
    return pinned(call, f"slicing at {call.layer} has no rule")


def pixel_shuffle(call: Call) -> Tensor:
    """Every r^2 consecutive channels become one."""
    source = call.source
    channels = call.channels(source)
    rows = channels.reshape(call.value.shape[1], -1)
    call.book.ties.tie(rows, rows[:, :1].expand_as(rows))
    return call.spread(rows[:, 0])


def pixel_unshuffle(call: Call) -> Tensor:
    """Every channel becomes r^2 consecutive ones."""
    channels = call.channels(call.source)
    return call.spread(channels.repeat_interleave(call.value.shape[1] // len(channels)))


def flatten(call: Call) -> Any:
    """(N, C, H, W) to (N, C*H*W): each channel becomes H*W consecutive features."""
    source = call.source
    if len(call.shape(source)) == 2 == call.value.dim():
        return call.atoms[source]
    start = call.module.start_dim if call.module is not None else call.argument(1, "start_dim", 0)
    if start != 1 or call.value.dim() != 2:
        return pinned(call, f"flatten at {call.layer} over other axes than channels and space")
    channels = call.channels(source)
    return call.spread(channels.repeat_interleave(call.value.shape[1] // len(channels)))


def mean(call: Call) -> Any:
    """Mean over space; over channels it pins them, since fewer channels give another mean."""
    source, dims = call.source, call.argument(1, "dim")
    rank = len(call.shape(source))
    dims = [dims] if isinstance(dims, int) else dims
    if dims is None or any(dim % rank < 2 for dim in dims):
        return pinned(call, f"{call.operator} over channels at {call.layer}")
    return call.spread(call.channels(source))


def ignore(call: Call) -> None:
    """A size or another number: no channels."""
    return None


MODULE_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed_convolution),
    nn.Linear: linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), per_channel),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU), per_channel),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh), elementwise),
    **dict.fromkeys((nn.Sigmoid, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Softplus, nn.Identity), elementwise),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d), elementwise),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample), spatial),
    **dict.fromkeys((nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d), spatial),
    nn.PixelShuffle: pixel_shuffle,
    nn.PixelUnshuffle: pixel_unshuffle,
    nn.Flatten: flatten,
}
"""Leaf modules."""

FUNCTION_RULES: dict[Any, Rule] = {
    **dict.fromkeys((operator.add, operator.sub, operator.mul, operator.iadd, operator.isub, operator.imul), combine),
    **dict.fromkeys((torch.add, torch.sub, torch.mul, "add", "sub", "mul", "add_", "sub_", "mul_"), combine),
    **dict.fromkeys((torch.maximum, torch.minimum), combine),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), divide),
    **dict.fromkeys((F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.dropout, F.hardswish), elementwise),
    **dict.fromkeys(
        (torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.abs, torch.neg, operator.neg), elementwise
    ),
    **dict.fromkeys(
        ("relu", "relu_", "sigmoid", "tanh", "clamp", "contiguous", "clone", "float", "to", "type_as"), elementwise
    ),
    **dict.fromkeys((F.interpolate, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d), spatial),
    torch.cat: concatenate,
    **dict.fromkeys((torch.chunk, "chunk"), chunk),
    operator.getitem: item,
    F.pixel_shuffle: pixel_shuffle,
    F.pixel_unshuffle: pixel_unshuffle,
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
    **dict.fromkeys((torch.mean, "mean"), mean),
    **dict.fromkeys(("size", "dim", getattr, operator.floordiv, operator.mod, operator.eq, operator.ne), ignore),
}
"""Functions, and methods of tensors by name."""


def rule_for(node: fx.Node, module: nn.Module | None) -> Rule:
    """Return the rule of a node's operator, or `unknown`."""
    if module is not None:
        return MODULE_RULES.get(type(module), unknown)
    return FUNCTION_RULES.get(node.target, unknown)
