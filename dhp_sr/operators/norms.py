"""Normalization and softmax: exact where they do not mix channels pruned separately."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import couple_unless_alone, union_blocks, varying_axes
from dhp_sr.operators.channel_norms import NEIGHBORS_NORM, keep_statistics
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.functional_norms import (
    WITH_SHAPE,
    functional_group_norm_channels,
    functional_norm_channels,
    keep_channels_of_norm,
)
from dhp_sr.operators.kept_calls import (
    axis_of_statistics,
    keep_channels_of_call,
    keep_channels_of_module,
)
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import (
    Activation,
    CannotResize,
    OpSpec,
    Shape,
    Shapes,
    Unsupported,
    spellings,
)


def norm_channels(op: OpContext) -> Tensor:
    """Couple the vectors of a module, such as gain and running mean, with the channels."""
    if op.module is None:
        return functional_norm_channels(op)
    axes = varying_axes(op.ids[op.source])
    if len(axes) == 1 and axes[0] > 1:
        # Maps over channels and rows, say, with vectors that hold no channels (triplet attention).
        return op.broadcast_along(keep_channels_of_module(op, axes[0]), axes[0])
    channels = op.channels(op.source)
    tensors = _tensors(op.module)
    if not tensors:
        # Without tensors (affine=False, no running statistics) a cut network would keep the old
        # width as an attribute, and refuse its input: the attribute is a size like any other.
        size = len(channels)
        counted = ChannelRange(op.broadcast_along(channels), 1, size, (0, size))
        op.record_size(("module", "num_features"), counted, size)
    for name, tensor in tensors.items():
        if tensor.dim() == 1 and len(tensor) == len(channels) > 1:
            op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def group_norm_channels(op: OpContext) -> Tensor:
    """Couple the channels of each group of the normalization.

    Raises:
        Unsupported: No weight that tells the width.
    """
    # A group's statistics are taken over all of its channels: with some of them pruned the others
    # would be normalized differently. So a group is pruned as a whole.
    channels = op.channels(op.source)
    groups = op.option(1, "num_groups")
    if op.module is None:
        return functional_group_norm_channels(op, channels, groups)
    if not op.module.affine:
        raise Unsupported(f"GroupNorm at {op.layer} has no weight that tells the width")
    if groups == 1:
        return keep_statistics(op, 1)
    union_blocks(channels, groups, op.analysis.union_find)
    for name in _tensors(op.module):
        op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def axes_norm_channels(op: OpContext) -> Any:
    """Keep the channels, unless they all lie along axes of the statistics (or of a softmax).

    Raises:
        Unsupported: What is computed for a channel depends on all others.
    """
    dims = list(_statistics_axes(op))
    layer = op.module
    is_layer_norm = isinstance(layer, (nn.LayerNorm, nn.RMSNorm))
    if is_layer_norm and math.prod(layer.normalized_shape) == max(layer.normalized_shape):
        # Over channels alone: (C,), or (C, 1, 1) behind a pooling.
        dim = axis_of_statistics(op, dims)
        if dim is not None and layer.weight is not None:
            return keep_statistics(op, dim)
        if dim is not None:
            return _norm_without_weights(op, dim)
    ids = couple_unless_alone(op.ids[op.source], dims, op.analysis.union_find, op.layer)
    if ids is not None:
        for size in op.channel_sizes():
            op.analysis.pin(size, f"a number of channels goes into {op.operator} at {op.layer}")
        return ids
    dim = axis_of_statistics(op, dims)
    if dim is None or is_layer_norm:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    if op.node.target in WITH_SHAPE:
        return keep_channels_of_norm(op, dim)
    if layer is not None:
        return keep_statistics(op, dim)
    channels = keep_channels_of_call(op, dim, returns_channels=True)
    return op.broadcast_along(channels, dim)


def _norm_without_weights(op: OpContext, dim: int) -> Tensor:
    """Keep the channels of a LayerNorm without weights, whose width is an attribute alone.

    Raises:
        Unsupported: The width is one of several sizes.
    """
    assert op.module is not None, "a LayerNorm"
    if len(op.module.normalized_shape) > 1:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    channels = keep_channels_of_module(op, dim)
    laid_out = op.broadcast_along(channels, dim)
    size = len(channels)
    counted = ChannelRange(laid_out, dim, size, (0, size))
    op.record_size(("module", "normalized_shape"), [counted], size)
    return laid_out


def _statistics_axes(op: NodeContext) -> Iterable[int]:
    """Return the axes over which a normalization takes its statistics."""
    if hasattr(op.module, "normalized_shape") or op.node.target in WITH_SHAPE:
        return range(-len(op.option(1, "normalized_shape")), 0)
    if op.node.target is F.normalize:
        dim = op.arg_value(2, "dim", 1)
        return dim if isinstance(dim, (tuple, list)) else [dim]
    # torch guesses the axis of a softmax that is not given; for images it is that of the channels.
    dim = op.option(1, "dim")
    if dim is None:
        dim = 0 if op.value.dim() in (0, 1, 3) else 1
    return [dim]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])


def norm_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the unchanged field of a normalization with stored statistics, or of a PReLU."""
    # Stored statistics are a number for each entry of axis 1. Were that axis rows or columns,
    # they would differ from pixel to pixel.
    if _takes_statistics(op) or op.field.holds_space(1):
        raise op.unbounded("takes statistics of the whole image")
    return op.field


