"""Operators that rearrange entries: reshape, permute, repeat, join, shuffle.

Where the forward writes a number of channels (`x.view(n, 8, h, w)`), the rule records which channels that number
counts, so that a cut network can be given another one.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import ChannelRange, ChannelSize
from dhp_sr.operators.channel_ids import (
    compact,
    ids_along,
    union_all,
    union_blocks,
    union_chunks,
)
from dhp_sr.operators.context import NodeContext, OpContext
from dhp_sr.operators.layers import slide_windows
from dhp_sr.operators.spatial_layout import (
    Digit,
    ReceptiveContext,
    ReceptiveField2D,
    combined,
    map_image,
    mix_axes,
    normalized,
    plain_axis,
    reshaped,
)
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def rearranged(op: OpContext) -> Any:
    """Rearrange the channel ids by the very operator that rearranges the entries."""
    result = op.apply(op.ids_of_entries(op.source))
    if isinstance(result, (tuple, list)):
        return [compact(item) for item in result]
    return compact(result)


def _roll(op: OpContext) -> Any:
    """Keep the channels of entries that are pushed along other axes; along channels the width would matter."""
    dims = op.arg_value(2, "dims")
    dims = [dims] if isinstance(dims, int) else dims
    for dim in dims or [0]:
        if op.varies_along(op.source, dim):
            raise Unsupported(f"channels pushed along at {op.layer}")
    return op.ids[op.source] if dims else rearranged(op)


def _reshape(op: OpContext) -> Tensor:
    return _reshape_with_sizes(op, _written_sizes(op, 1, ("shape", "size")), first=0)


def _unflatten(op: OpContext) -> Tensor:
    dim = op.arg_value(1, "dim") % len(op.shape(op.source))
    return _reshape_with_sizes(op, _written_sizes(op, 2, ("sizes",)), first=dim)


def _reshape_with_sizes(op: OpContext, sizes: list[tuple[ArgPath, Any]], first: int) -> Tensor:
    ids = _reshaped_ids(op)
    _record_sizes(op, sizes, first, ids)
    return ids


def _reshaped_ids(op: OpContext) -> Tensor:
    """Reshape the ids of the first input like its value; entries keep their order."""
    ids, old, new = op.ids[op.source], op.shape(op.source), tuple(op.value.shape)
    # Last axes that stay, and hold no channels, are left out: ids of a whole feature map would be as large as the
    # map itself.
    same = 0
    while same < min(len(old), len(new)):
        if old[-1 - same] != new[-1 - same] or ids.shape[-1 - same] > 1:
            break
        same += 1
    kept, size = len(old) - same, len(new) - same
    result = compact(ids.reshape(ids.shape[:kept]).expand(old[:kept]).reshape(new[:size]))
    return result.reshape([*result.shape, *[1] * same])


def _expand(op: OpContext) -> Any:
    """Repeat without copies; a map expanded to another value's number of channels goes with those channels."""
    sizes = _written_sizes(op, 1, ("size",))
    ids = compact(op.ids_of_entries(op.source).expand(op.value.shape))
    for dim, (_, size) in enumerate(sizes):
        counted = op.ids.get(size) if isinstance(size, fx.Node) else None
        if not isinstance(counted, ChannelSize) or ids.numel() > 1:
            continue
        if len(counted.ids) == op.value.shape[dim]:
            op.analysis.pin(ids, f"one value for all channels at {op.layer}")
            ids = op.broadcast_along(counted.ids, dim)
    _record_sizes(op, sizes, 0, ids)
    return ids


def _view_as(op: OpContext) -> Any:
    other = op.argument(1, "other")
    ids = _reshaped_ids(op)
    if ids.shape != op.ids[other].shape:
        raise Unsupported(f"shapes of different channels at {op.layer}")
    return union_all([ids, op.ids[other]], op.analysis.union_find)


