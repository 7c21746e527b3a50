"""Operators that take values apart: chunks, sections of given sizes, slices, gated linear units.

Where the forward writes a number of channels (`split(x, (16, 48))`, `x[:, :4]`), the rule records which channels that
number counts. Each section becomes a dependency group of its own, so that none of them can become empty.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import compact, lay_along, union_chunks
from dhp_sr.operators.context import NodeContext, OpContext
from dhp_sr.operators.rearrange import rearranged
from dhp_sr.operators.spatial_layout import (
    Digit,
    ReceptiveContext,
    ReceptiveField2D,
    mix_axes,
    plain_axis,
)
from dhp_sr.operators.spec import Activation, OpSpec, Unsupported, spellings


def _chunk(op: OpContext) -> list[Tensor]:
    return _equal_chunks(op, op.arg_value(1, "chunks"))


def _equal_chunks(op: OpContext, chunks: int) -> list[Tensor]:
    """Unite the channels at the same position of all chunks, so that the chunks stay equally wide."""
    source, dim = op.source, _split_axis(op)
    if not op.varies_along(source, dim):
        return [op.ids[source] for _ in op.value]
    channels = op.channels(source, dim)
    if len(channels) % chunks:
        raise Unsupported(f"{len(channels)} channels in {chunks} unequal parts at {op.layer}")
    rank = len(op.shape(source))
    rows = union_chunks(channels, chunks, op.analysis.union_find)
    return [lay_along(row, rank, dim) for row in rows]


def _split_axis(op: NodeContext) -> int:
    return op.arg_value(2, "dim", 0)


def _split(op: OpContext) -> list[Tensor]:
    """Take sections of given sizes; sizes that the forward computes are those of equal chunks."""
    source, dim = op.source, _split_axis(op)
    given = op.argument(1, _sizes_keyword(op))
    sizes = [section.shape[dim] for section in op.value]
    varies, computed = op.varies_along(source, dim), any(op.channel_sizes(given))
    if not varies:
        sections = [op.ids[source] for _ in sizes]
    elif computed and len(set(sizes)) == 1:
        sections = _equal_chunks(op, len(sizes))
    else:
        sections = list(torch.split(op.ids[source], sizes, dim))
        for number, section in enumerate(sections):
            op.analysis.union_find.add_split_boundary(section, f"{op.layer}[{number}]")
    if varies or computed:
        ends = list(accumulate(sizes))
        bounds = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        counted = [_range_along(op, dim, bound) for bound in bounds]
        op.record_size(op.arg_path(1, _sizes_keyword(op)), counted, given)
    return sections


def _sizes_keyword(op: NodeContext) -> str:
    """Return the keyword of the sizes: torch names it split_size, split_size_or_sections or split_sizes."""
    for name in op.node.kwargs:
        if name.startswith("split_size"):
            return name
    return ""


def _tensor_split(op: OpContext) -> list[Tensor]:
    """Take equal chunks; sections between given positions would need other positions after a cut."""
    sections = op.arg_value(1, _sections_keyword(op))
    if isinstance(sections, int):
        return _equal_chunks(op, sections)
    if op.varies_along(op.source, _split_axis(op)):
        raise Unsupported(f"channels in parts between stated places at {op.layer}")
    return [op.ids[op.source] for _ in op.value]


def _sections_keyword(op: NodeContext) -> str:
    names = [name for name in op.node.kwargs if name not in ("dim", "input")]
    return names[0] if names else ""


def _range_along(op: OpContext, dim: int, bounds: tuple[int, int]) -> ChannelRange:
    shape = op.shape(op.source)
    return ChannelRange(op.ids[op.source], dim % len(shape), shape[dim], bounds)


def _unbind(op: OpContext) -> Any:
    if op.varies_along(op.source, _unbound_axis(op)):
        raise Unsupported(f"channels taken one by one at {op.layer}")
    return rearranged(op)


def _unbound_axis(op: NodeContext) -> int:
    return op.arg_value(1, "dim", 0)


class _IndexItem(NamedTuple):
    """One item of an index, for one axis of the value."""

    dim: int
    path: ArgPath
    """Where it stands among the arguments."""
    item: Any
    """A slice or an integer, with nodes for computed numbers."""


def _get_item(op: OpContext) -> Any:
    """Take one of several results, a size, or a slice of a tensor."""
    source, index = op.node.args
    ids = op.ids.get(source)
    if isinstance(ids, list):
        return ids[op.evaluate(index)]
    if ids is None:
        return None
    for item in _index_items(op, index, ids.dim()):
        bounds = item.item
        if isinstance(bounds, slice):
            bounds = [bounds.start, bounds.stop, bounds.step]
        counts_channels = ids.shape[item.dim] > 1 or any(op.channel_sizes(bounds))
        if counts_channels and item.item != slice(None):
            _take_channels(op, ids, item)
    return compact(op.ids_of_entries(source)[op.evaluate(index)])


def _index_items(op: NodeContext, index: Any, rank: int) -> Iterator[_IndexItem]:
    """Yield the items of an index with the axes that they are for.

    Raises:
        Unsupported: an item is neither a slice nor an integer.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if not (item is None or item is Ellipsis or isinstance(item, (slice, int))):
            raise Unsupported(f"picking by a tensor or a computed place at {op.layer}")
    indexed = sum(item is not None and item is not Ellipsis for item in items)
    dim = 0
    for number, item in enumerate(items):
        if item is Ellipsis:
            dim += rank - indexed
        elif item is not None:
            path: ArgPath = ("args", 1, number) if isinstance(index, tuple) else ("args", 1)
            yield _IndexItem(dim, path, item)
            dim += 1


