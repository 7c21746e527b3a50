"""Operators that split values into sections and join sections again: chunk, split, cat, stack.

Where the forward writes numbers of channels (`split(x, (16, 48))`), the rule records which channels
they count. Each section becomes a dependency group, so that none of them can become empty.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import (
    compact,
    couple_along,
    ids_along,
    lay_along,
    union_all,
    union_chunks,
)
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.slicing import resized_axis
from dhp_sr.operators.spatial_layout import combined, mix_axes
from dhp_sr.operators.spec import OpSpec, Shape, Unsupported, spellings


def chunk_channels(op: OpContext) -> list[Tensor]:
    """Take equal chunks, see `equal_chunks`."""
    return equal_chunks(op, op.arg_value(1, "chunks"))


def equal_chunks(op: OpContext, chunks: int) -> list[Tensor]:
    """Unite the channels at the same position of all chunks, so that they stay equally wide.

    Raises:
        Unsupported: The last chunk is smaller.
    """
    source = op.source
    dim = _split_axis(op)
    if not op.varies_along(source, dim):
        return [op.ids[source]] * len(op.value)
    channels = op.channels(source, dim)
    if len(channels) % chunks:
        raise Unsupported(f"{len(channels)} channels in {chunks} unequal chunks at {op.layer}")
    # After a cut the forward calls `chunk` again, on fewer channels: the chunks begin where they
    # should only if every one of them has lost as many. Which ones is free, but must be the same
    # in all, since a union knows no "as many as".
    rows = union_chunks(channels, chunks, op.analysis.union_find)
    rank = len(op.shape(source))
    return [lay_along(row, rank, dim) for row in rows]


def _split_axis(op: NodeContext) -> int:
    return op.arg_value(2, "dim", 0)


def split_channels(op: OpContext) -> list[Tensor]:
    """Take sections of given sizes; sizes that the forward computes are those of equal chunks."""
    source = op.source
    dim = _split_axis(op)
    # torch calls the sizes split_size, split_size_or_sections or split_sizes.
    keyword = _keyword(op, "split_size")
    given = op.argument(1, keyword)
    sizes: list[int] = []
    counted: list[ChannelRange] = []
    start = 0
    for section in op.value:
        size = section.shape[dim]
        sizes.append(size)
        counted.append(op.range_along(dim, (start, start + size)))
        start += size
    varies = op.varies_along(source, dim)
    computed = any(op.channel_sizes(given))
    if not varies:
        sections = [op.ids[source]] * len(sizes)
    elif computed and len(set(sizes)) == 1:
        # `split(x, c // 2)`: after a cut the forward comes to equal sections again.
        sections = equal_chunks(op, len(sizes))
    else:
        sections = list(torch.split(op.ids[source], sizes, dim))
        for number, section in enumerate(sections):
            op.analysis.union_find.add_split_boundary(section, f"{op.layer}[{number}]")
    # Sizes along another axis do not change, unless they are read from a number of channels.
    if varies or computed:
        op.record_size(op.arg_path(1, keyword), counted, given)
    return sections


def _keyword(op: NodeContext, prefix: str) -> str:
    """Return the first keyword that begins with `prefix`, other than input and axis."""
    for name in op.node.kwargs:
        if name.startswith(prefix) and name not in ("input", "dim"):
            return name
    return ""


def tensor_split_channels(op: OpContext) -> list[Tensor]:
    """Take equal chunks.

    Raises:
        Unsupported: Channels are split at positions, which would be others after a cut.
    """
    sections = op.arg_value(1, _keyword(op, ""))
    if isinstance(sections, int):
        return equal_chunks(op, sections)
    if op.varies_along(op.source, _split_axis(op)):
        raise Unsupported(f"channels split at written positions at {op.layer}")
    return [op.ids[op.source]] * len(op.value)


def unbind_channels(op: OpContext) -> Any:
    """Take every entry along an axis.

    Raises:
        Unsupported: The entries are channels.
    """
    dim = op.arg_value(1, "dim", 0)
    ids = op.ids[op.source]
    if op.varies_along(op.source, dim):
        if ids.numel() == ids.shape[dim]:
            raise Unsupported(f"channels taken singly at {op.layer}")
        # `q, k, v = qkv.unbind(0)` of channels viewed as (3, heads, d).
        dim %= ids.dim()
        ids = couple_along(ids, dim, op.analysis.union_find, op.layer)
    return [compact(item) for item in ids.expand(op.shape(op.source)).unbind(dim)]


def concatenate_channels(op: OpContext) -> Tensor:
    """Join channels; along another axis, unite those of all sections.

    Raises:
        Unsupported: None of the sections has an entry.
    """
    dim = _joined_axis(op)
    union_find = op.analysis.union_find
    # Of a list that begins empty, say: nothing in it is coupled with the others.
    sections = [(ids, shape) for ids, shape in _with_shapes(op, op.ids) if math.prod(shape)]
    if not sections:
        raise Unsupported(f"values without entries joined at {op.layer}")
    if any(ids.numel() > ids.shape[dim] for ids, _ in sections):
        # The channels lie along another axis, and the result has one set of them for all sections.
        rows = []
        for ids, _ in sections:
            first = ids.narrow(dim, 0, 1)
            if ids.shape[dim] > 1:
                union_find.union(ids, first.expand_as(ids))
            rows.append(first)
        return union_all(rows, union_find)
    joined = []
    for ids, shape in sections:
        joined.append(ids_along(ids, shape[dim], dim, union_find))
    return op.broadcast_along(torch.cat(joined), dim)


def _joined_axis(op: NodeContext) -> int:
    if op.node.target is torch.hstack:
        if op.value.dim() == 1:
            raise Unsupported(f"vectors joined at {op.layer}")
        return 1
    return op.arg_value(1, "dim", op.node.kwargs.get("axis", 0)) % op.value.dim()


def _with_shapes(op: NodeContext, results: dict[fx.Node, Any]) -> list[tuple[Any, Shape]]:
    """Return, for each joined value, the result of an earlier rule for it, and its shape."""
    given = op.argument(0, "tensors")
    pairs: list[tuple[Any, Shape]] = []
    if isinstance(given, fx.Node):
        # The results of one operator, such as a chunk, are joined again.
        for result, value in zip(results[given], op.values[given], strict=True):
            pairs.append((result, tuple(value.shape)))
    else:
        for node in given:
            pairs.append((results.get(node), op.shape(node)))
    return pairs


def stack_channels(op: OpContext) -> Tensor:
    """Unite the stacked values, so that they stay equally wide."""
    dim = op.arg_value(1, "dim", 0) % op.value.dim()
    stacked = []
    for ids, _ in _with_shapes(op, op.ids):
        stacked.append(ids.unsqueeze(dim))
    return union_all(stacked, op.analysis.union_find)


def sections_field(op: ReceptiveContext) -> list[ReceptiveField2D]:
    """Return the fields of sections along an axis without space."""
    dim = _split_axis(op)
    return [resized_axis(op, op.field, dim, section.shape[dim]) for section in op.value]


def unbound_field(op: ReceptiveContext) -> list[ReceptiveField2D]:
    """Return the fields of all entries along an axis without space."""
    dim = op.arg_value(1, "dim", 0)
    field = mix_axes(op, op.field, [dim])
    layout = list(field.layout)
    del layout[dim]
    return [replace(field, layout=tuple(layout))] * len(op.value)


def joined_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of values joined along an axis without space."""
    return combined(op, _with_shapes(op, op.fields), op.value.shape, joined_dim=_joined_axis(op))


def stacked_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of values stacked along a new axis."""
    dim = op.arg_value(1, "dim", 0) % op.value.dim()
    operands = []
    for field, shape in _with_shapes(op, op.fields):
        if field is not None:
            layout = (*field.layout[:dim], (), *field.layout[dim:])
            field = replace(field, layout=layout)
        operands.append((field, (*shape[:dim], 1, *shape[dim:])))
    return combined(op, operands, op.value.shape)


OPS = (
    OpSpec("chunk", spellings("chunk", torch), chunk_channels, sections_field),
    OpSpec(
        "split",
        spellings("split split_with_sizes", torch),
        channels=split_channels,
        receptive_field=sections_field,
        takes_sizes=True,
    ),
    OpSpec(
        "tensor_split",
        spellings("tensor_split", torch),
        channels=tensor_split_channels,
        receptive_field=sections_field,
    ),
    OpSpec("unbind", spellings("unbind", torch), unbind_channels, unbound_field),
    OpSpec(
        "concatenate",
        (torch.cat, torch.concat, torch.concatenate, torch.hstack),
        channels=concatenate_channels,
        receptive_field=joined_field,
    ),
    OpSpec("stack", (torch.stack,), stack_channels, stacked_field),
)