def _takes_statistics(op: ReceptiveContext) -> bool:
    """Return whether a batch normalization works with statistics of its input."""
    if isinstance(op.module, nn.modules.batchnorm._BatchNorm):
        return op.module.running_mean is None
    if op.node.target is F.batch_norm:
        return op.arg_value(1, "running_mean") is None or bool(op.arg_value(5, "training", False))
    return False


def whole_image_statistics(op: ReceptiveContext) -> ReceptiveField2D:
    """Refuse a normalization that takes statistics over all pixels.

    Raises:
        Unbounded: Always.
    """
    raise op.unbounded("takes statistics of the whole image")


def axes_norm_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a normalization over some axes: it combines all entries along them."""
    return mix_axes(op, op.field, _statistics_axes(op))


def resize_norm(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the width of a batch or instance normalization.

    Every tensor is (C,), except the counter of batches, which is a scalar.
    """
    vectors = [name for name, shape in old.items() if len(shape) == 1]
    layer.num_features = new[vectors[0]][0]
    return {name: (layer.num_features,) for name in vectors}


def resize_group_norm(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the width of a group normalization, which loses or gains whole groups."""
    channels = new["weight"][0]
    if layer.num_groups == 1:
        layer.num_channels = channels
        return dict.fromkeys(new, (channels,))
    per_group = layer.num_channels // layer.num_groups
    if channels % per_group:
        raise CannotResize(f"weight: expected a multiple of {per_group} channels, found {channels}")
    layer.num_channels = channels
    layer.num_groups = channels // per_group
    return dict.fromkeys(new, (channels,))


def resize_normalized_shape(
    layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> Shapes:
    """Set the width of a layer normalization."""
    layer.normalized_shape = new["weight"]
    return dict.fromkeys(new, new["weight"])


def resize_prelu(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the width of a PReLU."""
    layer.num_parameters = new["weight"][0]
    return {}


OPS = (
    OpSpec(
        "batch normalization",
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, F.batch_norm),
        channels=norm_channels,
        receptive_field=norm_field,
        resize=resize_norm,
    ),
    OpSpec(
        "instance normalization",
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, F.instance_norm),
        channels=norm_channels,
        receptive_field=whole_image_statistics,
        resize=resize_norm,
    ),
    OpSpec(
        "prelu",
        (nn.PReLU, *spellings("prelu", F, torch)),
        channels=norm_channels,
        receptive_field=norm_field,
        activation=Activation.NONLINEARITY,
        resize=resize_prelu,
    ),
    OpSpec(
        "group normalization",
        (nn.GroupNorm, F.group_norm),
        channels=group_norm_channels,
        receptive_field=whole_image_statistics,
        resize=resize_group_norm,
    ),
    OpSpec(
        "layer normalization",
        (nn.LayerNorm, F.layer_norm),
        channels=axes_norm_channels,
        receptive_field=axes_norm_field,
        takes_sizes=True,
        resize=resize_normalized_shape,
    ),
    OpSpec(
        "root-mean-square normalization",
        (nn.RMSNorm, F.rms_norm),
        channels=axes_norm_channels,
        receptive_field=axes_norm_field,
        takes_sizes=True,
        resize=resize_normalized_shape,
    ),
    NEIGHBORS_NORM,
    OpSpec(
        "softmax",
        (
            *(nn.Softmax, nn.LogSoftmax, nn.Softmin),
            *spellings("softmax log_softmax softmin", F, torch),
        ),
        channels=axes_norm_channels,
        receptive_field=axes_norm_field,
    ),
    OpSpec(
        "unit length",
        (F.normalize,),
        channels=axes_norm_channels,
        receptive_field=axes_norm_field,
    ),
)
