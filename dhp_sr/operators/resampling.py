"""Pooling, padding, resizing and sampling: they act inside each channel."""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.operators.channel_ids import lay_along
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.layers import slide_windows
from dhp_sr.operators.slicing import sliced
from dhp_sr.operators.spatial_layout import ReceptiveContext, ReceptiveField2D, map_image
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def _inside_channels(op: OpContext) -> Any:
    """Keep the channels; maximum pooling may return the indices of the maxima too."""
    channels = op.channels(op.source)
    if isinstance(op.value, tuple):
        return [lay_along(channels, value.dim(), 1) for value in op.value]
    return op.broadcast_along(channels)


def _sample(op: OpContext) -> Tensor:
    """Keep the channels that are sampled; pin the coordinates, which are two channels by their meaning."""
    grid = op.argument(1, "grid")
    if isinstance(grid, fx.Node):
        op.analysis.pin(op.ids.get(grid), f"coordinates of {op.operator} at {op.layer}")
    return op.broadcast_along(op.channels(op.source))


def _pad(op: OpContext) -> Tensor:
    """Keep the channels; new ones that padding adds are pinned, like those that it repeats."""
    amounts, mode = list(op.arg_value(1, "pad")), op.arg_value(2, "mode", "constant")
    ids = op.ids[op.source]
    for number in range(len(amounts) // 2):
        # torch lists the amounts from the last axis to the first.
        dim = op.value.dim() - 1 - number
        before, after = amounts[2 * number : 2 * number + 2]
        if ids.shape[dim] == 1:
            continue
        if mode != "constant" and (before or after):
            raise Unsupported(f"channels repeated by padding at {op.layer}")
        if min(before, after) < 0:
            raise Unsupported(f"channels cut off by padding at {op.layer}")
        ids = torch.cat((_added(op, ids, dim, before), ids, _added(op, ids, dim, after)), dim=dim)
    return ids


def _added(op: OpContext, ids: Tensor, dim: int, count: int) -> Tensor:
    """Return ids of `count` new pinned channels along `dim`."""
    shape = list(ids.shape)
    shape[dim] = count
    new = op.analysis.union_find.new_ids(torch.Size(shape).numel(), op.layer).reshape(shape)
    op.analysis.union_find.pin(new, f"padding at {op.layer}")
    return new


def _pooling_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a pooling with fixed windows."""
    if not isinstance(op.value, Tensor):
        raise op.unbounded("returns indices of pixels as well")
    kernel = op.option(1, "kernel_size")
    stride = op.option(2, "stride") or kernel
    padding = op.option(3, "padding", 0)
    # Average pooling has no dilation; its fourth argument is another one.
    is_maximum = "max" in op.operator.lower()
    dilation = op.option(4, "dilation", 1) if is_maximum else 1
    return slide_windows(op, kernel, stride, padding, dilation)


def _whole_image(op: ReceptiveContext) -> ReceptiveField2D:
    raise op.unbounded("may look at the whole image")


def _padded_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a padded image; padding counts as pixels outside it."""
    if op.module is not None:
        amounts = op.module.padding
        circular = isinstance(op.module, nn.CircularPad2d)
    else:
        amounts = op.arg_value(1, "pad")
        circular = op.arg_value(2, "mode", "constant") == "circular"
    if circular:
        raise op.unbounded("pads with the image's other end")
    field = op.field
    for number in range(len(amounts) // 2):
        dim = op.value.dim() - 1 - number
        before = amounts[2 * number]
        field = sliced(op, field, dim, range(-before, op.value.shape[dim] - before))
    return field


_NEIGHBORS = {"nearest": (0, 0), "nearest-exact": (0, 0), "bilinear": (0, 1), "bicubic": (-1, 2)}
"""Mode -> first and last source pixel of a resized pixel, relative to the one at its position."""


def _interpolated_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of resizing by a fixed factor, which the sizes for the example tell."""
    mode, corners = op.option(3, "mode", "nearest"), op.option(4, "align_corners")
    antialias = op.module is None and op.arg_value(6, "antialias", False)
    if mode not in _NEIGHBORS or corners or antialias:
        setting = f"{mode} with align_corners" if corners else mode
        raise op.unbounded(f"resizes by {setting}, whose receptive field is not known")
    if op.value.dim() != 4:
        raise op.unbounded("works on a value that is not (N, C, H, W)")
    first, last = _NEIGHBORS[mode]
    # Pixels are areas: their centers, half a pixel in, correspond. `nearest` takes their corners instead.
    center = Fraction(0) if mode == "nearest" else Fraction(1, 2)
    back = Fraction(0) if mode.startswith("nearest") else Fraction(1, 2)
    maps = []
    for before, after in zip(op.shape(op.source)[2:], op.value.shape[2:], strict=True):
        ratio = Fraction(before, after)

        def reads(entry: int, ratio: Fraction = ratio) -> Iterable[int]:
            position = ((entry + center) * ratio - back).__floor__()
            return range(position + first, position + last + 1)

        maps.append((reads, ratio))
    return map_image(op, maps, op.value.shape)


OPS = (
    OpSpec(
        "maximum pooling",
        (
            *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
            *spellings("max_pool1d max_pool2d max_pool3d", F),
        ),
        channels=_inside_channels,
        receptive_field=_pooling_field,
    ),
    OpSpec(
        "average pooling",
        (
            *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
            *spellings("avg_pool1d avg_pool2d avg_pool3d", F),
        ),
        channels=_inside_channels,
        receptive_field=_pooling_field,
    ),
    OpSpec(
        "adaptive pooling",
        (
            *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
            nn.AdaptiveMaxPool2d,
            *spellings("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d", F),
        ),
        channels=_inside_channels,
        receptive_field=_whole_image,
    ),
    OpSpec(
        "power-average pooling",
        (nn.LPPool2d, *spellings("lp_pool2d", F)),
        channels=_inside_channels,
        receptive_field=_whole_image,
    ),
    OpSpec(
        "padding module",
        (
            *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
            *(nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad2d),
        ),
        channels=_inside_channels,
        receptive_field=_padded_field,
    ),
    OpSpec("pad", (F.pad,), _pad, _padded_field),
    OpSpec(
        "resize",
        (
            *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
            *spellings("interpolate", F),
        ),
        channels=_inside_channels,
        receptive_field=_interpolated_field,
    ),
    OpSpec("grid_sample", (F.grid_sample,), _sample, _whole_image),
)
