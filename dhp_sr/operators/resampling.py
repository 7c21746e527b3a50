"""Operators on images: pooling, padding, resizing, sampling, pixel shuffles."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.operators.channel_ids import lay_along, union_blocks
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import Digit, Reads, ReceptiveField2D, plain_axis
from dhp_sr.operators.slicing import sliced
from dhp_sr.operators.spatial_layout import mix_axes, normalized
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


def unmixed_channels(op: OpContext) -> Any:
    """Keep the channels; maximum pooling may return the indices of the maxima too.

    Raises:
        Unsupported: Axis 1 does not hold the channels, as without a batch axis.
    """
    channels = op.channels(op.source)
    has_indices = isinstance(op.value, tuple)
    pooled = op.value[0] if has_indices else op.value
    if pooled.shape[1] != len(channels):
        raise Unsupported(f"{op.operator} at {op.layer} changes the length of axis 1")
    kept = lay_along(channels, pooled.dim(), 1)
    return [kept, kept] if has_indices else kept


def grid_sample_channels(op: OpContext) -> Tensor:
    """Keep the channels that are sampled; pin the coordinates."""
    grid = op.argument(1, "grid")  # a coordinate pair is two channels by its meaning
    if isinstance(grid, fx.Node):
        op.analysis.pin(op.ids.get(grid), f"coordinates of {op.operator} at {op.layer}")
    return op.broadcast_along(op.channels(op.source))


def padding_channels(op: OpContext) -> Tensor:
    """Keep the channels; new ones that padding adds are pinned, like those that it repeats."""
    amounts, mode = list(op.arg_value(1, "pad")), op.arg_value(2, "mode", "constant")
    ids = op.ids[op.source]
    for number in range(len(amounts) // 2):
        dim = op.value.dim() - 1 - number  # torch lists the amounts from the last axis on
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


def map_image(
    op: ReceptiveContext, maps: Sequence[tuple[Reads, Fraction]], shape: Sequence[int]
) -> ReceptiveField2D:
    """Return the field of an operator that works on images, such as a convolution.

    Args:
        op: The operator; its first input must be (N, C, H, W), rows and columns in either order.
        maps: (reads, ratio) along the last two axes, see `propagate`.
        shape: Shape of the result.
    """
    field = op.field
    if len(field.layout) != 4 or len(shape) != 4:
        raise op.unbounded("works on a value that is not (N, C, H, W)")
    field = normalized(op, mix_axes(op, field, (0, 1)))
    layout = [plain_axis(shape[0]), plain_axis(shape[1])]
    for dim, (reads, ratio) in zip((2, 3), maps, strict=True):
        digits = field.layout[dim]
        if len(digits) != 1 or digits[0].spatial is None:
            raise op.unbounded("works on a value whose last axes are not rows and columns")
        spatial = digits[0].spatial
        along = op.propagated(field.along(spatial), reads, ratio, shape[dim])
        field = field.replaced(spatial, along, shape[dim])
        layout.append((Digit(spatial, shape[dim], 1),))
    return replace(field, layout=tuple(layout))


def pair(value: Any) -> tuple[Any, Any]:
    """Return a setting for rows and columns that is given once or twice."""
    if isinstance(value, (int, float)):
        return (value, value)
    values = tuple(value)
    if len(values) == 1:
        values *= 2
    return values


def slide_windows(
    op: ReceptiveContext, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> ReceptiveField2D:
    """Return the field of a sliding window, such as that of a convolution or a pooling."""
    maps = []
    if op.value.dim() != 4:
        raise op.unbounded("works on a value that is not (N, C, H, W)")
    settings = zip(*map(pair, (kernel, stride, padding, dilation)), strict=True)
    for size, step, before, gap in settings:
        taps = range(-before, gap * (size - 1) - before + 1, gap)

        def reads(entry: int, step: int = step, taps: range = taps) -> Iterable[int]:
            return [step * entry + tap for tap in taps]

        maps.append((reads, Fraction(step)))
    return map_image(op, maps, op.value.shape)


def pooling_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a pooling with fixed windows."""
    if not isinstance(op.value, Tensor):
        raise op.unbounded("returns indices of pixels as well")
    kernel = op.option(1, "kernel_size")
    stride = op.option(2, "stride") or kernel
    padding = op.option(3, "padding", 0)
    # Average pooling has no dilation; its fourth argument means something else.
    dilation = op.option(4, "dilation", 1) if "max" in op.operator.lower() else 1
    return slide_windows(op, kernel, stride, padding, dilation)


