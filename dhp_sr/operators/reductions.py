"""Mean, sum, maximum, ... over some axes."""

from typing import Any

from torch import Tensor

from dhp_sr.operators.context import OpContext, pinned
from dhp_sr.operators.elementwise import combine


def reduction(op: OpContext) -> Any:
    """Over space: the channels stay. Over channels: they are pinned, since fewer give another result."""
    dims = op.arg_value(1, "dim", op.node.kwargs.get("axis"))
    return _over(op, None if isinstance(dims, bool) else dims)


def norm(op: OpContext) -> Any:
    """`norm`, whose axes come after its order."""
    return _over(op, op.arg_value(2, "dim"))


def extremum(op: OpContext) -> Any:
    """`torch.max` and `torch.min`: of two tensors, or over axes."""
    return combine(op) if isinstance(op.arg_value(1, "other"), Tensor) else reduction(op)


def _over(op: OpContext, dims: Any) -> Any:
    source, rank = op.source, len(op.shape(op.source))
    dims = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    dims = sorted({dim % rank for dim in dims})
    if any(op.varies_along(source, dim) for dim in dims):
        return pinned(op, f"{op.operator} over channels at {op.layer}")
    if isinstance(op.value, tuple):
        return [_without(op.ids[source], dims, value.dim()) for value in op.value]
    return _without(op.ids[source], dims, op.value.dim())


def _without(ids: Tensor, dims: list[int], rank: int) -> Tensor:
    """Leave out the reduced axes, unless the result keeps them."""
    if ids.dim() == rank:
        return ids
    return ids.reshape([size for dim, size in enumerate(ids.shape) if dim not in dims])
