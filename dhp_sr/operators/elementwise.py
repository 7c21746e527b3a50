"""Operators that work entry by entry, or inside each channel."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.parametrize import is_parametrized

from dhp_sr.operators.channel_ids import tie_all
from dhp_sr.operators.context import Call, pinned
from dhp_sr.operators.signs import is_nonzero, is_positive


def unknown(call: Call) -> Any:
    """Stand in for an operator without a rule, or a layer with hooks, which may do anything."""
    if call.module is not None and (call.module._forward_hooks or call.module._forward_pre_hooks):
        return pinned(call, f"{call.operator} at {call.layer} has hooks")
    if call.module is not None and is_parametrized(call.module):
        plain = "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        return pinned(call, f"{call.operator} at {call.layer} computes its weights ({plain})")
    return pinned(call, f"operator {call.operator} at {call.layer} has no rule")


def alike(call: Call) -> Any:
    """The first value as it is, in another type or place; a second one only says which."""
    return call.atoms[call.tensors()[0]]


def elementwise(call: Call) -> Any:
    """One tensor in, the same channels out; bounds that are tensors are tied to it."""
    return combine(call) if len(call.tensors()) > 1 else alike(call)


def root(call: Call) -> Any:
    """Square root, logarithm: a channel cut is a zero, where they or their gradients are infinite."""
    if not is_positive(call.source, call.book):
        return pinned(call, f"{call.operator} of channels that would be zero at {call.layer}")
    return call.atoms[call.source]


def power(call: Call) -> Any:
    """Power with a fixed exponent."""
    exponent = call.number(1, "exponent")
    if not isinstance(exponent, (int, float)) or isinstance(call.source, (int, float)):
        return pinned(
            call,
            f"operator {call.operator} at {call.layer} has no rule for exponents that are tensors",
        )
    return elementwise(call) if exponent >= 1 else root(call)


def spatial(call: Call) -> Tensor:
    """Pooling or resizing inside each channel."""
    return call.spread(call.channels(call.source))


def sample(call: Call) -> Tensor:
    """Sampling each channel at places that another value holds; the coordinates of a place all stay."""
    grid = call.argument(1, "grid")
    if isinstance(grid, fx.Node):
        call.book.pin(call.atoms.get(grid), f"coordinates of {call.operator} at {call.layer}")
    return spatial(call)


def pooling_with_places(call: Call) -> Any:
    """Maximum pooling, which may return the places of the maxima too."""
    channels = call.channels(call.source)
    if isinstance(call.value, tuple):
        rank = call.value[0].dim()
        return [
            channels.reshape([-1 if dim == 1 else 1 for dim in range(rank)]) for _ in call.value
        ]
    return call.spread(channels)


def pad(call: Call) -> Any:
    """Padding; new channels in front or behind stay, and so do those that are repeated there."""
    sides, mode = list(call.number(1, "pad")), call.number(2, "mode", "constant")
    rank, atoms = call.value.dim(), call.atoms[call.source]
    for place in range(len(sides) // 2):
        dim, before, after = rank - 1 - place, *sides[2 * place : 2 * place + 2]
        if atoms.shape[dim] > 1 and mode != "constant" and (before or after):
            return pinned(call, f"channels repeated by padding at {call.layer}")
        if atoms.shape[dim] > 1 and min(before, after) >= 0:
            ends = [
                atoms.narrow(dim, 0, 1).expand(_sized(atoms, dim, size)) for size in (before, after)
            ]
            new = [_new(call, end) for end in ends]
            atoms = torch.cat((new[0], atoms, new[1]), dim=dim)
        elif atoms.shape[dim] > 1:
            return pinned(call, f"channels cut off by padding at {call.layer}")
    return atoms


def _sized(atoms: Tensor, dim: int, size: int) -> list[int]:
    return [size if axis == dim else length for axis, length in enumerate(atoms.shape)]


def _new(call: Call, like: Tensor) -> Tensor:
    atoms = call.book.ties.new(like.numel(), call.layer).reshape(like.shape)
    call.book.ties.pin(atoms, f"padding at {call.layer}")
    return atoms


def combine(call: Call) -> Any:
    """Sum, product and the like of broadcast tensors: equal places are tied."""
    if not isinstance(call.value, Tensor):
        return None
    rank, aligned = call.value.dim(), []
    operands = {node: _padded(call, node, rank) for node in call.tensors()}
    for node, (shape, atoms) in operands.items():
        others = [other for one, (_, other) in operands.items() if one is not node]
        if _covers_channels(shape, others):
            call.book.ties.pin(atoms, f"one value for all channels at {call.layer}")
        else:
            aligned.append(atoms)
    return (
        tie_all(aligned, call.book.ties)
        if aligned
        else pinned(call, f"only scalars at {call.layer}")
    )


def _padded(call: Call, node: fx.Node, rank: int) -> tuple[list[int], Tensor]:
    """Return shape and atoms of an operand with as many axes as the result has."""
    shape, atoms = call.shape(node), call.atoms[node]
    missing = [1] * (rank - len(shape))
    return [*missing, *shape], atoms.reshape([*missing, *atoms.shape])


def _covers_channels(shape: list[int], others: list[Tensor]) -> bool:
    return any(size == 1 < other.shape[dim] for other in others for dim, size in enumerate(shape))


def divide(call: Call) -> Any:
    """Quotient: where the divisor of a channel cut would be zero, the channels that divide stay."""
    divisor = call.argument(1, "other")
    if isinstance(divisor, fx.Node) and not is_nonzero(divisor, call.book):
        call.book.pin(call.atoms.get(divisor), f"division by channels at {call.layer}")
    return combine(call)


def set_item(call: Call) -> None:
    """`x[place] = value`, for places that spare the channels: value and x are tied."""
    target, place, value = call.node.args
    places = place if isinstance(place, tuple) else (place,)
    whole = all(
        one == slice(None) or not call.varies(target, dim) for dim, one in enumerate(places)
    )
    plain = all(isinstance(one, (slice, int)) for one in places) and not any(
        isinstance(one, int) for one in places
    )
    if not whole or not plain:
        pinned(call, f"assignment to channels at {call.layer}")
    elif isinstance(value, fx.Node):
        rank = len(call.shape(target))
        tie_all([call.atoms[target], _padded(call, value, rank)[1]], call.book.ties)


def ignore(call: Call) -> None:
    """A number that does not count channels, or a question about types."""
    return None
