"""Assignment to a slice: `x[:, :4] = y`."""

import operator

from torch import Tensor, fx

from dhp_sr.operators.channel_ids import union_all
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.elementwise import with_rank
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.slicing import record_bounds
from dhp_sr.operators.spatial_layout import combined
from dhp_sr.operators.spec import OpSpec, Unsupported


def assignment_channels(op: OpContext) -> None:
    """Unite the assigned channels with those that they replace.

    Raises:
        Unsupported: The index holds something else than slices.
    """
    target, index, value = op.args
    items = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(item, slice) or item is Ellipsis for item in items):
        raise Unsupported(f"assignment to channels at {op.layer}")
    ids = op.ids[target]
    record_bounds(op, ids)
    replaced = ids.expand(op.shape(target))[op.evaluate(index)]
    if isinstance(value, fx.Node) and isinstance(op.ids.get(value), Tensor):
        _, value_ids = with_rank(op, value, replaced.dim())
        union_all([replaced, value_ids], op.analysis.union_find)


def assignment_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of x after `x[index] = value`, for an index that takes all pixels.

    Raises:
        Unbounded: Some pixels are assigned to.
    """
    target, index, value = op.args
    items = index if isinstance(index, tuple) else (index,)
    rank = len(op.shape(target))
    for dim in range(rank):
        item = items[dim] if dim < len(items) else slice(None)
        holds_space = op.fields.get(target) is None or op.fields[target].holds_space(dim)
        # The first rows of a tile are not the first rows of the image, so a tile would assign to
        # other pixels. (With an ellipsis or a tensor in the index it is not worked out which.)
        if not isinstance(item, slice) or (holds_space and item != slice(None)):
            raise op.unbounded("assigns to some of the pixels")
    operands = [(op.fields.get(target), op.shape(target))]
    if isinstance(value, fx.Node):
        operands.append((op.fields.get(value), op.shape(value)))
    return combined(op, operands, op.shape(target))


OPS = (
    OpSpec(
        "assignment to a slice",
        (operator.setitem,),
        channels=assignment_channels,
        receptive_field=assignment_field,
        takes_sizes=True,
    ),
)
