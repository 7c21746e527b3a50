"""Operators that only move entries: the ids are moved by the very same operator.

Where the forward states a number of channels (`x.view(n, 8, h, w)`), the rule notes which channels that number counts;
see `structure/rewrite.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import ChannelRange, ChannelSize
from dhp_sr.operators.channel_ids import compact, ids_along, union_all
from dhp_sr.operators.context import OpContext, pinned
from dhp_sr.operators.layers import union_chunks


def moved(op: OpContext) -> Any:
    """Permutations, repetitions and the like, without a number that counts channels."""
    ids, static = op.expanded(op.source), op.static
    if op.module is not None:
        result = op.module(ids)
    elif op.node.op == "call_method":
        result = getattr(ids, str(op.node.target))(
            *static(op.node.args[1:]), **static(op.node.kwargs)
        )
    else:
        rest = {name: value for name, value in op.node.kwargs.items() if name != "input"}
        result = op.node.target(ids, *static(op.node.args[1:]), **static(rest))
    return (
        [compact(part) for part in result] if isinstance(result, (tuple, list)) else compact(result)
    )


def roll(op: OpContext) -> Any:
    """Entries pushed along axes, those at the end to the beginning; along the channels, the width would have a say."""
    dims = op.arg_value(2, "dims")
    if any(
        op.varies_along(op.source, dim)
        for dim in ([dims] if isinstance(dims, int) else dims or [0])
    ):
        return pinned(op, f"channels pushed along at {op.layer}")
    return op.ids[op.source] if dims else moved(op)


def reshape(op: OpContext) -> Tensor:
    """`view` and `reshape`: entries keep their order."""
    ids = _reshaped(op.ids[op.source], op.shape(op.source), tuple(op.value.shape))
    _note_sizes(op, _listed(op, 1, ("shape", "size")), 0, ids)
    return ids


def _reshaped(ids: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Reshape ids like their value; last axes that stay, and hold no channels, are left out of the work."""
    same = 0
    while (
        same < min(len(old), len(new))
        and old[-1 - same] == new[-1 - same]
        and ids.shape[-1 - same] == 1
    ):
        same += 1
    kept, size = len(old) - same, len(new) - same
    result = ids.reshape(ids.shape[:kept]).expand(old[:kept]).reshape(new[:size])
    return compact(result).reshape([*compact(result).shape, *[1] * same])


def unflatten(op: OpContext) -> Tensor:
    """One axis becomes several."""
    dim = op.arg_value(1, "dim") % len(op.shape(op.source))
    ids = _reshaped(op.ids[op.source], op.shape(op.source), tuple(op.value.shape))
    _note_sizes(op, _listed(op, 2, ("sizes",)), dim, ids)
    return ids


def expand(op: OpContext) -> Any:
    """Repetition without copies; over as many channels as another value has, the repeated entries go with those."""
    entries = _listed(op, 1, ("size",))
    ids = compact(op.expanded(op.source).expand(op.value.shape))
    for dim, (_, size) in enumerate(entries):
        counted = op.ids.get(size) if isinstance(size, fx.Node) else None
        if (
            isinstance(counted, ChannelSize)
            and ids.numel() == 1
            and len(counted.ids) == op.value.shape[dim]
        ):
            op.analysis.pin(ids, f"one value for all channels at {op.layer}")
            ids = op.broadcast_along(counted.ids, dim)
    _note_sizes(op, entries, 0, ids)
    return ids


def like_another(op: OpContext) -> Any:
    """`view_as`: both values lose the same channels."""
    other = op.argument(1, "other")
    ids = _reshaped(op.ids[op.source], op.shape(op.source), tuple(op.value.shape))
    if ids.shape != op.ids[other].shape:
        return pinned(op, f"shapes of different channels at {op.layer}")
    return union_all([ids, op.ids[other]], op.analysis.union_find)


def _listed(op: OpContext, index: int, names: Sequence[str]) -> list[tuple[ArgPath, Any]]:
    """Return place and value of every size given, as a tuple or one by one."""
    path: ArgPath = next(
        (("kwargs", name) for name in names if name in op.node.kwargs), ("args", index)
    )
    given = op.node.kwargs[path[1]] if path[0] == "kwargs" else op.node.args[index:]
    if path[0] == "kwargs" or (len(given) == 1 and isinstance(op.static(given[0]), (tuple, list))):
        given = given if path[0] == "kwargs" else given[0]
        return (
            [(path, given)]
            if isinstance(given, fx.Node)
            else [((*path, at), one) for at, one in enumerate(given)]
        )
    return [(("args", index + place), size) for place, size in enumerate(given)]


