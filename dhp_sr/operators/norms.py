"""Normalization: exact where its statistics do not mix channels of different fate."""

from typing import Any

from torch import Tensor

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.context import OpContext, pinned


def per_channel(op: OpContext) -> Tensor:
    """A norm with statistics of its own for every channel, or a PReLU: its vectors follow their channels."""
    channels, state = op.channels(op.source), _state(op)
    if not state:  # what resizing by tensors cannot see
        counts = ChannelRange(op.broadcast_along(channels), 1, len(channels), (0, len(channels)))
        op.record_size(("module", "num_features"), counts, len(channels))
    for name, tensor in state.items():
        if tensor.dim() == 1 and len(tensor) == len(channels) > 1:
            op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def per_channel_function(op: OpContext) -> Tensor:
    """`F.batch_norm` and the like: every vector given follows the channels."""
    channels = op.channels(op.source)
    for node in op.node.all_input_nodes[1:]:
        if op.shape(node) == (len(channels),) != (1,):
            op.analysis.union_find.union(op.channels(node, 0), channels)
    return op.broadcast_along(channels)


def group_norm(op: OpContext) -> Any:
    """Group normalization: the channels of one of its groups live and die together."""
    channels, groups = op.channels(op.source), op.module.num_groups
    if groups == 1 or not op.module.affine:
        return pinned(
            op,
            f"GroupNorm at {op.layer} takes its statistics over all channels, or has no weight",
        )
    rows = channels.reshape(groups, -1)
    op.analysis.union_find.union(rows, rows[:, :1].expand_as(rows))
    for name in _state(op):
        op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def layer_norm(op: OpContext) -> Any:
    """Layer normalization of the last axes: no channels may be among them."""
    shape = (
        op.module.normalized_shape if op.module is not None else op.arg_value(1, "normalized_shape")
    )
    return _over(op, range(-len(shape), 0))


def over_axis(op: OpContext) -> Any:
    """Softmax and the like: what they compute depends on all entries along their axis."""
    dim = op.module.dim if op.module is not None else op.arg_value(1, "dim")
    return _over(op, [dim if dim is not None else 1])


def unit_length(op: OpContext) -> Any:
    """`F.normalize`, by default over the channels."""
    dim = op.arg_value(2, "dim", 1)
    return _over(op, dim if isinstance(dim, (tuple, list)) else [dim])


def _over(op: OpContext, dims: Any) -> Any:
    source = op.source
    if any(op.varies_along(source, dim) for dim in dims):
        return pinned(op, f"{op.operator} at {op.layer} mixes all channels")
    return op.ids[source]


def _state(op: OpContext) -> dict[str, Tensor]:
    named = [
        *op.module.named_parameters(recurse=False),
        *op.module.named_buffers(recurse=False),
    ]
    return {name: tensor for name, tensor in named if tensor is not None}
