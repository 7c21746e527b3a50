"""Operators that take values apart: chunks, parts of stated sizes, slices.

Where the forward states a number of channels (`split(x, (16, 48))`, `x[:, :4]`), the rule notes which channels that
number counts; see `structure/rewrite.py`. Each part is marked, so that none of them can become empty.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import compact, lay_along
from dhp_sr.operators.context import OpContext, pinned
from dhp_sr.operators.layers import union_chunks
from dhp_sr.operators.rearrange import moved


def chunk(op: OpContext) -> Any:
    """Equal parts of the channels: the same places of all parts are tied, so that the parts stay equal."""
    return _equal_parts(op, op.arg_value(1, "chunks"))


def _equal_parts(op: OpContext, parts: int) -> Any:
    source, dim = op.source, op.arg_value(2, "dim", 0)
    if not op.varies_along(source, dim):
        return [op.ids[source] for _ in op.value]
    channels = op.channels(source, dim)
    if len(channels) % parts:
        return pinned(op, f"{len(channels)} channels in {parts} unequal parts at {op.layer}")
    return [lay_along(row, len(op.shape(source)), dim) for row in union_chunks(op, channels, parts)]


def split(op: OpContext) -> Any:
    """Parts of stated sizes; sizes that the forward works out itself are those of equal parts."""
    source, dim = op.source, op.arg_value(2, "dim", 0)
    name = next((name for name in op.node.kwargs if name.startswith("split_size")), "")
    given, sizes, varies = (
        op.argument(1, name),
        [part.shape[dim] for part in op.value],
        op.varies_along(source, dim),
    )
    computed = any(op.sizes(given))
    if varies and computed and len(set(sizes)) == 1:
        rows = union_chunks(op, op.channels(source, dim), len(sizes))
        parts = [lay_along(row, len(op.shape(source)), dim) for row in rows]
    else:
        parts = (
            list(torch.split(op.ids[source], sizes, dim))
            if varies
            else [op.ids[source] for _ in sizes]
        )
        for place, part in enumerate(parts if varies else []):
            op.analysis.union_find.add_split_boundary(part, f"{op.layer}[{place}]")
    if varies or computed:
        ends = list(accumulate(sizes))
        bounds = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        op.record_size(op.arg_path(1, name), [_count(op, dim, one) for one in bounds], given)
    return parts


def tensor_split(op: OpContext) -> Any:
    """A number of parts, as `chunk` makes them; the places of others, if they lie among the channels, are not moved."""
    name = next((name for name in op.node.kwargs if name not in ("dim", "input")), "")
    stated = op.arg_value(1, name)
    if isinstance(stated, int):
        return _equal_parts(op, stated)
    if op.varies_along(op.source, op.arg_value(2, "dim", 0)):
        return pinned(op, f"channels in parts between stated places at {op.layer}")
    return [op.ids[op.source] for _ in op.value]


def _count(op: OpContext, dim: int, bounds: tuple[int, int]) -> ChannelRange:
    shape = op.shape(op.source)
    return ChannelRange(op.ids[op.source], dim % len(shape), shape[dim], bounds)


def unbind(op: OpContext) -> Any:
    """One part for every entry along an axis."""
    if op.varies_along(op.source, op.arg_value(1, "dim", 0)):
        return pinned(op, f"channels taken one by one at {op.layer}")
    return moved(op)


def item(op: OpContext) -> Any:
    """One of several results, a size, or a part of a tensor."""
    source, index = op.node.args
    ids = op.ids.get(source)
    if isinstance(ids, list):
        return ids[op.static(index)]
    if ids is None:
        return None
    places = list(index) if isinstance(index, tuple) else [index]
    if not all(one is None or one is Ellipsis or isinstance(one, (slice, int)) for one in places):
        return pinned(op, f"picking by a tensor or a computed place at {op.layer}")
    for dim, path, one in _axes(places, isinstance(index, tuple), ids.dim()):
        counts = ids.shape[dim] > 1 or any(op.sizes(_bounds(one)))
        if counts and one != slice(None) and not _note_part(op, ids, dim, path, one):
            return pinned(op, f"every n-th channel taken at {op.layer}")
    return compact(op.expanded(source)[op.static(index)])


def _bounds(one: Any) -> list[Any]:
    return [one.start, one.stop, one.step] if isinstance(one, slice) else [one]


def _axes(places: list[Any], many: bool, rank: int) -> Iterator[tuple[int, ArgPath, Any]]:
    """Yield the axis that each part of an index is for."""
    indexed = sum(one is not None and one is not Ellipsis for one in places)
    dim = 0
    for place, one in enumerate(places):
        if one is Ellipsis:
            dim += rank - indexed
        elif one is not None:
            yield dim, ("args", 1, place) if many else ("args", 1), one
            dim += 1


def _note_part(op: OpContext, ids: Tensor, dim: int, path: ArgPath, one: Any) -> bool:
    """Note the bounds of a part of the channels; returns False for one with steps."""
    size, stated, varies = (
        op.shape(op.node.args[0])[dim],
        op.static(one),
        ids.shape[dim] > 1,
    )
    if isinstance(stated, int):
        first = stated % size
        if varies:
            op.analysis.union_find.pin(
                ids.narrow(dim, first, 1), f"a single channel taken at {op.layer}"
            )
        op.record_size(path, ChannelRange(ids, dim, size, (0, first)), [one])
        return True
    if stated.step not in (None, 1):
        return False
    start, stop, _ = stated.indices(size)
    if varies:
        op.analysis.union_find.add_split_boundary(
            ids.narrow(dim, start, max(stop - start, 0)), op.layer
        )
    for name, bound in (("start", start), ("stop", stop)):
        if getattr(one, name) is not None:
            op.record_size(
                (*path, name), ChannelRange(ids, dim, size, (0, bound)), [getattr(one, name)]
            )
    return True


def narrow(op: OpContext) -> Any:
    """A part of one axis, by start and length."""
    source, dim, start, length = (
        op.source,
        *(op.arg_value(*one) for one in ((1, "dim"), (2, "start"), (3, "length"))),
    )
    ids, stated = op.ids[source], [op.argument(2, "start"), op.argument(3, "length")]
    if not op.varies_along(source, dim) and not any(op.sizes(stated)):
        return ids
    start %= op.shape(source)[dim]
    op.record_size(op.arg_path(2, "start"), _count(op, dim, (0, start)), stated[0])
    op.record_size(op.arg_path(3, "length"), _count(op, dim, (start, start + length)), stated[1])
    if not op.varies_along(source, dim):
        return ids
    part = ids.narrow(dim, start, length)
    op.analysis.union_find.add_split_boundary(part, op.layer)
    return part


def halves(op: OpContext) -> Any:
    """Gated linear unit: one half of the channels times a function of the other."""
    dim = op.module.dim if op.module is not None else op.arg_value(1, "dim", -1)
    if not op.varies_along(op.source, dim):
        return op.ids[op.source]
    return op.broadcast_along(union_chunks(op, op.channels(op.source, dim), 2)[0], dim)
