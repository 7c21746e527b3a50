"""Operators along one axis that put entries in another order: sort, topk, cumsum, gather, scatter.

Over positions each channel is sorted by itself, and stays what it is. Over channels the result
depends on all of them, or on their numbers: they are pinned.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.channel_ids import union_all
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.elementwise import with_rank
from dhp_sr.operators.kept_calls import reduce_kept_channels
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.slicing import resized_axis
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def ordered_channels(op: OpContext) -> Any:
    """Keep the channels of what is sorted or summed up along another axis.

    A median over channels is one over those that are kept.

    Raises:
        Unsupported: It is done over channels, or over all entries.
    """
    dim = _axis(op)
    ids = op.ids[op.source]
    if op.operator in ("median", "nanmedian") and dim is not None and ids.shape[dim] > 1:
        return reduce_kept_channels(op, [dim])
    if dim is None or ids.shape[dim] > 1:
        raise Unsupported(f"{op.operator} over channels at {op.layer}")
    results = op.value if isinstance(op.value, tuple) else (op.value,)
    if results[0].dim() < ids.dim():
        ids = ids.squeeze(dim)
    # Values and their indices along the axis.
    return [ids] * len(results) if isinstance(op.value, tuple) else ids


def _axis(op: NodeContext) -> int | None:
    """Return the axis that a call works along; None where it works on all entries."""
    index = {"topk": 2, "kthvalue": 2}.get(op.operator, 1)
    is_optional = op.operator not in ("median", "nanmedian")
    dim = op.arg_value(index, "dim", -1 if is_optional else None)
    rank = len(op.shape(op.source))
    return dim % rank if isinstance(dim, int) and rank else None


def picked_channels(op: OpContext) -> Tensor:
    """Keep the channels of entries that are picked, or put, along another axis by an index.

    Raises:
        Unsupported: Channels are picked, by their numbers.
    """
    index_of_dim, name = (2, "dim") if op.operator == "take_along_dim" else (1, "dim")
    dim = op.arg_value(index_of_dim, name)
    rank = len(op.shape(op.source))
    operands = [node for node in op.tensor_inputs() if len(op.shape(node)) == rank]
    if op.operator == "index_select":
        # The index is a vector of positions, with no channels of its own.
        operands = [op.source]
    ids = [with_rank(op, node, rank)[1] for node in operands]
    if not isinstance(dim, int) or any(known.shape[dim % rank] > 1 for known in ids):
        raise Unsupported(f"{op.operator} picks channels by their numbers at {op.layer}")
    for node in op.tensor_inputs():
        if node not in operands:
            op.analysis.pin(op.ids[node], f"an index of {op.operator} at {op.layer}")
    if op.operator.startswith("scatter"):
        # What is put there, a one for example, is put into masked channels as well.
        for node in (op.node, *op.overwritten()):
            op.analysis.leaves_constant[node] = True
    return union_all(ids, op.analysis.union_find)


def along_axis_field(op: ReceptiveContext) -> Any:
    """Return the field of a result whose entries along an axis may be any of them."""
    dim = _axis(op)
    if dim is None:
        raise op.unbounded("works on all entries")
    results = op.value if isinstance(op.value, tuple) else (op.value,)
    rank = len(op.field.layout)
    size = results[0].shape[dim] if results[0].dim() == rank else 1
    field = resized_axis(op, op.field, dim, size)
    if results[0].dim() < rank:
        field = replace(field, layout=(*field.layout[:dim], *field.layout[dim + 1 :]))
    return [field] * len(results) if isinstance(op.value, tuple) else field


def index_select_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of entries that a vector picks along an axis."""
    dim = op.arg_value(1, "dim") % len(op.field.layout)
    index = op.argument(2, "index")
    if isinstance(index, fx.Node) and op.fields.get(index) is not None:
        raise op.unbounded("picks entries by a tensor")
    return resized_axis(op, op.field, dim, op.value.shape[dim])


def picked_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Refuse entries that are picked by a tensor.

    Raises:
        Unbounded: Always.
    """
    raise op.unbounded("picks entries by a tensor")


OPS = (
    OpSpec(
        "sort or running sum",
        spellings(
            "sort argsort topk median nanmedian kthvalue mode cumsum cumprod cummax cummin", torch
        ),
        channels=ordered_channels,
        receptive_field=along_axis_field,
    ),
    OpSpec(
        "index_select",
        spellings("index_select", torch),
        channels=picked_channels,
        receptive_field=index_select_field,
    ),
    OpSpec(
        "gather or scatter",
        spellings(
            "gather take_along_dim scatter scatter_ scatter_add scatter_add_ scatter_reduce", torch
        ),
        channels=picked_channels,
        receptive_field=picked_field,
    ),
)
