"""The receptive field of a network: how many input pixels around a tile its part of the result depends on."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dhp_sr.graph.capture import TracedNetwork, TraceError, trace
from dhp_sr.operators.analysis_context import AnalysisContext
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.receptive_dispatch import spread_of
from dhp_sr.operators.receptive_field import START
from dhp_sr.operators.receptive_rules import ReceptiveField2D, Unbounded
from dhp_sr.operators.registry import rule_for

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
    rows, columns = _walk(network, traced, side)
    multiple = math.lcm(rows.shift, columns.shift, size_multiple)
    return ReceptiveField(max(rows.before, rows.after, columns.before, columns.after), multiple)


def _type_of(network: nn.Module) -> torch.dtype:
    return next(
        (one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32
    )


def _walk(network: nn.Module, traced: TracedNetwork, side: int) -> ReceptiveField2D:
    """Return what the output reads."""
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    analysis, found = AnalysisContext(network), {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "output":
            return _checked(found.get(node.args[0]), traced.values[node])
        module = modules[node.target] if node.op == "call_module" else None
        op = OpContext(node, module, traced.values[node], traced.values, found, analysis)
        found[node] = _visit(op, side)
    raise Unbounded("the network returns nothing")


def _checked(spread: Any, value: Any) -> ReceptiveField2D:
    if not isinstance(value, Tensor) or not isinstance(spread, ReceptiveField2D):
        raise Unbounded("the network does not return one image that depends on its input")
    scales = {1 / reach.step for reach in spread}
    if len(scales) > 1 or scales.pop().denominator > 1 or any(reach.extra for reach in spread):
        raise Unbounded("the output's sides are not a whole multiple of the input's")
    return spread


def _visit(op: OpContext, side: int) -> ReceptiveField2D | list[ReceptiveField2D] | None:
    """Return what a node's value reads; None for numbers and constants."""
    if op.node.op == "placeholder":
        return ReceptiveField2D(START, START) if isinstance(op.value, Tensor) else None
    inputs = [op.ids[node] for node in op.node.all_input_nodes if op.ids.get(node) is not None]
    if op.node.op == "get_attr" or not inputs or not _holds_tensors(op.value):
        return None
    return spread_of(op, rule_for(op.node, op.module), side)


def _holds_tensors(value: Any) -> bool:
    return any(
        isinstance(one, Tensor) for one in (value if isinstance(value, (tuple, list)) else [value])
    )