def _note_sizes(op: OpContext, entries: list[tuple[ArgPath, Any]], first: int, ids: Tensor) -> None:
    """Note the sizes that count channels, and the axes whose size the forward works out by itself."""
    for dim, (path, size) in enumerate(entries, start=first):
        if isinstance(op.static(size), (tuple, list)):
            _tie_shapes(op, size, ids)
            continue
        computed = any(op.sizes(size)) if isinstance(size, fx.Node) else size == -1
        if computed:
            op.analysis.inferred_axes.setdefault(op.node.name, set()).add(dim)
        if size == -1 or (isinstance(size, fx.Node) and not computed):
            continue
        length = op.value.shape[dim]
        op.record_size(path, ChannelRange(ids, dim, length, (0, length)), size)


def _tie_shapes(op: OpContext, shape: fx.Node, ids: Tensor) -> None:
    """`x.view(y.shape)`: both values lose the same channels."""
    for dim, size in enumerate(op.ids.get(shape) or []):
        if isinstance(size, ChannelSize) and ids.numel() == ids.shape[dim] == len(size.ids):
            op.analysis.union_find.union(ids.flatten(), size.ids)
        elif isinstance(size, ChannelSize):
            op.analysis.pin(size, f"shapes of different channels at {op.layer}")
            op.analysis.pin(ids, f"shapes of different channels at {op.layer}")


def concatenate(op: OpContext) -> Tensor:
    """Concatenation: of channels, one after the other; along another axis, tied."""
    return _joined(op, op.arg_value(1, "dim", op.node.kwargs.get("axis", 0)) % op.value.dim())


def concatenate_channels(op: OpContext) -> Any:
    """`hstack`, of values with more than one axis."""
    return _joined(op, 1) if op.value.dim() > 1 else pinned(op, f"vectors joined at {op.layer}")


def _joined(op: OpContext, dim: int) -> Tensor:
    parts = _parts(op)
    if any(size > 1 for ids, _ in parts for axis, size in enumerate(ids.shape) if axis != dim):
        rows = [_level(op, ids, dim) for ids, _ in parts]
        return union_all(rows, op.analysis.union_find)
    rows = [ids_along(ids, shape[dim], dim, op.analysis.union_find) for ids, shape in parts]
    return op.broadcast_along(torch.cat(rows), dim)


def _parts(op: OpContext) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Return ids and shape of each part, from a list of values or from another operator's list of results."""
    parts = op.argument(0, "tensors")
    if isinstance(parts, fx.Node):
        return [
            (ids, tuple(value.shape))
            for ids, value in zip(op.ids[parts], op.values[parts], strict=True)
        ]
    return [(op.ids[node], op.shape(node)) for node in parts]


def _level(op: OpContext, ids: Tensor, dim: int) -> Tensor:
    """Tie what differs along `dim`."""
    first = ids.narrow(dim, 0, 1)
    if ids.shape[dim] > 1:
        op.analysis.union_find.union(ids, first.expand_as(ids))
    return first


def stack(op: OpContext) -> Tensor:
    """A new axis: the parts are tied, so that they stay equally wide."""
    dim = op.arg_value(1, "dim", 0) % op.value.dim()
    return union_all([ids.unsqueeze(dim) for ids, _ in _parts(op)], op.analysis.union_find)


def pixel_shuffle(op: OpContext) -> Tensor:
    """Every r^2 consecutive channels become one."""
    channels = op.channels(op.source)
    rows = channels.reshape(op.value.shape[1], -1)
    op.analysis.union_find.union(rows, rows[:, :1].expand_as(rows))
    return op.broadcast_along(rows[:, 0])


def pixel_unshuffle(op: OpContext) -> Tensor:
    """Every channel becomes r^2 consecutive ones."""
    channels = op.channels(op.source)
    return op.broadcast_along(channels.repeat_interleave(op.value.shape[1] // len(channels)))


def channel_shuffle(op: OpContext) -> Tensor:
    """The channels of equal parts take turns; the parts stay equally wide."""
    groups = op.module.groups if op.module is not None else op.arg_value(1, "groups")
    return op.broadcast_along(union_chunks(op, op.channels(op.source), groups).t().flatten())
