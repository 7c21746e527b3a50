"""One small rule per operator: what it does to channels.

A rule gets a `OpContext` and returns the ids of the op's result, broadcastable to it. An operator that is not in the
tables pins its inputs, so nothing is pruned wrongly.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dhp_sr.operators import elementwise as pointwise
from dhp_sr.operators import layers, norms, reductions
from dhp_sr.operators import rearrange as shapes
from dhp_sr.operators import sizes as numbers
from dhp_sr.operators import slicing as parts
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.elementwise import (
    alike,
    combine,
    divide,
    elementwise,
    ignore,
    spatial,
    unknown,
)
from dhp_sr.operators.rearrange import moved
from dhp_sr.operators.reductions import reduction

Rule = Callable[[OpContext], Any]

_ACTIVATION_MODULES = (
    *(
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.RReLU,
        nn.ELU,
        nn.CELU,
        nn.SELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Tanh,
    ),
    *(
        nn.Hardtanh,
        nn.Hardswish,
        nn.Softplus,
        nn.Softsign,
        nn.Sigmoid,
        nn.Hardsigmoid,
        nn.LogSigmoid,
    ),
    *(nn.Threshold, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
)

MODULE_RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), layers.convolution),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), layers.transposed_convolution
    ),
    nn.Linear: layers.linear,
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), norms.per_channel
    ),
    **dict.fromkeys(
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU), norms.per_channel
    ),
    nn.GroupNorm: norms.group_norm,
    nn.LayerNorm: norms.layer_norm,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.Softmin), norms.over_axis),
    **dict.fromkeys((*_ACTIVATION_MODULES, nn.Identity), elementwise),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), elementwise
    ),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool2d), spatial),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), spatial),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), spatial),
    **dict.fromkeys(
        (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d),
        pointwise.pooling_with_places,
    ),
    **dict.fromkeys(
        (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d), spatial
    ),
    **dict.fromkeys((nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad2d), spatial),
    nn.PixelShuffle: shapes.pixel_shuffle,
    nn.PixelUnshuffle: shapes.pixel_unshuffle,
    nn.ChannelShuffle: shapes.channel_shuffle,
    nn.GLU: parts.halves,
    nn.Flatten: moved,
}
"""Leaf modules."""

_POINTWISE = "relu relu_ sigmoid tanh clamp clamp_ clamp_min clamp_max clip abs neg square exp erf sin cos round"
_ALIKE = (
    "contiguous clone detach float double half to type_as zeros_like ones_like logical_not isnan"
)
_ACTIVATION_FUNCTIONS = (
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ celu selu gelu silu mish hardtanh hardswish hardsigmoid softplus "
    "softsign tanhshrink softshrink hardshrink logsigmoid sigmoid tanh"
)
_DROPOUTS = "dropout dropout1d dropout2d dropout3d"
_POOLING_FUNCTIONS = (
    "interpolate avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d lp_pool2d"
)
_REDUCTIONS = "mean sum amax amin std var prod logsumexp argmax argmin any all"
_MOVES = "permute transpose swapaxes swapdims movedim moveaxis squeeze unsqueeze flip tile flatten ravel t"
_COMPARISONS = "eq ne lt le gt ge maximum minimum logical_and logical_or where"


def _found(names: str, *places: Any) -> list[Any]:
    """Return the functions of these names in torch's modules, and the names themselves, for methods of tensors."""
    functions = [
        getattr(place, name) for name in names.split() for place in places if hasattr(place, name)
    ]
    return [*functions, *names.split()]


