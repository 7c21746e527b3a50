"""Operators that rearrange entries: permute, reshape, expand, repeat, roll, channel shuffle.

Where the forward writes a number of channels (`x.view(n, 8, h, w)`), the rule records which
channels that number counts, so that a cut network can be given another.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.channel_ids import compact, union_all, union_chunks
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import Digit, ReceptiveField2D, plain_axis
from dhp_sr.operators.signs import sign_of_first_input
from dhp_sr.operators.sizes import record_sizes, size_arguments
from dhp_sr.operators.spatial_layout import mix_axes, reshaped
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def rearranged_channels(op: OpContext) -> Any:
    """Rearrange the channel ids by the very operator that rearranges the entries."""
    result = op.apply(op.ids_of_entries(op.source))
    if isinstance(result, (tuple, list)):
        return [compact(item) for item in result]
    return compact(result)


def moved_axes_channels(op: OpContext) -> Any:
    """Move the axes of the channel ids as those of the entries."""
    ids = op.ids[op.source]
    if op.operator == "squeeze":
        # Which axes are left out is told by the lengths of the whole value.
        ids = op.ids_of_entries(op.source)
    # Else axes along which nothing differs keep length 1, and the ids stay small.
    return compact(op.apply(ids))


def flattened_channels(op: OpContext) -> Tensor:
    """Flatten the channel ids as the entries are."""
    return _reshaped_ids(op)


def roll_channels(op: OpContext) -> Any:
    """Keep the channels of entries that are rolled along other axes.

    Raises:
        Unsupported: Channels are rolled, and which channel comes where depends on the width.
    """
    # Without axes the value is rolled as if it were flattened.
    for dim in op.axes(2, "dims") or range(len(op.shape(op.source))):
        if op.varies_along(op.source, dim):
            raise Unsupported(f"channels rolled at {op.layer}")
    return op.ids[op.source]


def reshape_channels(op: OpContext) -> Tensor:
    """Reshape the channel ids, and record the sizes that count channels."""
    ids = _reshaped_ids(op)
    record_sizes(op, _shape_arguments(op), ids)
    return ids


def _shape_arguments(op: NodeContext) -> dict[int, tuple[ArgPath, Any]]:
    """Return, for each axis whose size the call gives, path and argument of the size."""
    if op.operator == "unflatten":
        first = op.arg_value(1, "dim") % len(op.shape(op.source))
        return dict(enumerate(size_arguments(op, 2, ("sizes",)), start=first))
    return dict(enumerate(size_arguments(op, 1, ("shape", "size"))))


def _num_equal(first: Iterable[int], second: Iterable[int]) -> int:
    """Count the items that two sequences have in common before they differ."""
    count = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        count += 1
    return count


def _reshaped_ids(op: OpContext) -> Tensor:
    """Reshape the ids of the first input like its value; entries keep their order.

    Ids are broadcastable, (1, C, 1, 1): only the axes between those that stay are expanded. Over a
    whole feature map they would take as much memory as the map itself.

        value                                      ids                          expanded
        (n, l, c) -> (n l, c)                      (1, 1, C) -> (1, C)          nothing
        (n, c, h, w) -> (n, c, h w)                (1, C, 1, 1) -> (1, C, 1)    nothing
        (n, c, h, w) -> (n, 2, c / 2, h, w)        (C) -> (2, C / 2)            axis 1
        (n, c, h, w) -> (n, c h w)                 (C, h, w) -> (C h w)         axes 1 to 3
    """
    ids = op.ids[op.source]
    old = op.shape(op.source)
    new = tuple(op.value.shape)
    # All channels lie along axes that stay, the last ones or the first ones.
    num_last = _num_equal(reversed(old), reversed(new))
    changed_end = len(old) - num_last
    if math.prod(ids.shape[:changed_end]) == 1:
        return compact(ids.reshape([*[1] * (len(new) - num_last), *ids.shape[changed_end:]]))
    num_first = _num_equal(old, new)
    if math.prod(ids.shape[num_first:]) == 1:
        return compact(ids.reshape([*ids.shape[:num_first], *[1] * (len(new) - num_first)]))
    # Some lie along axes that change. Those that stay are left out as far as they hold none.
    while math.prod(ids.shape[:num_first]) > 1:
        num_first -= 1
    num_last = 0
    while num_last < min(len(old), len(new)) - num_first:
        back = -1 - num_last
        if old[back] != new[back] or ids.shape[back] > 1:
            break
        num_last += 1
    old_middle = slice(num_first, len(old) - num_last)
    new_middle = slice(num_first, len(new) - num_last)
    middle = ids.reshape(ids.shape[old_middle]).expand(old[old_middle])
    result = compact(middle.reshape(new[new_middle]))
    return result.reshape([*[1] * num_first, *result.shape, *[1] * num_last])


def view_as_channels(op: OpContext) -> Any:
    """Unite the channels of both values: they lose the same ones."""
    other = op.argument(1, "other")
    ids = _reshaped_ids(op)
    if ids.shape != op.ids[other].shape:
        raise Unsupported(f"shapes of different channels at {op.layer}")
    return union_all([ids, op.ids[other]], op.analysis.union_find)


def channel_shuffle_channels(op: OpContext) -> Tensor:
    """Interleave the channels of equal chunks, which stay equally wide."""
    rows = union_chunks(op.channels(op.source), op.option(1, "groups"), op.analysis.union_find)
    return op.broadcast_along(rows.t().flatten())


def channel_shuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the unchanged field: pixels stay where they are."""
    return mix_axes(op, op.field, [1])