def _written_sizes(op: NodeContext, index: int, names: Sequence[str]) -> list[tuple[ArgPath, Any]]:
    """Return path and argument of every size, given as a tuple, one by one, or as a whole shape."""
    for name in names:
        if name in op.node.kwargs:
            return _listed_sizes(("kwargs", name), op.node.kwargs[name])
    given = op.node.args[index:]
    if len(given) == 1 and isinstance(op.evaluate(given[0]), (tuple, list)):
        return _listed_sizes(("args", index), given[0])
    return [(("args", index + offset), size) for offset, size in enumerate(given)]


def _listed_sizes(path: ArgPath, sizes: Any) -> list[tuple[ArgPath, Any]]:
    if isinstance(sizes, fx.Node):
        return [(path, sizes)]
    return [((*path, item), size) for item, size in enumerate(sizes)]


def _record_sizes(op: OpContext, sizes: list[tuple[ArgPath, Any]], first: int, ids: Tensor) -> None:
    """Record the sizes that count channels, and the axes whose size the forward infers by itself."""
    for dim, (path, size) in enumerate(sizes, start=first):
        if isinstance(op.evaluate(size), (tuple, list)):
            _unite_shapes(op, size, ids)
            continue
        computed = size == -1
        if isinstance(size, fx.Node):
            computed = any(op.channel_sizes(size))
        if computed:
            op.analysis.inferred_axes.setdefault(op.node.name, set()).add(dim)
        if size == -1 or (isinstance(size, fx.Node) and not computed):
            # -1 follows the cut by itself, and other computed numbers count no channels.
            continue
        length = op.value.shape[dim]
        op.record_size(path, ChannelRange(ids, dim, length, (0, length)), size)


def _unite_shapes(op: OpContext, shape: fx.Node, ids: Tensor) -> None:
    """`x.view(y.shape)`: both values lose the same channels."""
    for dim, size in enumerate(op.ids.get(shape) or []):
        if not isinstance(size, ChannelSize):
            continue
        if ids.numel() == ids.shape[dim] == len(size.ids):
            op.analysis.union_find.union(ids.flatten(), size.ids)
        else:
            op.analysis.pin(size, f"shapes of different channels at {op.layer}")
            op.analysis.pin(ids, f"shapes of different channels at {op.layer}")


def _concatenate(op: OpContext) -> Tensor:
    return _joined_ids(op, _joined_axis(op))


def _joined_axis(op: NodeContext) -> int:
    if op.node.target is torch.hstack:
        if op.value.dim() == 1:
            raise Unsupported(f"vectors joined at {op.layer}")
        return 1
    return op.arg_value(1, "dim", op.node.kwargs.get("axis", 0)) % op.value.dim()


def _joined_ids(op: OpContext, dim: int) -> Tensor:
    """Join channels one after the other; along another axis, unite those of all sections."""
    union_find = op.analysis.union_find
    sections = _joined_sections(op)
    if any(_varies_beside(ids, dim) for ids, _ in sections):
        rows = []
        for ids, _ in sections:
            first = ids.narrow(dim, 0, 1)
            if ids.shape[dim] > 1:
                union_find.union(ids, first.expand_as(ids))
            rows.append(first)
        return union_all(rows, union_find)
    joined = [ids_along(ids, shape[dim], dim, union_find) for ids, shape in sections]
    return op.broadcast_along(torch.cat(joined), dim)


def _varies_beside(ids: Tensor, dim: int) -> bool:
    return any(size > 1 for axis, size in enumerate(ids.shape) if axis != dim)


