"""Tensors that a forward makes: zeros to write into, a first state of a recurrence, noise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.analysis_context import ChannelSize
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.sizes import record_sizes, size_arguments
from dhp_sr.operators.spec import OpSpec, Unsupported

_Sizes = Mapping[int, tuple[Any, Any]]
"""Axis -> path and argument of its size."""


def filled_tensor_channels(op: OpContext) -> Tensor:
    """Give a tensor of a single value the channels that are written into it, or added to it.

    As all of its entries are equal, it has as many channels as are needed: those of a value whose
    width it was made with, or new ones.
    """
    is_method = isinstance(op.node.target, str)
    sizes = dict(enumerate(size_arguments(op, int(is_method), ("size",))))
    union_find = op.analysis.union_find
    shape = tuple(op.value.shape)
    dim = _channel_axis(op, sizes)
    if dim is None:
        ids = union_find.new_ids(1, op.layer)
        union_find.pin(ids, f"a tensor that the forward makes at {op.layer}")
        return ids.reshape([1] * len(shape))
    counted = _counted_along(op, sizes, dim)
    if counted is not None and len(counted.ids) == shape[dim]:
        channels = counted.ids
    else:
        channels = union_find.new_ids(shape[dim], op.layer)
        op.analysis.made_channels.append((channels, op.layer))
    ids = op.broadcast_along(channels, dim)
    record_sizes(op, sizes, ids)
    return ids


def _channel_axis(op: NodeContext, sizes: _Sizes) -> int | None:
    """Return the axis that may hold channels; None where it is unknown.

    It is the one whose size counts channels, else the one whose size is written.
    """
    counting, written = [], []
    for dim, size in enumerate(op.value.shape):
        if size == 1:
            continue
        if isinstance(op, OpContext) and _counted_along(op, sizes, dim) is not None:
            counting.append(dim)
        elif dim in sizes and isinstance(sizes[dim][1], int):
            written.append(dim)
    candidates = counting or written
    return candidates[0] if len(candidates) == 1 else None


def _counted_along(op: OpContext, sizes: _Sizes, dim: int) -> ChannelSize | None:
    """Return the channels that the size of an axis counts."""
    size = sizes[min(dim, len(sizes) - 1)][1] if sizes else None
    if not isinstance(size, fx.Node):
        return None
    counted = op.ids.get(size)
    if isinstance(op.values[size], (tuple, list)):  # `torch.zeros(y.shape)`
        counted = counted[dim] if isinstance(counted, list) else None
    return counted if isinstance(counted, ChannelSize) else None


def new_tensor_channels(op: OpContext) -> Tensor:
    """Make a tensor of its own: the first input tells a type and a device alone."""
    ids = op.analysis.union_find.new_ids(1, op.layer)
    op.analysis.union_find.pin(ids, f"a tensor that the forward makes at {op.layer}")
    return ids.reshape([1] * op.value.dim())


def random_channels(op: OpContext) -> Tensor:
    """Fill a value with random numbers, the same ones for all channels.

    Raises:
        Unsupported: Each channel has its own, and which they are depends on how many there are.
    """
    ids = op.ids[op.source]
    if ids.numel() > 1:
        raise Unsupported(f"{op.operator} draws numbers for every channel at {op.layer}")
    return ids


def constant_field(op: ReceptiveContext) -> None:
    """Return nothing: the result does not depend on the image."""
    return None


OPS = (
    OpSpec(
        "tensor of zeros or ones",
        (torch.zeros, torch.ones, "new_zeros", "new_ones"),
        channels=filled_tensor_channels,
        receptive_field=constant_field,
        takes_sizes=True,
        value_inputs=0,
    ),
    OpSpec(
        "new tensor",
        ("new_empty", "new_full"),
        channels=new_tensor_channels,
        receptive_field=constant_field,
        value_inputs=0,
    ),
    OpSpec(
        "random numbers",
        ("normal_", "uniform_"),
        channels=random_channels,
        receptive_field=constant_field,
        value_inputs=0,
    ),
)
