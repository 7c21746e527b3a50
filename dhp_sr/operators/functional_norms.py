"""Normalizations called as functions: `F.batch_norm`, `F.group_norm`, `F.layer_norm`."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import union_blocks
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import keep_channels_of_call
from dhp_sr.operators.spec import Unsupported

WITH_SHAPE = (F.layer_norm, F.rms_norm)
"""Functions that are told the shape over which they take their statistics."""


def functional_norm_channels(op: OpContext) -> Tensor:
    """Couple every vector that `F.batch_norm` or the like is given with the channels."""
    channels = op.channels(op.source)
    for node in op.node.all_input_nodes[1:]:
        # A single number, as of a PReLU for all channels, does not go with the channels.
        if op.shape(node) == (len(channels),) != (1,):
            op.analysis.union_find.union(op.channels(node, 0), channels)
    return op.broadcast_along(channels)


def functional_group_norm_channels(op: OpContext, channels: Tensor, groups: int) -> Tensor:
    """Couple the channels of each group, and the vectors that `F.group_norm` is given."""
    if groups == 1:
        return keep_channels_of_norm(op, 1)
    blocks = union_blocks(channels, groups, op.analysis.union_find)
    # The number of groups is written in the call: it counts the groups that are left.
    counted = ChannelRange(blocks[:, 0], 0, groups, (0, groups))
    op.record_size(op.arg_path(1, "num_groups"), counted, op.argument(1, "num_groups"))
    return functional_norm_channels(op)


def keep_channels_of_norm(op: OpContext, dim: int) -> Tensor:
    """Keep the channels of a normalization over them, a function, with those of its vectors.

    Raises:
        Unsupported: Statistics over other axes as well, or vectors that have no such channels.
    """
    # torch hands on the value and the shape, or the number of groups, by position, and the rest by
    # keyword, however these functions are called.
    shape_at = 1 if op.node.target in WITH_SHAPE else None
    if len(op.args) != 2 or (shape_at and len(op.arg_value(1, "normalized_shape")) > 1):
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    vectors = ("weight", "bias")
    channels = keep_channels_of_call(
        op, dim, returns_channels=True, vectors=vectors, shape_at=shape_at
    )
    for name in vectors:
        vector: Any = op.node.kwargs.get(name)
        if vector is None:
            continue
        if not isinstance(op.ids.get(vector), Tensor) or op.shape(vector) != (len(channels),):
            raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
        op.analysis.union_find.union(op.channels(vector, 0), channels)
    if shape_at is not None:
        laid_out = op.broadcast_along(channels, dim)
        counted = ChannelRange(laid_out, dim, len(channels), (0, len(channels)))
        op.record_size(("args", shape_at), [counted], op.args[shape_at])
    return op.broadcast_along(channels, dim)
