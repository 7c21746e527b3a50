"""Convolutions and linear layers: their weights turn input channels into new output channels."""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import union_chunks
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.layer_weights import saved_weights, weight_shape
from dhp_sr.operators.position_mixing import mixed_positions_channels, mixes_positions
from dhp_sr.operators.receptive_field import ReceptiveField2D, plain_axis
from dhp_sr.operators.resampling import map_image, pair, slide_windows
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import CannotResize, MacRule, OpSpec, Shape, Shapes, Unsupported


def convolution_channels(op: OpContext) -> Tensor:
    """Create output channels; a depthwise convolution passes its input channels through.

    The weight is (out, in / groups, *kernel).
    """
    if mixes_positions(op):
        return mixed_positions_channels(op)
    incoming = op.channels(op.source)
    weights = saved_weights(op)
    groups = _groups(op)
    out_channels, per_group = weight_shape(op)[:2]
    _pin_sizes(op, is_depthwise=per_group == 1)
    if groups == 1:
        weights.pin_if_fixed(weights.bind_axis(1, incoming))
        return weights.result(weights.new_out_channels(0, out_channels))
    if per_group == 1:
        # Depthwise, with a multiplier: output channels k*m ... k*m + m - 1 stem from input channel
        # k.
        _record_functional_groups(op, incoming)
        passed = incoming.repeat_interleave(out_channels // len(incoming))
        return weights.result(weights.bind_axis(0, passed))
    # All groups share the second axis of the weight, so they must lose channels at the same
    # positions, and as many output channels each, to be of equal size again.
    union_find = op.analysis.union_find
    weights.pin_if_fixed(weights.bind_axis(1, union_chunks(incoming, groups, union_find)[0]))
    weights.record_groups(1, groups)
    created = weights.new_out_channels(0, out_channels)
    return weights.result(union_chunks(created, groups, union_find).flatten())


def transposed_channels(op: OpContext) -> Tensor:
    """Create output channels; a depthwise convolution passes its input channels through.

    The weight is (in, out / groups, *kernel).
    """
    incoming = op.channels(op.source)
    weights = saved_weights(op)
    groups = _groups(op)
    in_channels, per_group = weight_shape(op)[:2]
    _pin_sizes(op, is_depthwise=groups == in_channels)
    if 1 < groups < in_channels:
        # torch divides the input channels evenly, so every group must lose as many. (A depthwise
        # layer loses whole groups instead.)
        union_chunks(incoming, groups, op.analysis.union_find)
    incoming = weights.bind_axis(0, incoming)
    if 1 < groups == in_channels:
        _record_functional_groups(op, incoming)
        return weights.result(incoming.repeat_interleave(per_group))
    weights.record_groups(1, groups)
    weights.pin_if_fixed(incoming)
    # The second axis holds the output channels of one group; the others have the same ones again.
    return weights.result(weights.new_out_channels(1, per_group).repeat(groups))


def linear_channels(op: OpContext) -> Tensor:
    """Create output channels on the last axis."""
    if mixes_positions(op):
        return mixed_positions_channels(op)
    weights = saved_weights(op)
    weights.pin_if_fixed(weights.bind_axis(1, op.channels(op.source, dim=-1)))
    return weights.result(weights.new_out_channels(0, weight_shape(op)[0]), dim=-1)


def _groups(op: NodeContext) -> int:
    return op.option(6, "groups", 1)


def _pin_sizes(op: OpContext, *, is_depthwise: bool) -> None:
    """Pin the channels counted by an argument, but for the groups of a depthwise layer."""
    groups = list(op.channel_sizes(op.argument(6, "groups"))) if is_depthwise else []
    for size in op.channel_sizes():
        if not any(size is counted for counted in groups):
            op.analysis.pin(size, f"a number of channels goes into {op.operator} at {op.layer}")


def _record_functional_groups(op: OpContext, channels: Tensor) -> None:
    """Record that the argument `groups` of a functional depthwise convolution counts channels.

    A module takes its groups from the resized weight, see `resize`.
    """
    if op.module is None:
        counted = ChannelRange(op.broadcast_along(channels), 1, len(channels), (0, len(channels)))
        op.record_size(op.arg_path(6, "groups"), counted, op.argument(6, "groups"))


def convolution_positions(op: NodeContext) -> int:
    """Return the number of output positions: each of them meets every entry of the weight."""
    _check_batch_axis(op)
    # Windows of an image may lie in the batch axis, which has length 1 otherwise.
    return op.value.shape[0] * math.prod(op.value.shape[2:])


def transposed_positions(op: NodeContext) -> int:
    """Return the number of input positions: each of them meets every entry of the weight."""
    _check_batch_axis(op)
    shape = op.shape(op.source)
    return shape[0] * math.prod(shape[2:])


def transposed_out_dim(op: NodeContext) -> int:
    """Return the axis of the weight that holds the output channels."""
    # A depthwise layer passes its input channels through, which lie along the first axis.
    return 0 if 1 < _groups(op) == weight_shape(op)[0] else 1


def _check_batch_axis(op: NodeContext) -> None:
    if op.value.dim() != len(weight_shape(op)):
        raise Unsupported(f"{op.operator} at {op.layer} has an input without batch axis")


def linear_positions(op: NodeContext) -> int:
    """Return the number of rows that the matrix is multiplied with, for a batch of one."""
    if len(weight_shape(op)) == 1:
        raise Unsupported(f"{op.operator} at {op.layer} has a single output without an axis")
    return math.prod(op.value.shape[:-1])


def convolution_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a convolution: a sliding window."""
    kernel, stride, padding, dilation = _window(op, dilation_index=5)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        # For an even kernel torch pads the additional pixel behind; before, it is rounded down.
        rows, columns = pair(dilation)
        padding = (rows * (kernel[0] - 1) // 2, columns * (kernel[1] - 1) // 2)
    return slide_windows(op, kernel, stride, padding, dilation)


def transposed_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the input entries that a transposed convolution adds up at each output position."""
    maps = []
    settings = zip(*map(pair, _window(op, dilation_index=7)), strict=True)
    for size, step, before, gap in settings:
        shifts = range(before, before - gap * size, -gap)

        def reads(entry: int, step: int = step, shifts: range = shifts) -> Iterable[int]:
            # Input entry j contributes to the outputs j * step - before + gap * k, for k in the
            # kernel.
            return [(entry + s) // step for s in shifts if (entry + s) % step == 0]

        maps.append((reads, Fraction(1, step)))
    return map_image(op, maps, op.value.shape)


def _window(op: ReceptiveContext, dilation_index: int) -> tuple[Any, Any, Any, Any]:
    """Return kernel, stride, padding and dilation of a convolution."""
    if getattr(op.module, "padding_mode", "") == "circular":
        raise op.unbounded("pads with the image's other end")
    kernel = weight_shape(op)[2:]
    if len(kernel) != 2:
        raise op.unbounded("works on a value that is not (N, C, H, W)")
    dilation = op.option(dilation_index, "dilation", 1)
    return kernel, op.option(3, "stride", 1), op.option(4, "padding", 0), dilation


def linear_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a linear layer, which combines all entries of the last axis."""
    field = mix_axes(op, op.field, [-1])
    layout = (*field.layout[:-1], plain_axis(op.value.shape[-1]))
    return ReceptiveField2D(field.rows, field.columns, field.lengths, layout)


def resize_convolution(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the widths of a convolution; its weight is (out, in / groups, *kernel)."""
    whole, per_group = new["weight"][:2]
    layer.groups = _resized_groups(layer.groups, old, new, depthwise=old["weight"][1] == 1)
    layer.in_channels = per_group * layer.groups
    layer.out_channels = whole
    return _bias_shape(new, whole)


def resize_transposed(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the widths of a transposed convolution; its weight is (in, out / groups, *kernel)."""
    whole, per_group = new["weight"][:2]
    depthwise = old["weight"][0] == layer.groups
    layer.groups = _resized_groups(layer.groups, old, new, depthwise)
    layer.in_channels = whole
    layer.out_channels = per_group * layer.groups
    return _bias_shape(new, layer.out_channels)


def _resized_groups(
    groups: int, old: Mapping[str, Shape], new: Mapping[str, Shape], depthwise: bool
) -> int:
    """Return the number of groups after the change."""
    before, after = old["weight"], new["weight"]
    if before[2:] != after[2:]:
        raise CannotResize(f"weight: expected a kernel of {before[2:]}, found {after[2:]}")
    # A depthwise convolution loses whole groups; any other keeps its groups and narrows them.
    per_group = before[0] // groups
    if groups > 1 and depthwise and before[1] == after[1] and after[0] % per_group == 0:
        groups = after[0] // per_group
    if after[0] % groups:
        raise CannotResize(
            f"weight: expected a first axis divisible by groups={groups}, found {after}"
        )
    return groups


def resize_linear(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the widths of a linear layer; its weight is (out, in)."""
    layer.out_features, layer.in_features = new["weight"]
    return _bias_shape(new, layer.out_features)


def _bias_shape(new: Mapping[str, Shape], out_channels: int) -> Shapes:
    return {"bias": (out_channels,)} if "bias" in new else {}


OPS = (
    OpSpec(
        "convolution",
        (nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d),
        channels=convolution_channels,
        receptive_field=convolution_field,
        takes_sizes=True,
        value_inputs=1,
        macs=MacRule("conv", convolution_positions),
        resize=resize_convolution,
    ),
    OpSpec(
        "transposed convolution",
        (
            *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
            *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        ),
        channels=transposed_channels,
        receptive_field=transposed_field,
        takes_sizes=True,
        value_inputs=1,
        macs=MacRule("transposed conv", transposed_positions, transposed_out_dim),
        resize=resize_transposed,
    ),
    OpSpec(
        "linear",
        (nn.Linear, F.linear),
        channels=linear_channels,
        receptive_field=linear_field,
        value_inputs=1,
        macs=MacRule("linear", linear_positions),
        resize=resize_linear,
    ),
)
