"""Mean, sum, maximum, ... over some axes."""

from typing import Any

from torch import Tensor

from dhp_sr.operators.context import Call, pinned
from dhp_sr.operators.elementwise import combine


def reduction(call: Call) -> Any:
    """Over space: the channels stay. Over channels: they are pinned, since fewer give another result."""
    dims = call.number(1, "dim", call.node.kwargs.get("axis"))
    return _over(call, None if isinstance(dims, bool) else dims)


def norm(call: Call) -> Any:
    """`norm`, whose axes come after its order."""
    return _over(call, call.number(2, "dim"))


def extremum(call: Call) -> Any:
    """`torch.max` and `torch.min`: of two tensors, or over axes."""
    return combine(call) if isinstance(call.number(1, "other"), Tensor) else reduction(call)


def _over(call: Call, dims: Any) -> Any:
    source, rank = call.source, len(call.shape(call.source))
    dims = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    dims = sorted({dim % rank for dim in dims})
    if any(call.varies(source, dim) for dim in dims):
        return pinned(call, f"{call.operator} over channels at {call.layer}")
    if isinstance(call.value, tuple):
        return [_without(call.atoms[source], dims, value.dim()) for value in call.value]
    return _without(call.atoms[source], dims, call.value.dim())


def _without(atoms: Tensor, dims: list[int], rank: int) -> Tensor:
    """Leave out the reduced axes, unless the result keeps them."""
    if atoms.dim() == rank:
        return atoms
    return atoms.reshape([size for dim, size in enumerate(atoms.shape) if dim not in dims])