def _joined_sections(op: OpContext) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Return ids and shape of each joined value, given as a list or as the results of another operator."""
    given = op.argument(0, "tensors")
    if not isinstance(given, fx.Node):
        return [(op.ids[node], op.shape(node)) for node in given]
    shapes = [tuple(value.shape) for value in op.values[given]]
    return list(zip(op.ids[given], shapes, strict=True))


def _stack(op: OpContext) -> Tensor:
    """Unite the stacked values, so that they stay equally wide."""
    dim = op.arg_value(1, "dim", 0) % op.value.dim()
    stacked = [ids.unsqueeze(dim) for ids, _ in _joined_sections(op)]
    return union_all(stacked, op.analysis.union_find)


def _pixel_shuffle(op: OpContext) -> Tensor:
    """Turn every r^2 consecutive channels into one."""
    channels, out_channels = op.channels(op.source), op.value.shape[1]
    blocks = union_blocks(channels, out_channels, op.analysis.union_find)
    return op.broadcast_along(blocks[:, 0])


def _pixel_unshuffle(op: OpContext) -> Tensor:
    """Turn every channel into r^2 consecutive ones."""
    channels = op.channels(op.source)
    copies = op.value.shape[1] // len(channels)
    return op.broadcast_along(channels.repeat_interleave(copies))


def _channel_shuffle(op: OpContext) -> Tensor:
    """Interleave the channels of equal chunks, which stay equally wide."""
    chunks = op.option(1, "groups")
    rows = union_chunks(op.channels(op.source), chunks, op.analysis.union_find)
    return op.broadcast_along(rows.t().flatten())


def _moved_axes_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Move the axes of the layout as a permutation, squeeze or expansion moves those of the value."""
    field = op.field
    # A view of a contiguous tensor tells by its strides which axis of the source each of its axes is.
    strides: dict[int, int] = {}
    stride = 1
    for dim in reversed(range(len(field.layout))):
        size = op.shape(op.source)[dim]
        if size > 1:
            strides[stride] = dim
        stride *= size
    view = op.apply(torch.empty(op.shape(op.source), device="meta"))
    layout: list[tuple[Digit, ...]] = []
    for size, step in zip(view.shape, view.stride(), strict=True):
        is_moved = size > 1 and step > 0
        layout.append(field.layout[strides[step]] if is_moved else plain_axis(size))
    return replace(field, layout=tuple(layout))


def _flattened_field(op: ReceptiveContext) -> ReceptiveField2D:
    shape = tuple(op.value.shape)
    return reshaped(op, op.field, shape, [False] * len(shape))


def _reshaped_field(op: ReceptiveContext) -> ReceptiveField2D:
    return _field_with_sizes(op, _written_sizes(op, 1, ("shape", "size")), first=0)


def _unflattened_field(op: ReceptiveContext) -> ReceptiveField2D:
    dim = op.arg_value(1, "dim") % len(op.shape(op.source))
    return _field_with_sizes(op, _written_sizes(op, 2, ("sizes",)), first=dim)


def _field_with_sizes(
    op: ReceptiveContext, sizes: list[tuple[ArgPath, Any]], first: int
) -> ReceptiveField2D:
    shape = tuple(op.value.shape)
    written = [False] * len(shape)
    for dim, (_, size) in enumerate(sizes, start=first):
        written[dim] = isinstance(size, int) and size != -1
    return reshaped(op, op.field, shape, written)


def _repeated_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Repeat axes without space; the image itself cannot be repeated."""
    field, shape = op.field, tuple(op.value.shape)
    layout = [plain_axis(size) for size in shape]
    for back in range(-len(field.layout), 0):
        if field.holds_space(back):
            if op.shape(op.source)[back] != shape[back]:
                raise op.unbounded("repeats the image")
            layout[back] = field.layout[back]
    return replace(field, layout=tuple(layout))


def _repeat_interleaved_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Repeat every entry along one axis: along rows or columns, an enlargement by the nearest pixel."""
    repeats, dim = op.arg_value(1, "repeats"), op.arg_value(2, "dim")
    if not isinstance(repeats, int) or dim is None:
        raise op.unbounded("repeats entries a varying number of times")
    layout = list(op.field.layout)
    layout[dim] = (*layout[dim], *plain_axis(repeats))
    return normalized(op, replace(op.field, layout=tuple(layout)))


def _reversed_field(op: ReceptiveContext) -> ReceptiveField2D:
    dims = op.arg_value(1, "dims")
    for dim in [dims] if isinstance(dims, int) else dims:
        if op.field.holds_space(dim):
            raise op.unbounded("mirrors the image")
    return op.field


