"""Normalization and softmax: exact as long as their statistics do not mix channels that are pruned separately."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.channel_ids import union_blocks
from dhp_sr.operators.context import NodeContext, OpContext
from dhp_sr.operators.spatial_layout import ReceptiveContext, ReceptiveField2D, mix_axes
from dhp_sr.operators.spec import (
    Activation,
    CannotResize,
    OpSpec,
    Shape,
    Shapes,
    Unsupported,
    spellings,
)


def _per_channel(op: OpContext) -> Tensor:
    """Couple the vectors of a module, such as gain and running mean, with the channels."""
    if op.module is None:
        return _per_channel_function(op)
    channels, tensors = op.channels(op.source), _tensors(op.module)
    if not tensors:
        # Without tensors a cut cannot see the width: it is an attribute that has to be set.
        size = len(channels)
        counted = ChannelRange(op.broadcast_along(channels), 1, size, (0, size))
        op.record_size(("module", "num_features"), counted, size)
    for name, tensor in tensors.items():
        if tensor.dim() == 1 and len(tensor) == len(channels) > 1:
            op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def _per_channel_function(op: OpContext) -> Tensor:
    """Couple every vector that `F.batch_norm` or the like is given with the channels."""
    channels = op.channels(op.source)
    for node in op.node.all_input_nodes[1:]:
        if op.shape(node) == (len(channels),) != (1,):
            op.analysis.union_find.union(op.channels(node, 0), channels)
    return op.broadcast_along(channels)


def _group_norm(op: OpContext) -> Tensor:
    """Couple the channels of each group of the normalization: its statistics are taken over all of them."""
    channels, groups = op.channels(op.source), op.module.num_groups
    if groups == 1 or not op.module.affine:
        raise Unsupported(
            f"GroupNorm at {op.layer} takes its statistics over all channels, or has no weight"
        )
    union_blocks(channels, groups, op.analysis.union_find)
    for name in _tensors(op.module):
        op.analysis.bind_axis(f"{op.layer}.{name}", 0, channels)
    return op.broadcast_along(channels)


def _over_axes(op: OpContext) -> Any:
    """Keep the channels, unless they lie along an axis of the statistics."""
    for dim in _statistics_axes(op):
        if op.varies_along(op.source, dim):
            raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    return op.ids[op.source]


def _statistics_axes(op: NodeContext) -> Iterable[int]:
    """Return the axes over which a normalization takes its statistics."""
    if _has_normalized_shape(op):
        return range(-len(op.option(1, "normalized_shape")), 0)
    if op.node.target is F.normalize:
        dim = op.arg_value(2, "dim", 1)
        return dim if isinstance(dim, (tuple, list)) else [dim]
    dim = op.option(1, "dim")
    return [1 if dim is None else dim]


def _has_normalized_shape(op: NodeContext) -> bool:
    return hasattr(op.module, "normalized_shape") or op.node.target in (F.layer_norm, F.rms_norm)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])


def _per_channel_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the unchanged field of a normalization with stored statistics, or of a PReLU."""
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


def _whole_image(op: ReceptiveContext) -> ReceptiveField2D:
    raise op.unbounded("takes statistics of the whole image")


def _over_axes_field(op: ReceptiveContext) -> ReceptiveField2D:
    return mix_axes(op, op.field, _statistics_axes(op))


def _resize_norm(layer: nn.Module, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Batch and instance normalization: every tensor is (C,), except the counter of batches."""
    vectors = [name for name, shape in old.items() if len(shape) == 1]
    layer.num_features = new[vectors[0]][0]
    return {name: (layer.num_features,) for name in vectors}


def _resize_group_norm(
    layer: nn.Module, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> Shapes:
    """Group normalization loses or gains whole groups, each of which takes statistics over all of its channels."""
    channels, per_group = new["weight"][0], layer.num_channels // layer.num_groups
    if channels % per_group:
        raise CannotResize(f"weight: expected a multiple of {per_group} channels, found {channels}")
    layer.num_channels, layer.num_groups = channels, channels // per_group
    return dict.fromkeys(new, (channels,))


def _resize_normalized_shape(
    layer: nn.Module, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> Shapes:
    layer.normalized_shape = new["weight"]
    return dict.fromkeys(new, new["weight"])


def _resize_prelu(layer: nn.Module, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    layer.num_parameters = new["weight"][0]
    return {}


OPS = (
    OpSpec(
        "batch normalization",
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, F.batch_norm),
        channels=_per_channel,
        receptive_field=_per_channel_field,
        resize=_resize_norm,
    ),
    OpSpec(
        "instance normalization",
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, F.instance_norm),
        channels=_per_channel,
        receptive_field=_whole_image,
        resize=_resize_norm,
    ),
    OpSpec(
        "prelu",
        (nn.PReLU, *spellings("prelu", F, torch)),
        channels=_per_channel,
        receptive_field=_per_channel_field,
        activation=Activation.NONLINEARITY,
        resize=_resize_prelu,
    ),
    OpSpec(
        "group normalization",
        (nn.GroupNorm,),
        channels=_group_norm,
        receptive_field=_whole_image,
        resize=_resize_group_norm,
    ),
    OpSpec(
        "layer normalization",
        (nn.LayerNorm, F.layer_norm),
        channels=_over_axes,
        receptive_field=_over_axes_field,
        resize=_resize_normalized_shape,
    ),
    OpSpec(
        "softmax",
        (
            *(nn.Softmax, nn.LogSoftmax, nn.Softmin),
            *spellings("softmax log_softmax softmin", F, torch),
        ),
        channels=_over_axes,
        receptive_field=_over_axes_field,
    ),
    OpSpec(
        "unit length",
        (F.normalize,),
        channels=_over_axes,
        receptive_field=_over_axes_field,
    ),
)
