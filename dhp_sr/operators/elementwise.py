"""Operators that work entry by entry, or inside each channel."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.parametrize import is_parametrized

from dhp_sr.operators.channel_ids import union_all
from dhp_sr.operators.context import OpContext, pinned
from dhp_sr.operators.signs import is_nonzero, is_positive


def unknown(op: OpContext) -> Any:
    """Stand in for an operator without a rule, or a layer with hooks, which may do anything."""
    if op.module is not None and (op.module._forward_hooks or op.module._forward_pre_hooks):
        return pinned(op, f"{op.operator} at {op.layer} has hooks")
    if op.module is not None and is_parametrized(op.module):
        plain = "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        return pinned(op, f"{op.operator} at {op.layer} computes its weights ({plain})")
    return pinned(op, f"operator {op.operator} at {op.layer} has no rule")


def alike(op: OpContext) -> Any:
    """The first value as it is, in another type or place; a second one only says which."""
    return op.ids[op.tensors()[0]]


def elementwise(op: OpContext) -> Any:
    """One tensor in, the same channels out; bounds that are tensors are tied to it."""
    return combine(op) if len(op.tensors()) > 1 else alike(op)


def root(op: OpContext) -> Any:
    """Square root, logarithm: a channel cut is a zero, where they or their gradients are infinite."""
    if not is_positive(op.source, op.analysis):
        return pinned(op, f"{op.operator} of channels that would be zero at {op.layer}")
    return op.ids[op.source]


def power(op: OpContext) -> Any:
    """Power with a fixed exponent."""
    exponent = op.arg_value(1, "exponent")
    if not isinstance(exponent, (int, float)) or isinstance(op.source, (int, float)):
        return pinned(
            op,
            f"operator {op.operator} at {op.layer} has no rule for exponents that are tensors",
        )
    return elementwise(op) if exponent >= 1 else root(op)


def spatial(op: OpContext) -> Tensor:
    """Pooling or resizing inside each channel."""
    return op.broadcast_along(op.channels(op.source))


def sample(op: OpContext) -> Tensor:
    """Sampling each channel at places that another value holds; the coordinates of a place all stay."""
    grid = op.argument(1, "grid")
    if isinstance(grid, fx.Node):
        op.analysis.pin(op.ids.get(grid), f"coordinates of {op.operator} at {op.layer}")
    return spatial(op)


def pooling_with_places(op: OpContext) -> Any:
    """Maximum pooling, which may return the places of the maxima too."""
    channels = op.channels(op.source)
    if isinstance(op.value, tuple):
        rank = op.value[0].dim()
        return [channels.reshape([-1 if dim == 1 else 1 for dim in range(rank)]) for _ in op.value]
    return op.broadcast_along(channels)


def pad(op: OpContext) -> Any:
    """Padding; new channels in front or behind stay, and so do those that are repeated there."""
    sides, mode = list(op.arg_value(1, "pad")), op.arg_value(2, "mode", "constant")
    rank, ids = op.value.dim(), op.ids[op.source]
    for place in range(len(sides) // 2):
        dim, before, after = rank - 1 - place, *sides[2 * place : 2 * place + 2]
        if ids.shape[dim] > 1 and mode != "constant" and (before or after):
            return pinned(op, f"channels repeated by padding at {op.layer}")
        if ids.shape[dim] > 1 and min(before, after) >= 0:
            ends = [
                ids.narrow(dim, 0, 1).expand(_sized(ids, dim, size)) for size in (before, after)
            ]
            new = [_new(op, end) for end in ends]
            ids = torch.cat((new[0], ids, new[1]), dim=dim)
        elif ids.shape[dim] > 1:
            return pinned(op, f"channels cut off by padding at {op.layer}")
    return ids


def _sized(ids: Tensor, dim: int, size: int) -> list[int]:
    return [size if axis == dim else length for axis, length in enumerate(ids.shape)]


def _new(op: OpContext, like: Tensor) -> Tensor:
    ids = op.analysis.union_find.new_ids(like.numel(), op.layer).reshape(like.shape)
    op.analysis.union_find.pin(ids, f"padding at {op.layer}")
    return ids


def combine(op: OpContext) -> Any:
    """Sum, product and the like of broadcast tensors: equal places are tied."""
    if not isinstance(op.value, Tensor):
        return None
    rank, aligned = op.value.dim(), []
    operands = {node: _padded(op, node, rank) for node in op.tensors()}
    for node, (shape, ids) in operands.items():
        others = [other for one, (_, other) in operands.items() if one is not node]
        if _covers_channels(shape, others):
            op.analysis.union_find.pin(ids, f"one value for all channels at {op.layer}")
        else:
            aligned.append(ids)
    return (
        union_all(aligned, op.analysis.union_find)
        if aligned
        else pinned(op, f"only scalars at {op.layer}")
    )


def _padded(op: OpContext, node: fx.Node, rank: int) -> tuple[list[int], Tensor]:
    """Return shape and ids of an operand with as many axes as the result has."""
    shape, ids = op.shape(node), op.ids[node]
    missing = [1] * (rank - len(shape))
    return [*missing, *shape], ids.reshape([*missing, *ids.shape])


def _covers_channels(shape: list[int], others: list[Tensor]) -> bool:
    return any(size == 1 < other.shape[dim] for other in others for dim, size in enumerate(shape))


def divide(op: OpContext) -> Any:
    """Quotient: where the divisor of a channel cut would be zero, the channels that divide stay."""
    divisor = op.argument(1, "other")
    if isinstance(divisor, fx.Node) and not is_nonzero(divisor, op.analysis):
        op.analysis.pin(op.ids.get(divisor), f"division by channels at {op.layer}")
    return combine(op)


def set_item(op: OpContext) -> None:
    """`x[place] = value`, for places that spare the channels: value and x are tied."""
    target, place, value = op.node.args
    places = place if isinstance(place, tuple) else (place,)
    whole = all(
        one == slice(None) or not op.varies_along(target, dim) for dim, one in enumerate(places)
    )
    plain = all(isinstance(one, (slice, int)) for one in places) and not any(
        isinstance(one, int) for one in places
    )
    if not whole or not plain:
        pinned(op, f"assignment to channels at {op.layer}")
    elif isinstance(value, fx.Node):
        rank = len(op.shape(target))
        union_all([op.ids[target], _padded(op, value, rank)[1]], op.analysis.union_find)


def ignore(op: OpContext) -> None:
    """A number that does not count channels, or a question about types."""
    return None
