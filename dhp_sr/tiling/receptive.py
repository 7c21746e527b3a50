"""The receptive field of a network: how many input pixels around a tile its part of the result depends on."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import TracedNetwork, TraceError, trace
from dhp_sr.operators.receptive_field import IDENTITY
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.spatial_layout import (
    ReceptiveContext,
    ReceptiveField2D,
    Unbounded,
    image_field,
    shapes_of,
    writes_to_input,
)

_SIDES = (48, 768)
"""The example's sides are multiples of the first, to be halved and divided by three; if need be, of the second."""


class ReceptiveField(NamedTuple):
    """What a tile of an image needs, so that its part of the result is that of the whole image."""

    halo: int | None
    """Input pixels needed on each side of a tile; None where every output pixel may depend on the whole image."""
    multiple: int
    """Tiles begin and end at multiples of it (in input pixels), except at the image's end."""
    reason: str = ""
    """Why `halo` is None."""


def receptive_field(network: nn.Module, in_channels: int, size_multiple: int = 1) -> ReceptiveField:
    """Follow the network's graph and add up what its operators read.

    Nothing is computed but shapes. The claim is an upper bound: no pixel outside it has an influence. Operators that
    look at the whole image (global pooling, instance normalization), or that are not known, make it unbounded.

    Args:
        network: maps (N, in_channels, H, W) to (N, C, scale H, scale W); left as it was, followed in eval mode.
        in_channels: channels of its input.
        size_multiple: sides of its input must be multiples of it.

    Returns:
        Halo and alignment of tiles; an unbounded one with the reason.
    """
    reasons = []
    for side in _SIDES:
        try:
            return _bounded(network, in_channels, size_multiple, math.lcm(size_multiple, side))
        except Unbounded as error:
            reasons.append(str(error))
        except TraceError as error:
            reasons.append(str(error))
            break
    return ReceptiveField(None, size_multiple, reasons[0])


def _bounded(network: nn.Module, in_channels: int, size_multiple: int, side: int) -> ReceptiveField:
    traced = trace(network, torch.zeros(1, in_channels, side, side, dtype=_type_of(network)))
    field = _walk(network, traced, side)
    rows, columns = field.rows, field.columns
    multiple = math.lcm(rows.stride, columns.stride, size_multiple)
    return ReceptiveField(max(rows.before, rows.after, columns.before, columns.after), multiple)


def _type_of(network: nn.Module) -> torch.dtype:
    return next(
        (one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32
    )


def _walk(network: nn.Module, traced: TracedNetwork, side: int) -> ReceptiveField2D:
    """Return the receptive field of the network's output."""
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    fields: dict[fx.Node, Any] = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "output":
            return _checked(fields.get(node.args[0]), traced.values[node])
        module = modules[node.target] if node.op == "call_module" else None
        op = ReceptiveContext(node, module, traced.values[node], traced.values, fields, side)
        fields[node] = _visit(op)
        if writes_to_input(node):
            # A method that works in place changes its input, too, for all who read it later.
            fields[op.source] = fields[node]
    raise Unbounded("the network returns nothing")


def _checked(field: Any, value: Any) -> ReceptiveField2D:
    if not isinstance(value, Tensor) or not isinstance(field, ReceptiveField2D):
        raise Unbounded("the network does not return one image that depends on its input")
    axes = (field.rows, field.columns)
    scales = {1 / axis.step for axis in axes}
    has_padding = any(axis.padding for axis in axes)
    if len(scales) > 1 or scales.pop().denominator > 1 or has_padding or not field.is_image:
        raise Unbounded("the output's sides are not a whole multiple of the input's")
    return field


def _visit(op: ReceptiveContext) -> Any:
    """Return what a node's value reads; None for numbers and constants."""
    if op.node.op == "placeholder":
        is_image = isinstance(op.value, Tensor) and op.value.dim() == 4
        return image_field(IDENTITY, IDENTITY, op.value.shape) if is_image else None
    depends = any(op.fields.get(node) is not None for node in op.node.all_input_nodes)
    is_number = op.value is not None and not shapes_of(op.value)
    if op.node.op == "get_attr" or not depends or is_number:
        return None
    spec = spec_for(op.node, op.module)
    if spec.receptive_field is None:
        raise op.unbounded("may look at the whole image")
    return spec.receptive_field(op)
