"""Sizes and other numbers of a value: which of them count channels.

A forward reads numbers of channels (`x.shape[1]`, `x.numel()`), computes with them, and gives them
to operators as sizes (`x.view(n, 8, h, w)`). Those that a cut network needs as other numbers are
recorded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.graph.capture import ArgPath
from dhp_sr.graph.checks import is_check
from dhp_sr.operators.analysis_context import ChannelRange, ChannelSize
from dhp_sr.operators.channel_ids import compact
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.spec import OpSpec, Unsupported

_TYPE_ATTRIBUTES = ("dtype", "device", "requires_grad", "is_cuda", "ndim", "training", "layout")

VALUE_FREE_ATTRIBUTES = (*_TYPE_ATTRIBUTES, "shape")
"""Attributes that do not depend on a tensor's values."""

_EXTREMA = ("values", "indices")
"""Results of `torch.max` over an axis."""

_TRANSPOSED = ("T", "mT", "H", "mH")


def attribute_channels(op: OpContext) -> Any:
    """`x.shape`, or another attribute of a value."""
    source, name = op.args[:2]
    ids = op.ids.get(source)
    if name == "shape":
        return _sizes(op, source)
    if name in ("data", "real", "imag"):
        return ids
    if name in _TRANSPOSED and isinstance(ids, Tensor):
        return compact(getattr(op.ids_of_entries(source), name))
    if name in _EXTREMA and isinstance(ids, list):
        return ids[_EXTREMA.index(name)]
    if name in _TYPE_ATTRIBUTES or not isinstance(op.value, Tensor):
        return None
    raise Unsupported(f"attribute {name} at {op.layer} has no rule")


def size_channels(op: OpContext) -> Any:
    """`x.size()` and `x.size(dim)`."""
    dim = op.arg_value(1, "dim")
    sizes = _sizes(op, op.source)
    if dim is None or sizes is None:
        return sizes
    return sizes[dim]


def entry_count_channels(op: OpContext) -> ChannelSize | None:
    """`x.numel()`, which depends on all channels."""
    return _all_counted(_sizes(op, op.source) or [])


def _sizes(op: OpContext, source: Any) -> list[ChannelSize | None] | None:
    """Return, for each axis of a value, the channels that its length counts, or None.

    Of ids (1, C, 1, 1): None, all C, None, None.
    """
    ids = op.ids.get(source)
    if not isinstance(ids, Tensor):
        return None
    # A weight whose axes are not bound yet (a layer further on will bind them) is described by a
    # single pinned id, but its shape counts channels all the same.
    is_weight = source.op == "get_attr" and op.analysis.is_tensor_of_network(str(source.target))
    if is_weight and ids.numel() == 1:
        return _sizes_of_weight(op, str(source.target), op.shape(source))
    counted = ChannelSize(ids.flatten())
    return [counted if length > 1 else None for length in ids.shape]


def _sizes_of_weight(op: OpContext, name: str, shape: tuple[int, ...]) -> list[ChannelSize | None]:
    """Return the channels counted by the shape of a weight, whatever layer it belongs to.

    Its first two axes hold channels, those of its kernel do not.
    """
    layer = name.rpartition(".")[0] or name
    sizes: list[ChannelSize | None] = [None] * len(shape)
    # A vector may be anything.
    channel_axes = shape[:2] if len(shape) > 1 else ()
    for dim, size in enumerate(channel_axes):
        if size > 1:
            sizes[dim] = ChannelSize(op.analysis.new_out_channels(name, dim, size, layer))
    return sizes


def arithmetic_channels(op: OpContext) -> ChannelSize | None:
    """Return the channels that a number computed from other numbers depends on."""
    # Of `h * c // 2` it is unknown how it follows c, only that it does. Where such a number becomes
    # a size, the rule of that operator records which channels the size counts.
    return _all_counted(op.channel_sizes())


def _all_counted(sizes: Iterable[ChannelSize | None]) -> ChannelSize | None:
    """Return all channels that some numbers count together; None if they count none."""
    counted = [size.ids for size in sizes if size is not None]
    if not counted:
        return None
    return ChannelSize(torch.cat(counted))


