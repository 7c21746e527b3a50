"""Numbers read from shapes: which of them count channels."""

from typing import Any

import torch
from torch import Tensor

from dhp_sr.operators.analysis_state import Size
from dhp_sr.operators.context import Call, pinned

_PLAIN = ("dtype", "device", "requires_grad", "is_cuda", "ndim", "training", "layout")

ABOUT = (*_PLAIN, "shape")
"""Attributes that tell nothing of a tensor's values."""

_EXTREMA = ("values", "indices")
"""What `torch.max` over an axis returns."""


def attribute(call: Call) -> Any:
    """`x.shape`, or another attribute of a value."""
    source, name = call.node.args[:2]
    if name == "shape":
        return _sizes(call, source)
    if name in ("T", "mT", "H", "mH") and isinstance(call.atoms.get(source), Tensor):
        return getattr(call.expanded(source), name)
    if name in _EXTREMA and isinstance(call.atoms.get(source), list):
        return call.atoms[source][_EXTREMA.index(name)]
    if name in _PLAIN or not isinstance(call.value, Tensor):
        return None
    return pinned(call, f"attribute {name} at {call.layer} has no rule")


def size(call: Call) -> Any:
    """`x.size()` and `x.size(dim)`."""
    dim = call.number(1, "dim")
    sizes = _sizes(call, call.source)
    return sizes if dim is None or sizes is None else sizes[dim]


def count(call: Call) -> Any:
    """`x.numel()`: a number that depends on all channels."""
    found = [one for one in _sizes(call, call.source) or [] if one is not None]
    return Size(torch.cat([one.atoms for one in found])) if found else None


def _sizes(call: Call, source: Any) -> list[Size | None] | None:
    atoms = call.atoms.get(source)
    if not isinstance(atoms, Tensor):
        return None
    if source.op == "get_attr" and call.book.holds(str(source.target)) and atoms.numel() == 1:
        return _sizes_of_weight(call, str(source.target), call.shape(source))
    return [Size(atoms.flatten()) if length > 1 else None for length in atoms.shape]


def _sizes_of_weight(call: Call, name: str, shape: tuple[int, ...]) -> list[Size | None]:
    """The first two axes of a weight hold channels, whatever layer it belongs to; those of its kernel do not."""
    layer, channels = name.rpartition(".")[0] or name, shape[:2] if len(shape) > 1 else ()
    found = [
        Size(call.book.produce(name, dim, size, layer)) if size > 1 else None
        for dim, size in enumerate(channels)
    ]
    return [*found, *[None] * (len(shape) - len(found))]


def arithmetic(call: Call) -> Any:
    """A number made of numbers."""
    found = [one.atoms for one in call.sizes()]
    return Size(torch.cat(found)) if found else None


def insist(call: Call) -> None:
    """An assertion: the number of channels it speaks of stays."""
    for one in call.sizes():
        call.book.pin(one, f"the forward decides on a number of channels at {call.layer}")
