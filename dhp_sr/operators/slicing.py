"""Operators that take a slice of a value: indexing, narrow, gated linear units.

Where the forward writes a number of channels (`x[:, :4]`), the rule records which channels that
number counts. Each slice becomes a dependency group, so that it cannot become empty. For 16
channels:

    x[:, 4:12]    start counts channels 0 to 3, stop counts 0 to 11; after a cut x[:, 2:7], say
    x[:, 4]       the number counts channels 0 to 3; channel 4 is pinned
    x[:, ::2]     unsupported: which channels these are depends on all that are pruned before them
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import ChannelRange, Sign
from dhp_sr.operators.channel_ids import compact, couple_along, union_chunks
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import Digit, ReceptiveField2D, plain_axis
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import Activation, OpSpec, Unsupported, spellings


class _AxisIndex(NamedTuple):
    """What an index says about one axis of the value: in `x[:, 4:]`, `4:` for axis 1."""

    dim: int
    path: ArgPath
    """Path to it among the arguments."""
    index: Any
    """A slice or an integer, with nodes for computed numbers."""


def getitem_channels(op: OpContext) -> Any:
    """Take one of several results, a size, or a slice of a tensor."""
    source, index = op.args
    ids = op.ids.get(source)
    if isinstance(ids, list):
        return ids[op.evaluate(index)]
    if ids is None:
        return None
    ids = record_bounds(op, ids)
    return compact(ids.expand(op.shape(source))[op.evaluate(index)])


def sign_of_item(op: OpContext) -> Sign:
    """Return the sign of a slice, that of the whole; or of the variance of `var_mean`."""
    source, index = op.args
    if isinstance(op.values[source], Tensor):
        return op.sign(source)
    is_variance = source.target in (torch.var_mean, torch.std_mean) and index == 0
    return Sign.NONNEGATIVE if is_variance else Sign.ANY


def record_bounds(op: OpContext, ids: Tensor) -> Tensor:
    """Record the numbers of channels in an index, the second argument of a call.

    Args:
        op: The call.
        ids: Ids of the value that is indexed.

    Returns:
        These ids, united along axes of which a single entry is taken.

    Raises:
        Unsupported: The index has something else than slices and written integers.
    """
    for axis_index in _axis_indices(op, op.args[1], ids.dim()):
        dim, _, index = axis_index
        numbers = index
        if isinstance(index, slice):
            numbers = [index.start, index.stop, index.step]
        varies = ids.shape[dim] > 1
        if varies and isinstance(index, int) and ids.numel() > ids.shape[dim]:
            # `qkv[0]` of channels viewed as (3, heads, d): the channels lie along another axis.
            ids = couple_along(ids, dim, op.analysis.union_find, op.layer)
            varies = False
        # Also along an axis without channels, a bound may be computed from a number of channels.
        counts_channels = varies or any(op.channel_sizes(numbers))
        if counts_channels and index != slice(None):
            _take_channels(op, ids, axis_index)
    return ids


def _axis_indices(op: NodeContext, index: Any, rank: int) -> Iterator[_AxisIndex]:
    """Yield the items of an index with the axes that they are for.

    Raises:
        Unsupported: An item is neither a slice nor a written integer.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    for item in items:
        if not (item is None or item is Ellipsis or isinstance(item, (slice, int))):
            raise Unsupported(f"indexing by a tensor or a computed number at {op.layer}")
    indexed = sum(item is not None and item is not Ellipsis for item in items)
    dim = 0
    for number, item in enumerate(items):
        if item is Ellipsis:
            dim += rank - indexed
        elif item is not None:
            path: ArgPath = ("args", 1, number) if isinstance(index, tuple) else ("args", 1)
            yield _AxisIndex(dim, path, item)
            dim += 1


def _take_channels(op: OpContext, ids: Tensor, axis_index: _AxisIndex) -> None:
    """Record the bounds of a slice of the channels; pin a single channel that is taken."""
    dim, path, index = axis_index
    size = op.shape(op.args[0])[dim]
    value = op.evaluate(index)
    varies = ids.shape[dim] > 1
    if isinstance(value, int):
        position = value % size
        if varies:
            # Another channel would come to this position if it were pruned.
            reason = f"a single channel taken at {op.layer}"
            op.analysis.union_find.pin(ids.narrow(dim, position, 1), reason)
        # Its position is the number of channels before it.
        op.record_size(path, ChannelRange(ids, dim, size, (0, position)), [index])
        return
    if value.step not in (None, 1):
        raise Unsupported(f"every n-th channel taken at {op.layer}")
    start, stop, _ = value.indices(size)
    if varies:
        section = ids.narrow(dim, start, max(stop - start, 0))
        op.analysis.union_find.add_split_boundary(section, op.layer)
    for name, bound in (("start", start), ("stop", stop)):
        argument = getattr(index, name)
        if argument is not None:
            # A bound is the number of all channels before it, kept ones after a cut. Negative
            # bounds are recorded as counted from the front; the rewritten forward states them so.
            counted = ChannelRange(ids, dim, size, (0, bound))
            op.record_size((*path, name), counted, [argument])