def assertion_channels(op: OpContext) -> None:
    """Pin the channels whose number decided a branch; a cut network does without a check of it."""
    sizes = list(op.channel_sizes())
    if is_check(op.node):
        if sizes:
            op.analysis.checks[op.node.name] = torch.cat([size.ids.flatten() for size in sizes])
        return
    for size in sizes:
        op.analysis.pin(size, f"the forward decides on a number of channels at {op.layer}")


def no_channels(op: OpContext) -> None:
    """Return nothing for a number that counts no channels, or a question about types."""
    return None


def size_arguments(op: NodeContext, index: int, names: Sequence[str]) -> list[tuple[ArgPath, Any]]:
    """Return path and argument of every size, given as a tuple, singly, or as a whole shape."""
    for name in names:
        if name in op.node.kwargs:
            return _listed_sizes(("kwargs", name), op.node.kwargs[name])
    given = op.node.args[index:]
    if len(given) == 1 and isinstance(op.evaluate(given[0]), (tuple, list)):
        return _listed_sizes(("args", index), given[0])
    sizes: list[tuple[ArgPath, Any]] = []
    for offset, size in enumerate(given):
        sizes.append((("args", index + offset), size))
    return sizes


def _listed_sizes(path: ArgPath, sizes: Any) -> list[tuple[ArgPath, Any]]:
    if isinstance(sizes, fx.Node):
        return [(path, sizes)]
    return [((*path, item), size) for item, size in enumerate(sizes)]


def record_sizes(op: OpContext, sizes: dict[int, tuple[ArgPath, Any]], ids: Tensor) -> None:
    """Record the sizes that count channels, and the axes whose size the forward infers."""
    for dim, (path, size) in sizes.items():
        is_node = isinstance(size, fx.Node)
        if isinstance(op.evaluate(size), (tuple, list)):
            _unite_with_shape(op, size, ids)  # `x.view(y.shape)`
            continue
        is_from_channels = is_node and any(op.channel_sizes(size))
        if size == -1 or is_from_channels:
            op.analysis.inferred_axes.setdefault(op.node.name, set()).add(dim)
        # Not recorded, as a cut changes neither: -1, and a number that is computed from the batch
        # or the image for an axis without channels. All others are:
        #   8        written
        #   c // 2   computed from channels, but after a cut maybe not as many as are left here
        #   h * d    computed without any, though channels lie along the axis: heads may be pruned
        is_from_image = is_node and not is_from_channels and ids.shape[dim] == 1
        if size == -1 or is_from_image:
            continue
        length = op.value.shape[dim]
        op.record_size(path, ChannelRange(ids, dim, length, (0, length)), size)


def _unite_with_shape(op: OpContext, shape: fx.Node, ids: Tensor) -> None:
    """Unite the channels of a value with those that its given shape counts: `x.view(y.shape)`."""
    for dim, size in enumerate(op.ids.get(shape) or []):
        if not isinstance(size, ChannelSize):
            continue
        if ids.numel() == ids.shape[dim] == len(size.ids):
            op.analysis.union_find.union(ids.flatten(), size.ids)
        else:
            reason = f"shapes of different channels at {op.layer}"
            op.analysis.pin(size, reason)
            op.analysis.pin(ids, reason)


def attribute_field(op: ReceptiveContext) -> Any:
    """Return the field of a transposed value, or of a named result of `torch.max`."""
    source, name = op.args[:2]
    field = op.fields[source]
    if name in _EXTREMA and isinstance(field, list):
        return field[_EXTREMA.index(name)]
    if name in _TRANSPOSED and isinstance(field, ReceptiveField2D):
        # T reverses all axes, mT the last two; of a matrix, which is all that T is for, both agree.
        layout = list(field.layout)
        if name in ("mT", "mH"):
            layout[-2:] = reversed(layout[-2:])
        else:
            layout.reverse()
        return replace(field, layout=tuple(layout))
    raise op.unbounded("may look at the whole image")


OPS = (
    OpSpec("attribute", (getattr,), attribute_channels, attribute_field),
    OpSpec("size", ("size",), size_channels, value_inputs=0),
    OpSpec("number of entries", ("numel",), entry_count_channels, value_inputs=0),
    OpSpec("number", ("get_device", "is_floating_point", math.prod), no_channels),
    OpSpec(
        "assertion",
        (torch._assert, "torch.fx._symbolic_trace._assert_is_none"),
        channels=assertion_channels,
        takes_sizes=True,
    ),
)