def _rolled_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of entries rolled along axes without space.

    Rolled along rows or columns, the last pixels of the image come first: the border of a tile would need
    pixels from the other end of the image, so no tile knows enough.
    """
    dims = op.arg_value(2, "dims")
    dims = [dims] if isinstance(dims, int) else dims
    for dim in dims or range(len(op.field.layout)):
        if op.field.holds_space(dim):
            raise op.unbounded("wraps around the image")
    return op.field


def _joined_field(op: ReceptiveContext) -> ReceptiveField2D:
    return combined(op, _joined_operands(op), op.value.shape, joined_dim=_joined_axis(op))


def _stacked_field(op: ReceptiveContext) -> ReceptiveField2D:
    dim = op.arg_value(1, "dim", 0) % op.value.dim()
    operands = []
    for field, shape in _joined_operands(op):
        if field is not None:
            layout = (*field.layout[:dim], (), *field.layout[dim:])
            field = replace(field, layout=layout)
        operands.append((field, (*shape[:dim], 1, *shape[dim:])))
    return combined(op, operands, op.value.shape)


def _joined_operands(op: ReceptiveContext) -> list[tuple[Any, tuple[int, ...]]]:
    given = op.argument(0, "tensors")
    if not isinstance(given, fx.Node):
        return [(op.fields.get(node), op.shape(node)) for node in given]
    shapes = [tuple(value.shape) for value in op.values[given]]
    return list(zip(op.fields[given], shapes, strict=True))


def _pixel_shuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    factor = op.option(1, "upscale_factor")
    return map_image(op, [(lambda i: [i // factor], Fraction(1, factor))] * 2, op.value.shape)


def _pixel_unshuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    factor = op.option(1, "downscale_factor")
    return slide_windows(op, factor, factor, 0, 1)


def _channel_shuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    return mix_axes(op, op.field, [1])


OPS = (
    OpSpec(
        "permute",
        spellings(
            "permute transpose swapaxes swapdims movedim moveaxis squeeze unsqueeze t", torch
        ),
        channels=rearranged,
        receptive_field=_moved_axes_field,
    ),
    OpSpec(
        "flatten",
        (nn.Flatten, *spellings("flatten ravel", torch)),
        channels=rearranged,
        receptive_field=_flattened_field,
    ),
    OpSpec("flip", spellings("flip", torch), rearranged, _reversed_field),
    OpSpec("repeat", spellings("repeat tile", torch), rearranged, _repeated_field),
    OpSpec(
        "repeat_interleave",
        spellings("repeat_interleave", torch),
        channels=rearranged,
        receptive_field=_repeat_interleaved_field,
    ),
    OpSpec("roll", spellings("roll", torch), _roll, _rolled_field),
    OpSpec(
        "reshape",
        (torch.reshape, "reshape", "view"),
        channels=_reshape,
        receptive_field=_reshaped_field,
        takes_sizes=True,
    ),
    OpSpec(
        "unflatten",
        spellings("unflatten", torch),
        channels=_unflatten,
        receptive_field=_unflattened_field,
        takes_sizes=True,
    ),
    OpSpec("view_as", ("view_as", "reshape_as"), _view_as, _flattened_field),
    OpSpec("expand", ("expand",), _expand, _moved_axes_field, takes_sizes=True),
    OpSpec(
        "concatenate",
        (torch.cat, torch.concat, torch.concatenate, torch.hstack),
        channels=_concatenate,
        receptive_field=_joined_field,
    ),
    OpSpec("stack", (torch.stack,), _stack, _stacked_field),
    OpSpec(
        "pixel shuffle",
        (nn.PixelShuffle, F.pixel_shuffle),
        channels=_pixel_shuffle,
        receptive_field=_pixel_shuffle_field,
    ),
    OpSpec(
        "pixel unshuffle",
        (nn.PixelUnshuffle, F.pixel_unshuffle),
        channels=_pixel_unshuffle,
        receptive_field=_pixel_unshuffle_field,
    ),
    OpSpec(
        "channel shuffle",
        (nn.ChannelShuffle, F.channel_shuffle),
        channels=_channel_shuffle,
        receptive_field=_channel_shuffle_field,
    ),
)
