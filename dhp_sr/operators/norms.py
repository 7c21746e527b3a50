"""Normalization: exact where its statistics do not mix channels of different fate."""

from typing import Any

from torch import Tensor

from dhp_sr.operators.analysis_state import Count
from dhp_sr.operators.context import Call, pinned


def per_channel(call: Call) -> Tensor:
    """A norm with statistics of its own for every channel, or a PReLU: its vectors follow their channels."""
    channels, state = call.channels(call.source), _state(call)
    if not state:  # what resizing by tensors cannot see
        counts = Count(call.spread(channels), 1, len(channels), (0, len(channels)))
        call.note(("module", "num_features"), counts, len(channels))
    for name, tensor in state.items():
        if tensor.dim() == 1 and len(tensor) == len(channels) > 1:
            call.book.own(f"{call.layer}.{name}", 0, channels)
    return call.spread(channels)


def per_channel_function(call: Call) -> Tensor:
    """`F.batch_norm` and the like: every vector given follows the channels."""
    channels = call.channels(call.source)
    for node in call.node.all_input_nodes[1:]:
        if call.shape(node) == (len(channels),) != (1,):
            call.book.ties.tie(call.channels(node, 0), channels)
    return call.spread(channels)


def group_norm(call: Call) -> Any:
    """Group normalization: the channels of one of its groups live and die together."""
    channels, groups = call.channels(call.source), call.module.num_groups
    if groups == 1 or not call.module.affine:
        return pinned(
            call,
            f"GroupNorm at {call.layer} takes its statistics over all channels, or has no weight",
        )
    rows = channels.reshape(groups, -1)
    call.book.ties.tie(rows, rows[:, :1].expand_as(rows))
    for name in _state(call):
        call.book.own(f"{call.layer}.{name}", 0, channels)
    return call.spread(channels)


def layer_norm(call: Call) -> Any:
    """Layer normalization of the last axes: no channels may be among them."""
    shape = (
        call.module.normalized_shape
        if call.module is not None
        else call.number(1, "normalized_shape")
    )
    return _over(call, range(-len(shape), 0))


def over_axis(call: Call) -> Any:
    """Softmax and the like: what they compute depends on all entries along their axis."""
    dim = call.module.dim if call.module is not None else call.number(1, "dim")
    return _over(call, [dim if dim is not None else 1])


def unit_length(call: Call) -> Any:
    """`F.normalize`, by default over the channels."""
    dim = call.number(2, "dim", 1)
    return _over(call, dim if isinstance(dim, (tuple, list)) else [dim])


def _over(call: Call, dims: Any) -> Any:
    source = call.source
    if any(call.varies(source, dim) for dim in dims):
        return pinned(call, f"{call.operator} at {call.layer} mixes all channels")
    return call.atoms[source]


def _state(call: Call) -> dict[str, Tensor]:
    named = [
        *call.module.named_parameters(recurse=False),
        *call.module.named_buffers(recurse=False),
    ]
    return {name: tensor for name, tensor in named if tensor is not None}