def whole_image_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Refuse an operator that may look at the whole image.

    Raises:
        Unbounded: Always.
    """
    raise op.unbounded("may look at the whole image")


def padded_field(op: ReceptiveContext) -> ReceptiveField2D:
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


def interpolated_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of resizing by a fixed factor, which the sizes for the example tell."""
    mode = op.option(3, "mode", "nearest")
    corners = op.option(4, "align_corners")
    antialias = op.module is None and op.arg_value(6, "antialias", False)
    if mode not in _NEIGHBORS or corners or antialias:
        setting = f"{mode} with align_corners" if corners else mode
        raise op.unbounded(f"resizes by {setting}, whose receptive field is not known")
    if op.value.dim() != 4:
        raise op.unbounded("works on a value that is not (N, C, H, W)")
    size = op.argument(1, "size") if op.module is None else op.module.size
    sides = size if isinstance(size, (tuple, list)) else [size]
    if any(isinstance(side, int) for side in sides):
        raise op.unbounded("resizes to a written size, which does not grow with the image")
    first, last = _NEIGHBORS[mode]
    # Pixels are areas: their centers, half a pixel in, correspond. `nearest` takes their corners.
    center = Fraction(mode != "nearest", 2)
    back = Fraction(not mode.startswith("nearest"), 2)
    maps = []
    factors = pair(op.option(2, "scale_factor") or 0)
    lengths = zip(op.shape(op.source)[2:], op.value.shape[2:], factors, strict=True)
    for before, after, factor in lengths:
        ratio = Fraction(before, after)
        # 48 * 1.3 pixels are 62; a larger image grows by another ratio.
        if factor and not math.isclose(before * factor, after):
            raise op.unbounded(f"resizes by {factor}, which is not the ratio of the sizes")

        def reads(entry: int, ratio: Fraction = ratio) -> Iterable[int]:
            position = ((entry + center) * ratio - back).__floor__()
            return range(position + first, position + last + 1)

        maps.append((reads, ratio))
    return map_image(op, maps, op.value.shape)


def pixel_shuffle_channels(op: OpContext) -> Tensor:
    """Turn every r**2 consecutive channels into one, so that they are pruned together."""
    channels = op.channels(op.source, dim=-3)
    blocks = union_blocks(channels, op.value.shape[-3], op.analysis.union_find)
    return op.broadcast_along(blocks[:, 0], dim=-3)


def pixel_unshuffle_channels(op: OpContext) -> Tensor:
    """Turn every channel into r**2 consecutive ones."""
    channels = op.channels(op.source, dim=-3)
    copies = op.value.shape[-3] // len(channels)
    return op.broadcast_along(channels.repeat_interleave(copies), dim=-3)


def pixel_shuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a pixel shuffle: r**2 output pixels read the same input entries."""
    factor = op.option(1, "upscale_factor")

    def reads(entry: int) -> Iterable[int]:
        return [entry // factor]

    return map_image(op, [(reads, Fraction(1, factor))] * 2, op.value.shape)


def pixel_unshuffle_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a pixel unshuffle: windows side by side."""
    factor = op.option(1, "downscale_factor")
    return slide_windows(op, factor, factor, 0, 1)


OPS = (
    OpSpec(
        "pixel shuffle",
        (nn.PixelShuffle, F.pixel_shuffle),
        channels=pixel_shuffle_channels,
        receptive_field=pixel_shuffle_field,
    ),
    OpSpec(
        "pixel unshuffle",
        (nn.PixelUnshuffle, F.pixel_unshuffle),
        channels=pixel_unshuffle_channels,
        receptive_field=pixel_unshuffle_field,
    ),
    OpSpec(
        "maximum pooling",
        (
            *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
            *spellings("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices", F),
        ),
        channels=unmixed_channels,
        receptive_field=pooling_field,
    ),
    OpSpec(
        "average pooling",
        (
            *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
            *spellings("avg_pool1d avg_pool2d avg_pool3d", F),
        ),
        channels=unmixed_channels,
        receptive_field=pooling_field,
    ),
    OpSpec(
        "adaptive pooling",
        (
            *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
            nn.AdaptiveMaxPool2d,
            *spellings("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d", F),
        ),
        channels=unmixed_channels,
        receptive_field=whole_image_field,
    ),
    OpSpec(
        "power-average pooling",
        (nn.LPPool2d, *spellings("lp_pool2d", F)),
        channels=unmixed_channels,
        receptive_field=whole_image_field,
    ),
    OpSpec(
        "padding module",
        (
            *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
            *(nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.CircularPad2d),
        ),
        channels=unmixed_channels,
        receptive_field=padded_field,
    ),
    OpSpec("pad", (F.pad,), padding_channels, padded_field),
    OpSpec(
        "resize",
        (
            *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
            *spellings("interpolate", F),
        ),
        channels=unmixed_channels,
        receptive_field=interpolated_field,
    ),
    OpSpec("grid_sample", (F.grid_sample,), grid_sample_channels, whole_image_field),
)