FUNCTION_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_found(_POINTWISE, torch), elementwise),
    **dict.fromkeys(_found(_ALIKE, torch), alike),
    **dict.fromkeys(_found(f"{_ACTIVATION_FUNCTIONS} {_DROPOUTS}", F), elementwise),
    **dict.fromkeys((operator.neg, operator.pos, operator.abs, abs), elementwise),
    "torchvision.ops.stochastic_depth.stochastic_depth": elementwise,
    **dict.fromkeys(
        _found("add sub mul add_ sub_ mul_ iadd isub imul lerp addcmul", torch, operator), combine
    ),
    **dict.fromkeys(_found(_COMPARISONS, torch, operator), combine),
    **dict.fromkeys(_found("div div_ true_divide truediv itruediv", torch, operator), divide),
    **dict.fromkeys(_found("sqrt rsqrt log log2 log10 log1p reciprocal", torch), pointwise.root),
    **dict.fromkeys((torch.pow, operator.pow, "pow"), pointwise.power),
    **dict.fromkeys(_found(_REDUCTIONS, torch), reduction),
    **dict.fromkeys(_found("max min", torch), reductions.extremum),
    **dict.fromkeys((torch.norm, "norm"), reductions.norm),
    **dict.fromkeys(_found(_POOLING_FUNCTIONS, F), spatial),
    **dict.fromkeys(
        _found("max_pool1d max_pool2d max_pool3d adaptive_max_pool2d", F),
        pointwise.pooling_with_places,
    ),
    F.pad: pointwise.pad,
    F.grid_sample: pointwise.sample,
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), layers.convolution),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), layers.transposed_convolution
    ),
    F.linear: layers.linear,
    **dict.fromkeys(
        (F.batch_norm, F.instance_norm, F.prelu, torch.prelu), norms.per_channel_function
    ),
    F.layer_norm: norms.layer_norm,
    F.normalize: norms.unit_length,
    **dict.fromkeys(_found("softmax log_softmax softmin", F, torch), norms.over_axis),
    **dict.fromkeys(_found(_MOVES, torch), moved),
    **dict.fromkeys(_found("repeat repeat_interleave", torch), moved),
    **dict.fromkeys(("view_as", "reshape_as"), shapes.like_another),
    "expand_as": combine,
    **dict.fromkeys((torch.reshape, "reshape", "view"), shapes.reshape),
    **dict.fromkeys((torch.unflatten, "unflatten"), shapes.unflatten),
    "expand": shapes.expand,
    **dict.fromkeys((torch.chunk, "chunk"), parts.chunk),
    **dict.fromkeys((torch.tensor_split, "tensor_split"), parts.tensor_split),
    **dict.fromkeys((torch.split, "split", "split_with_sizes"), parts.split),
    **dict.fromkeys((torch.unbind, "unbind"), parts.unbind),
    **dict.fromkeys((torch.narrow, "narrow"), parts.narrow),
    operator.getitem: parts.item,
    operator.setitem: pointwise.set_item,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), shapes.concatenate),
    torch.hstack: shapes.concatenate_channels,
    torch.stack: shapes.stack,
    **dict.fromkeys((torch.roll, "roll"), shapes.roll),
    F.pixel_shuffle: shapes.pixel_shuffle,
    F.pixel_unshuffle: shapes.pixel_unshuffle,
    F.channel_shuffle: shapes.channel_shuffle,
    F.glu: parts.halves,
    getattr: numbers.attribute,
    "size": numbers.size,
    "numel": numbers.count,
    **dict.fromkeys(("dim", "get_device", "is_floating_point", math.prod), ignore),
    torch._assert: numbers.insist,
    "torch.fx._symbolic_trace._assert_is_none": ignore,
}
"""Functions, and methods of tensors by name."""

_LAYER_RULES = (layers.convolution, layers.transposed_convolution, layers.linear)
FUNCTIONAL_LAYERS = tuple(target for target, rule in FUNCTION_RULES.items() if rule in _LAYER_RULES)
"""Functions that are given a layer's weight and bias."""

_GATES = frozenset((nn.Sigmoid, nn.Hardsigmoid, *_found("sigmoid hardsigmoid", F, torch)))
_FURTHER = (nn.PReLU, nn.GLU, *_found("prelu glu clamp clamp_min", F, torch))
ACTIVATIONS = (
    frozenset((*_ACTIVATION_MODULES, *_FURTHER, *_found(_ACTIVATION_FUNCTIONS, F, torch))) - _GATES
)
"""Types of modules and functions; not those that gate other channels, nor products of two values, which do the same."""

_TAKES_SIZES = (
    shapes.reshape,
    shapes.unflatten,
    shapes.expand,
    parts.split,
    parts.item,
    parts.narrow,
    numbers.insist,
)
"""Rules of operators whose arguments may be numbers of channels."""


def rule_for(node: fx.Node, module: nn.Module | None) -> Rule:
    """Return the rule of a node's operator, or `unknown`."""
    if module is not None:
        hooked = (
            module._forward_hooks or module._forward_pre_hooks
        )  # they may change what the layer computes
        return unknown if hooked else MODULE_RULES.get(type(module), unknown)
    target = node.target
    if target not in FUNCTION_RULES and not isinstance(target, str):
        target = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    return FUNCTION_RULES.get(target, unknown)


def is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    """Return whether a node is an activation."""
    return (type(module) if module is not None else node.target) in ACTIVATIONS


def takes_sizes(rule: Rule) -> bool:
    """Return whether a number of channels may go into an operator without changing what it computes."""
    return rule in _TAKES_SIZES