def moved_axes_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Move the axes of the layout as a permutation or expansion moves those of the value."""
    field = op.field
    shape = op.shape(op.source)
    # Axes of a contiguous tensor have different strides, and a view keeps them. So the strides of a
    # view tell which axis of the source each of its axes is, for any of these operators.
    axis_of_stride: dict[int, int] = {}
    stride = 1
    for dim in reversed(range(len(shape))):
        if shape[dim] > 1:
            axis_of_stride[stride] = dim
        stride *= shape[dim]
    view = op.apply(torch.empty(shape, device="meta"))
    layout: list[tuple[Digit, ...]] = []
    for size, step in zip(view.shape, view.stride(), strict=True):
        # An expanded axis has stride 0, and one of length 1 any stride at all.
        is_moved = size > 1 and step > 0
        layout.append(field.layout[axis_of_stride[step]] if is_moved else plain_axis(size))
    return replace(field, layout=tuple(layout))


def reshaped_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field after `view`, `reshape` or `unflatten`, see `reshaped`."""
    shape = tuple(op.value.shape)
    written = [False] * len(shape)
    for dim, (_, size) in _shape_arguments(op).items():
        written[dim] = isinstance(size, int) and size != -1
    return reshaped(op, op.field, shape, written)


def flattened_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field after `flatten` or `view_as`, which are given no sizes."""
    shape = tuple(op.value.shape)
    return reshaped(op, op.field, shape, [False] * len(shape))


def flipped_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a value flipped along axes without space.

    Raises:
        Unbounded: The image is mirrored: its first row is read where the last one was.
    """
    for dim in op.axes(1, "dims"):
        if op.field.holds_space(dim):
            raise op.unbounded("mirrors the image")
    return op.field


def rolled_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of entries rolled along axes without space.

    Raises:
        Unbounded: Rows or columns are rolled.
    """
    # Rolled along rows, the last rows of the image come first. Inside the image that is a plain
    # shift, but the tile at the image's top would need rows from its bottom: no halo is enough.
    for dim in op.axes(2, "dims") or range(len(op.field.layout)):
        if op.field.holds_space(dim):
            raise op.unbounded("wraps around the image")
    return op.field


_MOVES = "permute transpose swapaxes swapdims movedim moveaxis squeeze unsqueeze t"

OPS = (
    OpSpec(
        "permute",
        spellings(_MOVES, torch),
        channels=moved_axes_channels,
        receptive_field=moved_axes_field,
        sign=sign_of_first_input,
    ),
    OpSpec(
        "flatten",
        (nn.Flatten, *spellings("flatten ravel", torch)),
        channels=flattened_channels,
        receptive_field=flattened_field,
        sign=sign_of_first_input,
    ),
    OpSpec("flip", spellings("flip", torch), rearranged_channels, flipped_field),
    OpSpec("roll", spellings("roll", torch), roll_channels, rolled_field),
    OpSpec(
        "reshape",
        (torch.reshape, "reshape", "view", *spellings("unflatten", torch)),
        channels=reshape_channels,
        receptive_field=reshaped_field,
        sign=sign_of_first_input,
        takes_sizes=True,
    ),
    OpSpec("view_as", ("view_as", "reshape_as"), view_as_channels, flattened_field),
    OpSpec(
        "channel shuffle",
        (nn.ChannelShuffle, F.channel_shuffle),
        channels=channel_shuffle_channels,
        receptive_field=channel_shuffle_field,
    ),
)
