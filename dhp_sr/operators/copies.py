"""Operators that copy entries along an axis: expand, repeat, repeat_interleave."""

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from dhp_sr.operators.analysis_context import ChannelSize
from dhp_sr.operators.channel_ids import compact
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.rearrange import moved_axes_field, rearranged_channels
from dhp_sr.operators.receptive_field import ReceptiveField2D, plain_axis
from dhp_sr.operators.sizes import record_sizes, size_arguments
from dhp_sr.operators.spatial_layout import normalized
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def expand_channels(op: OpContext) -> Any:
    """Expand the channel ids; a map expanded to another value's width takes on its channels."""
    sizes = dict(enumerate(size_arguments(op, 1, ("size",))))
    ids = compact(op.ids_of_entries(op.source).expand(op.value.shape))
    for dim, (_, size) in sizes.items():
        counted = op.ids.get(size) if isinstance(size, fx.Node) else None
        if not isinstance(counted, ChannelSize) or ids.numel() > 1:
            continue
        # `mask.expand(n, c, h, w)` with c read from x: as many copies as x has channels. Bound to
        # the channels of x, the copies are pruned with them; the map itself has nothing to prune.
        if len(counted.ids) == op.value.shape[dim]:
            op.analysis.pin(ids, f"one value for all channels at {op.layer}")
            ids = op.broadcast_along(counted.ids, dim)
    record_sizes(op, sizes, ids)
    return ids


def repeat_channels(op: OpContext) -> Any:
    """Repeat the channel ids; a constant repeated for every channel of a value takes them on.

    Raises:
        Unsupported: Channels are repeated as many times as there are channels.
    """
    # Missing axes are new ones in front.
    counts = size_arguments(op, 1, ("repeats", "dims"))
    ids = op.ids[op.source]
    for dim, (_, count) in enumerate(counts):
        counted = op.ids.get(count) if isinstance(count, fx.Node) else None
        if not isinstance(counted, ChannelSize):
            continue
        is_constant = ids.numel() == 1 or op.source.op == "get_attr"
        if not is_constant or len(counted.ids) != op.evaluate(count):
            raise Unsupported(f"a number of channels goes into {op.operator} at {op.layer}")
        # `kernel.repeat(c, 1, 1, 1)` with c read from x: a kernel for each channel of x.
        op.analysis.pin(ids, f"one value for all channels at {op.layer}")
        length = op.value.shape[dim] // len(counted.ids)
        return op.broadcast_along(counted.ids.repeat_interleave(length), dim)
    return rearranged_channels(op)


def repeated_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a value repeated along axes without space.

    Raises:
        Unbounded: The image itself is repeated.
    """
    field = op.field
    shape = tuple(op.value.shape)
    layout = [plain_axis(size) for size in shape]
    # `repeat` may add axes in front, so they are counted from the back.
    for back in range(-len(field.layout), 0):
        if field.holds_space(back):
            if op.shape(op.source)[back] != shape[back]:
                raise op.unbounded("repeats the image")
            layout[back] = field.layout[back]
    return replace(field, layout=tuple(layout))


def repeat_interleaved_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field where every entry along an axis is repeated."""
    # Along rows or columns that is an enlargement by the nearest pixel.
    repeats = op.arg_value(1, "repeats")
    dim = op.arg_value(2, "dim")
    if not isinstance(repeats, int) or dim is None:
        raise op.unbounded("repeats entries a varying number of times")
    layout = list(op.field.layout)
    layout[dim] = (*layout[dim], *plain_axis(repeats))
    return normalized(op, replace(op.field, layout=tuple(layout)))


OPS = (
    OpSpec("expand", ("expand",), expand_channels, moved_axes_field, takes_sizes=True),
    OpSpec(
        "repeat",
        spellings("repeat tile", torch),
        channels=repeat_channels,
        receptive_field=repeated_field,
        takes_sizes=True,
    ),
    OpSpec(
        "repeat_interleave",
        spellings("repeat_interleave", torch),
        channels=rearranged_channels,
        receptive_field=repeat_interleaved_field,
    ),
)
