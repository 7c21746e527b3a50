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
from dhp_sr.operators.context import Call
from dhp_sr.operators.receptive_field import union
from dhp_sr.operators.receptive_rules import Spread, unbounded
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


def spread_of(call: Call, rule: Callable[[Call], Any], side: int) -> Spread | list[Spread]:
    """Return what the result of an operator reads.

    Args:
        call: the node; `call.atoms` holds the spreads of its inputs.
        rule: how the channel groups treat the operator, which tells what kind it is.
        side: side of the example.

    Raises:
        Unbounded: it looks at the whole image, or is not known.
    """
    if any(isinstance(value, Tensor) and value.dim() != 4 for value in _values(call)):
        raise unbounded(call, "works on something else than (N, C, H, W)")
    if rule is pointwise.unknown or _takes_statistics(call):
        raise unbounded(call, "may look at the whole image")
    if rule in _SAME_PLACE:
        return _together(call)
    if rule in _ALONG_AXES:
        return _along_axes(call, rule)
    for kinds, handler in _HANDLERS:
        if rule in kinds or call.node.target in kinds or type(call.module) in kinds:
            return handler(call, side)
    raise unbounded(call, "may look at the whole image")


def _values(call: Call) -> list[Any]:
    found = [
        call.value,
        *(
            call.values[node]
            for node in call.node.all_input_nodes
            if call.atoms.get(node) is not None
        ),
    ]
    return [part for one in found for part in _parts(one)]


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _takes_statistics(call: Call) -> bool:
    """Return whether a normalization works with statistics of the image before it."""
    if (
        isinstance(call.module, nn.modules.instancenorm._InstanceNorm)
        or call.node.target is F.instance_norm
    ):
        return True
    if isinstance(call.module, nn.modules.batchnorm._BatchNorm):
        return call.module.running_mean is None
    if call.node.target is F.batch_norm:
        return call.number(1, "running_mean") is None or bool(call.number(5, "training", False))
    return False


def _holds_weights(call: Call) -> bool:
    return rule_for(call.node, call.module) in (norms.per_channel, norms.per_channel_function)


def _together(call: Call) -> Spread:
    """Combine images entry by entry; constants must be the same everywhere."""
    spreads, sides = [], tuple(call.value.shape[2:])
    for node in call.node.all_input_nodes:
        given, values = call.atoms.get(node), call.values[node]
        if isinstance(given, list):
            spreads += given
        elif isinstance(given, Spread):
            spreads.append(given)
        elif (
            isinstance(values, Tensor)
            and any(size > 1 for size in values.shape[-2:])
            and not _holds_weights(call)
        ):
            raise unbounded(
                call,
                f"takes a constant of {tuple(values.shape)}, which differs from place to place",
            )
        if given is not None and any(tuple(value.shape[2:]) != sides for value in _parts(values)):
            raise unbounded(call, f"spreads one value over {sides}")
    rows, columns = union(one.rows for one in spreads), union(one.columns for one in spreads)
    if rows is None or columns is None:
        raise unbounded(call, "combines values whose places do not correspond")
    return Spread(rows, columns)


def _along_axes(call: Call, rule: Callable[[Call], Any]) -> Spread | list[Spread]:
    place = 2 if rule in (reductions.norm, parts.split, parts.chunk, norms.unit_length) else 1
    dims = getattr(call.module, "dim", None) or call.number(
        place, "dim", call.node.kwargs.get("axis")
    )
    if rule is reductions.extremum and isinstance(dims, Tensor):
        return _together(call)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    if not isinstance(dims, (tuple, list)) or any(dim % 4 != 1 for dim in dims):
        raise unbounded(call, "looks at the whole image")
    spread = _together(call) if isinstance(call.value, Tensor) else call.atoms[call.source]
    return spread if isinstance(call.value, Tensor) else [spread for _ in call.value]


_HANDLERS: tuple[tuple[tuple[Any, ...], Callable[[Call, int], Spread]], ...] = (
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
