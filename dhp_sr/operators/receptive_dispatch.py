"""What each operator reads: one small rule per operator, for the receptive field."""

import operator
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators import elementwise as pointwise
from dhp_sr.operators import layers, norms, reductions
from dhp_sr.operators import rearrange as shapes
from dhp_sr.operators import receptive_rules as geometry
from dhp_sr.operators import slicing as parts
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.receptive_field import union
from dhp_sr.operators.receptive_rules import ReceptiveField2D, unbounded
from dhp_sr.operators.registry import rule_for

_SAME_PLACE = (
    pointwise.alike,
    pointwise.elementwise,
    pointwise.combine,
    pointwise.divide,
    pointwise.root,
    pointwise.power,
    norms.per_channel,
    norms.per_channel_function,
    shapes.channel_shuffle,
    parts.halves,
)
"""Rules of operators that leave every entry in its place."""

_ALONG_AXES = (
    shapes.concatenate,
    parts.chunk,
    parts.split,
    norms.over_axis,
    norms.unit_length,
    reductions.reduction,
    reductions.norm,
    reductions.extremum,
)
"""Rules of operators that leave every entry in its place if they work along the channels."""


def spread_of(
    op: OpContext, rule: Callable[[OpContext], Any], side: int
) -> ReceptiveField2D | list[ReceptiveField2D]:
    """Return what the result of an operator reads.

    Args:
        op: the node; `op.ids` holds the spreads of its inputs.
        rule: how the channel groups treat the operator, which tells what kind it is.
        side: side of the example.

    Raises:
        Unbounded: it looks at the whole image, or is not known.
    """
    if any(isinstance(value, Tensor) and value.dim() != 4 for value in _values(op)):
        raise unbounded(op, "works on something else than (N, C, H, W)")
    if rule is pointwise.unknown or _takes_statistics(op):
        raise unbounded(op, "may look at the whole image")
    if rule in _SAME_PLACE:
        return _together(op)
    if rule in _ALONG_AXES:
        return _along_axes(op, rule)
    for kinds, handler in _HANDLERS:
        if rule in kinds or op.node.target in kinds or type(op.module) in kinds:
            return handler(op, side)
    raise unbounded(op, "may look at the whole image")


def _values(op: OpContext) -> list[Any]:
    found = [
        op.value,
        *(op.values[node] for node in op.node.all_input_nodes if op.ids.get(node) is not None),
    ]
    return [part for one in found for part in _parts(one)]


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _takes_statistics(op: OpContext) -> bool:
    """Return whether a normalization works with statistics of the image before it."""
    if (
        isinstance(op.module, nn.modules.instancenorm._InstanceNorm)
        or op.node.target is F.instance_norm
    ):
        return True
    if isinstance(op.module, nn.modules.batchnorm._BatchNorm):
        return op.module.running_mean is None
    if op.node.target is F.batch_norm:
        return op.arg_value(1, "running_mean") is None or bool(op.arg_value(5, "training", False))
    return False


def _holds_weights(op: OpContext) -> bool:
    return rule_for(op.node, op.module) in (norms.per_channel, norms.per_channel_function)


def _together(op: OpContext) -> ReceptiveField2D:
    """Combine images entry by entry; constants must be the same everywhere."""
    spreads, sides = [], tuple(op.value.shape[2:])
    for node in op.node.all_input_nodes:
        given, values = op.ids.get(node), op.values[node]
        if isinstance(given, list):
            spreads += given
        elif isinstance(given, ReceptiveField2D):
            spreads.append(given)
        elif (
            isinstance(values, Tensor)
            and any(size > 1 for size in values.shape[-2:])
            and not _holds_weights(op)
        ):
            raise unbounded(
                op,
                f"takes a constant of {tuple(values.shape)}, which differs from place to place",
            )
        if given is not None and any(tuple(value.shape[2:]) != sides for value in _parts(values)):
            raise unbounded(op, f"spreads one value over {sides}")
    rows, columns = union(one.rows for one in spreads), union(one.columns for one in spreads)
    if rows is None or columns is None:
        raise unbounded(op, "combines values whose places do not correspond")
    return ReceptiveField2D(rows, columns)


def _along_axes(
    op: OpContext, rule: Callable[[OpContext], Any]
) -> ReceptiveField2D | list[ReceptiveField2D]:
    place = 2 if rule in (reductions.norm, parts.split, parts.chunk, norms.unit_length) else 1
    dims = getattr(op.module, "dim", None) or op.arg_value(place, "dim", op.node.kwargs.get("axis"))
    if rule is reductions.extremum and isinstance(dims, Tensor):
        return _together(op)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    if not isinstance(dims, (tuple, list)) or any(dim % 4 != 1 for dim in dims):
        raise unbounded(op, "looks at the whole image")
    spread = _together(op) if isinstance(op.value, Tensor) else op.ids[op.source]
    return spread if isinstance(op.value, Tensor) else [spread for _ in op.value]


_HANDLERS: tuple[tuple[tuple[Any, ...], Callable[[OpContext, int], ReceptiveField2D]], ...] = (
    ((operator.getitem,), geometry.item),
    ((parts.narrow,), geometry.narrow),
    ((layers.convolution,), geometry.convolution),
    ((layers.transposed_convolution,), geometry.transposed_convolution),
    (geometry.POOLS, geometry.pooling),
    ((shapes.pixel_shuffle,), geometry.pixel_shuffle),
    ((shapes.pixel_unshuffle,), geometry.pixel_unshuffle),
    (geometry.PADS, geometry.pad),
    (
        (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate),
        geometry.interpolate,
    ),
)
"""Rules of channel groups, functions or layers, and what they read."""
