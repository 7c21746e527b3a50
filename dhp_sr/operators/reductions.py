"""Reductions over axes: mean, sum, maximum, norm."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dhp_sr.operators.analysis_context import Sign
from dhp_sr.operators.channel_ids import couple_unless_alone
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.elementwise import binary_channels, pointwise_field
from dhp_sr.operators.kept_calls import reduce_kept_channels
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.signs import sign_of_first_input
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import OpSpec, spellings


def reduction_channels(op: OpContext) -> Any:
    """Keep the channels of a reduction over space, or over parts that have the same ones.

    A reduction over channels is one over those that are kept.

    Raises:
        Unsupported: A reduction over channels that cannot be told which are kept.
    """
    if isinstance(op.arg_value(1, "other"), Tensor):
        # torch.max and torch.min take a second tensor instead of an axis.
        return binary_channels(op)
    dims = _reduced_axes(op)
    ids = couple_unless_alone(op.ids[op.source], dims, op.analysis.union_find, op.layer)
    if ids is None:
        return reduce_kept_channels(op, dims)
    if isinstance(op.value, tuple):
        return [_without(ids, dims, value.dim()) for value in op.value]
    return _without(ids, dims, op.value.dim())


def _reduced_axes(op: NodeContext) -> list[int]:
    """Return the reduced axes, ascending; all where none is given, or an empty list of them."""
    rank = len(op.shape(op.source))
    # The second argument of torch.norm is its order; for all others it is the axes, or, in the
    # method `std(unbiased)`, a flag.
    index = 2 if "norm" in op.operator else 1
    dims = op.arg_value(index, "dim", op.node.kwargs.get("axis"))
    if isinstance(dims, int) and not isinstance(dims, bool):
        dims = [dims]
    elif not dims or isinstance(dims, bool):
        dims = range(rank)
    return sorted(dim % rank for dim in dims)


def _without(ids: Tensor, dims: Iterable[int], rank: int) -> Tensor:
    """Leave out the reduced axes, unless the result keeps them."""
    if ids.dim() == rank:
        return ids
    for dim in reversed(list(dims)):
        ids = ids.squeeze(dim)
    return ids


def reduction_field(op: ReceptiveContext) -> ReceptiveField2D | list[ReceptiveField2D] | None:
    """Return the field of a reduction, which combines all entries along its axes."""
    if isinstance(op.arg_value(1, "other"), Tensor):
        return pointwise_field(op)
    dims = _reduced_axes(op)
    field = mix_axes(op, op.field, dims)
    # torch.max over an axis returns the values and their indices.
    results = op.value if isinstance(op.value, tuple) else (op.value,)
    keeps_axes = results[0].dim() == len(field.layout)
    layout = []
    for dim, digits in enumerate(field.layout):
        if dim not in dims:
            layout.append(digits)
        elif keeps_axes:
            layout.append(())
    field = replace(field, layout=tuple(layout))
    return [field] * len(results) if isinstance(op.value, tuple) else field


def _reduction(name: str, names: str, sign: Any = Sign.ANY) -> OpSpec:
    return OpSpec(
        name,
        spellings(names, torch),
        channels=reduction_channels,
        receptive_field=reduction_field,
        sign=sign,
    )


OPS = (
    _reduction("mean or sum", "mean sum", sign_of_first_input),
    _reduction("variance", "var", Sign.NONNEGATIVE),
    _reduction("standard deviation", "std", Sign.NONNEGATIVE),
    _reduction("extreme over axes", "amax amin max min argmax argmin"),
    _reduction("variance or deviation, and mean", "var_mean std_mean"),
    _reduction("product", "prod"),
    _reduction("logsumexp", "logsumexp"),
    _reduction("any or all", "any all"),
    _reduction("norm", "norm", Sign.NONNEGATIVE),
)