def narrow_channels(op: OpContext) -> Tensor:
    """Take a slice of an axis, given by start and length."""
    source = op.source
    dim = op.arg_value(1, "dim")
    start_argument, length_argument = op.argument(2, "start"), op.argument(3, "length")
    varies = op.varies_along(source, dim)
    if not varies and not any(op.channel_sizes([start_argument, length_argument])):
        return op.ids[source]
    start = op.evaluate(start_argument)
    length = op.evaluate(length_argument)
    if not isinstance(start, int):
        raise Unsupported(f"indexing by a tensor or a computed number at {op.layer}")
    start %= op.shape(source)[dim]
    before = op.range_along(dim, (0, start))
    op.record_size(op.arg_path(2, "start"), before, start_argument)
    taken = op.range_along(dim, (start, start + length))
    op.record_size(op.arg_path(3, "length"), taken, length_argument)
    if not varies:
        return op.ids[source]
    section = op.ids[source].narrow(dim, start, length)
    op.analysis.union_find.add_split_boundary(section, op.layer)
    return section


def glu_channels(op: OpContext) -> Tensor:
    """Multiply a half of the channels by a gate computed from the other; both stay equally wide."""
    dim = op.option(1, "dim", -1)
    if not op.varies_along(op.source, dim):
        return op.ids[op.source]
    halves = union_chunks(op.channels(op.source, dim), 2, op.analysis.union_find)
    return op.broadcast_along(halves[0], dim)


def getitem_field(op: ReceptiveContext) -> Any:
    """Return the field of a single result out of several, or of a slice of a tensor."""
    source, index = op.args
    if isinstance(op.fields.get(source), list):
        return op.fields[source][op.evaluate(index)]
    field = op.field
    try:
        index_of_axis = {
            axis.dim: axis.index for axis in _axis_indices(op, index, len(field.layout))
        }
    except Unsupported as error:
        raise op.unbounded("picks pixels by a tensor") from error
    kept_axes = []
    for dim in range(len(field.layout)):
        item = op.evaluate(index_of_axis.get(dim, slice(None)))
        if isinstance(item, int):
            field = mix_axes(op, field, [dim])
            continue
        taken = range(*item.indices(op.shape(source)[dim]))
        field = sliced(op, field, dim, taken)
        kept_axes.append(dim)
    # Only now: a later item may have changed digits on an axis that was visited before.
    layout = [field.layout[dim] for dim in kept_axes]
    return replace(field, layout=tuple(_with_new_axes(index, layout)))


def _with_new_axes(index: Any, kept: Sequence[tuple[Digit, ...]]) -> list[tuple[Digit, ...]]:
    """Insert the axes that `None` in an index creates."""
    items = list(index) if isinstance(index, tuple) else [index]
    remaining = list(kept)
    behind_ellipsis = 0
    if Ellipsis in items:
        behind = items[items.index(Ellipsis) + 1 :]
        behind_ellipsis = sum(isinstance(item, slice) for item in behind)
    layout: list[tuple[Digit, ...]] = []
    for item in items:
        if item is None:
            layout.append(())
        elif item is Ellipsis:
            while len(remaining) > behind_ellipsis:
                layout.append(remaining.pop(0))
        elif isinstance(item, slice):
            layout.append(remaining.pop(0))
    return [*layout, *remaining]


def resized_axis(
    op: ReceptiveContext, field: ReceptiveField2D, dim: int, size: int
) -> ReceptiveField2D:
    """Return the field where only some entries along an axis without space are taken."""
    if field.holds_space(dim):
        # A low digit of the row number (one of the phases of a pixel shuffle): the union over all
        # of its values is an upper bound of what the taken ones read.
        field = mix_axes(op, field, [dim])
    layout = list(field.layout)
    layout[dim] = plain_axis(size)
    return replace(field, layout=tuple(layout))


def sliced(
    op: ReceptiveContext, field: ReceptiveField2D, dim: int, taken: range
) -> ReceptiveField2D:
    """Return the field of some entries along an axis, which may be rows or columns.

    Args:
        op: The operator.
        field: Field of the whole value.
        dim: The axis.
        taken: Indices along it; those outside the value are padding.
    """
    if taken == range(op.shape(op.source)[dim]):
        return field
    digits = field.layout[dim]
    spatial = digits[0].spatial if digits else None
    if spatial is None or digits != (Digit(spatial, field.lengths[spatial], 1),):
        return resized_axis(op, field, dim, len(taken))

    def reads(entry: int) -> list[int]:
        return [taken.start + taken.step * entry]

    along = op.propagated(field.along(spatial), reads, Fraction(taken.step), len(taken))
    layout = list(field.layout)
    layout[dim] = (Digit(spatial, len(taken), 1),)
    return replace(field, layout=tuple(layout)).replaced(spatial, along, len(taken))


def narrow_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a slice given by start and length."""
    dim, start = op.arg_value(1, "dim"), op.arg_value(2, "start")
    if not isinstance(start, int):
        raise op.unbounded("begins at a position that a tensor holds")
    start %= op.shape(op.source)[dim]
    return sliced(op, op.field, dim, range(start, start + op.arg_value(3, "length")))


def glu_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a gated linear unit."""
    dim = op.option(1, "dim", -1)
    return resized_axis(op, op.field, dim, op.value.shape[dim])


OPS = (
    OpSpec(
        "getitem",
        (operator.getitem,),
        channels=getitem_channels,
        receptive_field=getitem_field,
        sign=sign_of_item,
        takes_sizes=True,
    ),
    OpSpec(
        "narrow",
        spellings("narrow", torch),
        channels=narrow_channels,
        receptive_field=narrow_field,
        takes_sizes=True,
    ),
    OpSpec(
        "gated linear unit",
        (nn.GLU, F.glu),
        channels=glu_channels,
        receptive_field=glu_field,
        activation=Activation.NONLINEARITY,
    ),
)