def _take_channels(op: OpContext, ids: Tensor, indexed: _IndexItem) -> None:
    """Record the bounds of a slice of the channels; pin a single channel that is taken."""
    dim, path, item = indexed
    size, value = op.shape(op.node.args[0])[dim], op.evaluate(item)
    varies = ids.shape[dim] > 1
    if isinstance(value, int):
        first = value % size
        if varies:
            reason = f"a single channel taken at {op.layer}"
            op.analysis.union_find.pin(ids.narrow(dim, first, 1), reason)
        op.record_size(path, ChannelRange(ids, dim, size, (0, first)), [item])
        return
    if value.step not in (None, 1):
        raise Unsupported(f"every n-th channel taken at {op.layer}")
    start, stop, _ = value.indices(size)
    if varies:
        section = ids.narrow(dim, start, max(stop - start, 0))
        op.analysis.union_find.add_split_boundary(section, op.layer)
    for name, bound in (("start", start), ("stop", stop)):
        argument = getattr(item, name)
        if argument is not None:
            # The bound counts all channels before it, so its new value is how many of those are kept.
            op.record_size((*path, name), ChannelRange(ids, dim, size, (0, bound)), [argument])


def _narrow(op: OpContext) -> Tensor:
    """Take a slice of one axis, given by start and length."""
    source, dim = op.source, op.arg_value(1, "dim")
    start, length = op.arg_value(2, "start"), op.arg_value(3, "length")
    written = [op.argument(2, "start"), op.argument(3, "length")]
    if not op.varies_along(source, dim) and not any(op.channel_sizes(written)):
        return op.ids[source]
    start %= op.shape(source)[dim]
    before, taken = (0, start), (start, start + length)
    op.record_size(op.arg_path(2, "start"), _range_along(op, dim, before), written[0])
    op.record_size(op.arg_path(3, "length"), _range_along(op, dim, taken), written[1])
    if not op.varies_along(source, dim):
        return op.ids[source]
    section = op.ids[source].narrow(dim, start, length)
    op.analysis.union_find.add_split_boundary(section, op.layer)
    return section


def _gated_linear_unit(op: OpContext) -> Tensor:
    """Multiply one half of the channels by a gate computed from the other; both halves stay equally wide."""
    dim = op.option(1, "dim", -1)
    if not op.varies_along(op.source, dim):
        return op.ids[op.source]
    halves = union_chunks(op.channels(op.source, dim), 2, op.analysis.union_find)
    return op.broadcast_along(halves[0], dim)


def resized_axis(
    op: ReceptiveContext, field: ReceptiveField2D, dim: int, size: int
) -> ReceptiveField2D:
    """Return the field of a value of which only some entries along an axis without space are taken."""
    if field.holds_space(dim):
        field = mix_axes(op, field, [dim])
    layout = list(field.layout)
    layout[dim] = plain_axis(size)
    return replace(field, layout=tuple(layout))


def _sections_field(op: ReceptiveContext) -> list[ReceptiveField2D]:
    dim = _split_axis(op)
    return [resized_axis(op, op.field, dim, section.shape[dim]) for section in op.value]


