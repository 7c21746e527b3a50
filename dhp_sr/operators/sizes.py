"""Numbers read from shapes: which of them count channels."""

from typing import Any

import torch
from torch import Tensor

from dhp_sr.operators.analysis_context import ChannelSize
from dhp_sr.operators.context import OpContext, pinned

_PLAIN = ("dtype", "device", "requires_grad", "is_cuda", "ndim", "training", "layout")

ABOUT = (*_PLAIN, "shape")
"""Attributes that tell nothing of a tensor's values."""

_EXTREMA = ("values", "indices")
"""What `torch.max` over an axis returns."""


def attribute(op: OpContext) -> Any:
    """`x.shape`, or another attribute of a value."""
    source, name = op.node.args[:2]
    if name == "shape":
        return _sizes(op, source)
    if name in ("T", "mT", "H", "mH") and isinstance(op.ids.get(source), Tensor):
        return getattr(op.expanded(source), name)
    if name in _EXTREMA and isinstance(op.ids.get(source), list):
        return op.ids[source][_EXTREMA.index(name)]
    if name in _PLAIN or not isinstance(op.value, Tensor):
        return None
    return pinned(op, f"attribute {name} at {op.layer} has no rule")


def size(op: OpContext) -> Any:
    """`x.size()` and `x.size(dim)`."""
    dim = op.arg_value(1, "dim")
    sizes = _sizes(op, op.source)
    return sizes if dim is None or sizes is None else sizes[dim]


def count(op: OpContext) -> Any:
    """`x.numel()`: a number that depends on all channels."""
    found = [one for one in _sizes(op, op.source) or [] if one is not None]
    return ChannelSize(torch.cat([one.ids for one in found])) if found else None


def _sizes(op: OpContext, source: Any) -> list[ChannelSize | None] | None:
    ids = op.ids.get(source)
    if not isinstance(ids, Tensor):
        return None
    if (
        source.op == "get_attr"
        and op.analysis.is_tensor_of_network(str(source.target))
        and ids.numel() == 1
    ):
        return _sizes_of_weight(op, str(source.target), op.shape(source))
    return [ChannelSize(ids.flatten()) if length > 1 else None for length in ids.shape]


def _sizes_of_weight(op: OpContext, name: str, shape: tuple[int, ...]) -> list[ChannelSize | None]:
    """The first two axes of a weight hold channels, whatever layer it belongs to; those of its kernel do not."""
    layer, channels = name.rpartition(".")[0] or name, shape[:2] if len(shape) > 1 else ()
    found = [
        ChannelSize(op.analysis.new_out_channels(name, dim, size, layer)) if size > 1 else None
        for dim, size in enumerate(channels)
    ]
    return [*found, *[None] * (len(shape) - len(found))]


def arithmetic(op: OpContext) -> Any:
    """A number made of numbers."""
    found = [one.ids for one in op.sizes()]
    return ChannelSize(torch.cat(found)) if found else None


def insist(op: OpContext) -> None:
    """An assertion: the number of channels it speaks of stays."""
    for one in op.sizes():
        op.analysis.pin(one, f"the forward decides on a number of channels at {op.layer}")
