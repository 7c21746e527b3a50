"""Channels of the parameters and buffers that a forward reads itself, outside of its layers."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from dhp_sr.operators.channel_ids import lay_along, varying_axes
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.signs import sign_of_constant
from dhp_sr.operators.sizes import VALUE_FREE_ATTRIBUTES


def channels_of_constant(op: OpContext) -> Tensor | None:
    """Return the channel ids of a tensor that the forward reads itself."""
    if not isinstance(op.value, Tensor):
        return None
    analysis = op.analysis
    name, shape = str(op.node.target), tuple(op.value.shape)
    analysis.signs[op.node] = sign_of_constant(op)
    if not analysis.is_tensor_of_network(name):
        reason = f"constant {name} of shape {shape}"
        if op.value.numel() > 1:
            reason += " is a plain tensor: register it as a buffer"
        return analysis.new_pinned(op.value, name, reason)
    # Functional layers alone read it, and their rules bind its axes.
    if all(_is_weight_of(user, op.node) for user in op.node.users):
        return None
    axis = _axis_of_summand(op, shape)
    if axis is None:
        axis = channel_axis_of_constant(shape)
    if axis is not None:
        channels = analysis.new_out_channels(name, axis, shape[axis], name)
        return lay_along(channels, len(shape), axis)
    if any(_computes_with(user, op.node) for user in op.node.users):
        reason = f"the forward computes with the values of {name}"
        analysis.read_as_values[analysis.name(name)] = reason
    return analysis.new_pinned(op.value, name, f"constant {name} of shape {shape}")


def _is_weight_of(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a functional layer takes a constant as its weight or bias."""
    is_layer = user.op == "call_function" and spec_for(user, None).macs is not None
    return is_layer and constant not in _first_arguments(user, 1)


def _computes_with(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a node computes with a constant's values."""
    # Not where it asks for the shape or type, or takes the constant as the weight of a layer.
    if user.target is getattr:
        return user.args[1] not in VALUE_FREE_ATTRIBUTES
    if user.op in ("call_module", "output"):
        return True
    value_inputs = spec_for(user, None).value_inputs
    return value_inputs is None or constant in _first_arguments(user, value_inputs)


def _first_arguments(node: fx.Node, count: int) -> list[Any]:
    """Return the first arguments of a call; the very first may be given as `input=`."""
    if "input" in node.kwargs:
        return [node.kwargs["input"], *node.args][:count]
    return list(node.args[:count])


def _axis_of_summand(op: OpContext, shape: Sequence[int]) -> int | None:
    """Return the axis of the channels of what a constant (1, ..., L, C) is added to.

    A table of positions of a transformer has the shape of a map (1, C, L), but lies along tokens.
    """
    if len(shape) != 3:
        return None
    for user in op.node.users:
        if user.op not in ("call_function", "call_method") or not spec_for(user, None).is_sum:
            continue
        for operand in user.all_input_nodes:
            ids = op.ids.get(operand)
            if not isinstance(ids, Tensor) or ids.dim() != len(shape):
                continue
            axes = varying_axes(ids)
            if len(axes) == 1 and ids.shape[axes[0]] == shape[axes[0]]:
                return axes[0]
    return None


def channel_axis_of_constant(shape: Sequence[int]) -> int | None:
    """Return the axis of a constant that holds channels; None where that is not certain."""
    # The only long axis, as in a scale (1, C, 1, 1). Of a map or a depthwise kernel,
    # (1, C, H, W) or (C, 1, H, W), the long axis of the first two.
    size = max(shape, default=1)
    if size == math.prod(shape) > 1:
        return shape.index(size)
    if len(shape) > 2 and min(shape[:2]) == 1 < max(shape[:2]):
        return shape.index(max(shape[:2]))
    return None