def _unbound_field(op: ReceptiveContext) -> list[ReceptiveField2D]:
    dim = _unbound_axis(op)
    field = mix_axes(op, op.field, [dim])
    layout = list(field.layout)
    del layout[dim]
    return [replace(field, layout=tuple(layout)) for _ in op.value]


def _get_item_field(op: ReceptiveContext) -> Any:
    source, index = op.node.args
    if isinstance(op.fields.get(source), list):
        return op.fields[source][op.evaluate(index)]
    field = op.field
    try:
        items = {item.dim: item.item for item in _index_items(op, index, len(field.layout))}
    except Unsupported as error:
        raise op.unbounded("picks pixels by a tensor") from error
    kept_axes = []
    for dim in range(len(field.layout)):
        item = op.evaluate(items.get(dim, slice(None)))
        if isinstance(item, int):
            field = mix_axes(op, field, [dim])
            continue
        taken = range(*item.indices(op.shape(source)[dim]))
        field = sliced(op, field, dim, taken)
        kept_axes.append(field.layout[dim])
    return replace(field, layout=tuple(_with_new_axes(index, kept_axes)))


def _with_new_axes(index: Any, kept: Sequence[tuple[Digit, ...]]) -> list[tuple[Digit, ...]]:
    """Insert the axes that `None` in an index creates."""
    items = list(index) if isinstance(index, tuple) else [index]
    kept = list(kept)
    layout: list[tuple[Digit, ...]] = []
    slices_after_ellipsis = 0
    if Ellipsis in items:
        after = items[items.index(Ellipsis) + 1 :]
        slices_after_ellipsis = sum(isinstance(item, slice) for item in after)
    for item in items:
        if item is None:
            layout.append(())
        elif item is Ellipsis:
            while len(kept) > slices_after_ellipsis:
                layout.append(kept.pop(0))
        elif isinstance(item, slice):
            layout.append(kept.pop(0))
    return [*layout, *kept]


def sliced(
    op: ReceptiveContext, field: ReceptiveField2D, dim: int, taken: range
) -> ReceptiveField2D:
    """Return the field of some entries along one axis, which may be rows or columns.

    Args:
        op: the operator.
        field: of the whole value.
        dim: the axis.
        taken: indices along it; those outside the value are padding.
    """
    if taken == range(op.shape(op.source)[dim]):
        return field
    digits = field.layout[dim]
    spatial = digits[0].spatial if digits else None
    if spatial is None or len(digits) > 1:
        return resized_axis(op, field, dim, len(taken))
    if digits[0].size != field.lengths[spatial]:
        return resized_axis(op, field, dim, len(taken))

    def reads(entry: int) -> list[int]:
        return [taken.start + taken.step * entry]

    along = op.propagated(field.along(spatial), reads, Fraction(taken.step), len(taken))
    layout = list(field.layout)
    layout[dim] = (Digit(spatial, len(taken), 1),)
    return replace(field, layout=tuple(layout)).replaced(spatial, along, len(taken))


def _narrow_field(op: ReceptiveContext) -> ReceptiveField2D:
    dim, start = op.arg_value(1, "dim"), op.arg_value(2, "start")
    if not isinstance(start, int):
        raise op.unbounded("begins at a position that a tensor holds")
    start %= op.shape(op.source)[dim]
    return sliced(op, op.field, dim, range(start, start + op.arg_value(3, "length")))


def _gated_field(op: ReceptiveContext) -> ReceptiveField2D:
    dim = op.option(1, "dim", -1)
    return resized_axis(op, op.field, dim, op.value.shape[dim])


OPS = (
    OpSpec("chunk", spellings("chunk", torch), _chunk, _sections_field),
    OpSpec(
        "split",
        spellings("split split_with_sizes", torch),
        channels=_split,
        receptive_field=_sections_field,
        takes_sizes=True,
    ),
    OpSpec("tensor_split", spellings("tensor_split", torch), _tensor_split, _sections_field),
    OpSpec("unbind", spellings("unbind", torch), _unbind, _unbound_field),
    OpSpec(
        "getitem",
        (operator.getitem,),
        channels=_get_item,
        receptive_field=_get_item_field,
        takes_sizes=True,
    ),
    OpSpec("narrow", spellings("narrow", torch), _narrow, _narrow_field, takes_sizes=True),
    OpSpec(
        "gated linear unit",
        (nn.GLU, F.glu),
        channels=_gated_linear_unit,
        receptive_field=_gated_field,
        activation=Activation.NONLINEARITY,
    ),
)
