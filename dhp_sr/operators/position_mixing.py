"""Layers that mix positions, each channel by itself: their weights hold none of the channels.

    tokens (n, l, c) -> transposed (n, c, l) -> linear over l -> (n, c, m)        MLP-Mixer
    tokens (n, l, c) -> convolution of size 1, its channels being l -> (n, m, c)    gMLP
    pooled (n, c, 1) -> transposed (n, 1, c) -> convolution along c -> (n, 1, c)    ECA

The channels lie along an axis that the layer goes through entry by entry, and stay there. The
positions are those of the image, and all of them are needed.
"""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators.channel_ids import varying_axes
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import keep_channels_of_module
from dhp_sr.operators.layer_weights import LayerWeights, may_leave_constant, weight_shape

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def mixes_positions(op: OpContext) -> bool:
    """Return whether the channels of a layer's input lie along an axis that it leaves alone."""
    ids: Any = op.ids.get(op.source)
    if not isinstance(ids, Tensor) or not isinstance(LayerWeights(op).weight, str):
        return False
    varying = varying_axes(ids)
    if len(varying) != 1 or op.value.dim() != ids.dim():
        return False
    if isinstance(op.module, nn.Linear) or op.node.target is F.linear:
        return len(weight_shape(op)) > 1 and varying[0] != ids.dim() - 1
    # A convolution of a single pixel goes through the pixels one by one, and through the batch.
    if not isinstance(op.module, _CONVOLUTIONS) or op.module.groups > 1 or varying[0] == 1:
        return False
    if varying[0] == 0:  # channels as further images: `x.reshape(n * c, 1, h, w)`
        return True
    is_pointwise = math.prod(weight_shape(op)[2:]) == 1
    if is_pointwise:
        return op.shape(op.source)[2:] == op.value.shape[2:]
    return slides_along_channels(op)


def slides_along_channels(op: OpContext) -> bool:
    """Return whether a convolution goes along an axis of channels, and leaves it as long as it is.

    Each channel then reads its neighbors (ECA, triplet attention). After a cut these are others, so
    the masked network slides along the kept channels, too.
    """
    if not isinstance(op.module, _CONVOLUTIONS):
        return False
    layer: Any = op.module
    axis = varying_axes(op.ids[op.source])[0] - 2
    if axis < 0 or layer.kernel_size[axis] == 1 or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return bool(layer.padding == "same")
    overlap = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    return bool(layer.stride[axis] == 1 and 2 * layer.padding[axis] == overlap)


def mixed_positions_channels(op: OpContext) -> Tensor:
    """Keep the channels where they are, and pin both axes of the weight."""
    weights = LayerWeights(op)
    reason = f"positions that are mixed at {op.layer}"
    out_positions, in_positions = weight_shape(op)[:2]
    positions = op.analysis.union_find.new_ids(in_positions, op.layer)
    created = weights.new_out_channels(0, out_positions)
    weights.result(created)
    for ids in (weights.bind_axis(1, positions), created):
        op.analysis.pin(ids, reason)
    # A bias is added to all channels, those that are masked included.
    has_bias = weights.bias is not None
    op.analysis.leaves_constant[op.node] = has_bias or may_leave_constant(op, op.source)
    if slides_along_channels(op):
        keep_channels_of_module(op, varying_axes(op.ids[op.source])[0])
        op.analysis.leaves_constant[op.node] = False
    return op.ids[op.source]


def record_mixed_positions(op: OpContext) -> None:
    """Count the multiply-adds; the weight has no axis of the channels they are proportional to."""
    channels = op.ids[op.source].flatten()
    op.analysis.record_product(f"{op.node.name}()", op.macs, {0: channels})
    op.analysis.counted_calls.add(op.node)
