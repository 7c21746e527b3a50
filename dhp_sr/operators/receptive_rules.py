"""What layers with a geometry of their own read: convolutions, pooling, shuffles, padding, resizing, slices."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.operators import elementwise as pointwise
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.receptive_field import AxisReceptiveField, propagate


class Unbounded(Exception):
    """An output pixel may depend on the whole image; the text says why."""


class ReceptiveField2D(NamedTuple):
    """What an image's entries read."""

    rows: AxisReceptiveField
    columns: AxisReceptiveField


Reads = Callable[[int], Iterable[int]]


def unbounded(op: OpContext, what: str) -> Unbounded:
    """Return the error of an operator, which is named with its place."""
    place = "" if op.layer == op.operator else f" at {op.layer}"
    return Unbounded(f"{op.operator}{place} {what}")


def item(op: OpContext, side: int) -> ReceptiveField2D:
    """Return one of several values, or some rows and columns of an image."""
    place = op.static(op.node.args[1])
    if isinstance(op.ids[op.source], list):
        return op.ids[op.source][place]
    places = list(place) if isinstance(place, tuple) else [place]
    if Ellipsis in places:
        gap = places.index(Ellipsis)
        places[gap : gap + 1] = [slice(None)] * (5 - len(places))
    places += [slice(None)] * (4 - len(places))
    if len(places) != 4 or not all(isinstance(one, slice) for one in places):
        raise unbounded(op, "picks places in a way that is not known")
    spans = [
        range(*one.indices(size)) for one, size in zip(places, op.shape(op.source), strict=True)
    ][2:]
    maps = [
        (lambda i, span=span: [span.start + span.step * i], Fraction(span.step)) for span in spans
    ]
    return _map(op, side, maps)


def narrow(op: OpContext, side: int) -> ReceptiveField2D:
    """Return some consecutive rows, columns or channels of an image."""
    dim, start = op.arg_value(1, "dim") % 4, op.arg_value(2, "start")
    if not isinstance(start, int):
        raise unbounded(op, "begins at a place that a tensor holds")
    first = [start % op.shape(op.source)[axis] if axis == dim else 0 for axis in (2, 3)]
    return _map(op, side, [(lambda i, first=one: [i + first], Fraction(1)) for one in first])


def _map(op: OpContext, side: int, maps: list[tuple[Reads, Fraction]]) -> ReceptiveField2D:
    """Apply one (reads, ratio) for rows and one for columns."""
    found = [
        propagate(reach, reads, ratio, (side, length))
        for reach, (reads, ratio), length in zip(
            op.ids[op.source], maps, op.value.shape[2:], strict=True
        )
    ]
    if None in found:
        raise unbounded(
            op,
            f"makes sides of {tuple(op.value.shape[2:])}, not in proportion to the input's {side}",
        )
    return ReceptiveField2D(*found)


def _pair(value: Any) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _windows(
    op: OpContext, side: int, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> ReceptiveField2D:
    """Slide a window over the image."""
    maps = []
    for size, step, before, gap in zip(
        *map(_pair, (kernel, stride, padding, dilation)), strict=True
    ):
        taps = range(-before, gap * (size - 1) - before + 1, gap)
        maps.append(
            (lambda i, step=step, taps=taps: [step * i + tap for tap in taps], Fraction(step))
        )
    return _map(op, side, maps)


def convolution(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what a convolution reads."""
    kernel, stride, padding, dilation = _conv_arguments(op, padding_at=4, dilation_at=5)
    if padding == "same":
        padding = tuple(
            gap * (size - 1) // 2 for gap, size in zip(_pair(dilation), kernel, strict=True)
        )
    return _windows(op, side, kernel, stride, 0 if padding == "valid" else padding, dilation)


def transposed_convolution(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what a transposed convolution reads: the entries that were spread over the place."""
    maps = []
    for size, step, before, gap in zip(
        *map(_pair, _conv_arguments(op, padding_at=4, dilation_at=7)), strict=True
    ):
        places = range(before, before - gap * size, -gap)

        def reads(i: int, step: int = step, places: range = places) -> Iterable[int]:
            return [(i + place) // step for place in places if (i + place) % step == 0]

        maps.append((reads, Fraction(1, step)))
    return _map(op, side, maps)


def _conv_arguments(op: OpContext, padding_at: int, dilation_at: int) -> tuple[Any, Any, Any, Any]:
    """Return kernel, stride, padding and dilation of a module or of a function's op."""
    if op.module is not None:
        if op.module.padding_mode == "circular":
            raise unbounded(op, "pads with the image's other end")
        return (
            op.module.kernel_size,
            op.module.stride,
            op.module.padding,
            op.module.dilation,
        )
    weight = op.arg_value(1, "weight")
    padding = op.arg_value(padding_at, "padding", 0)
    return (
        tuple(weight.shape[2:]),
        op.arg_value(3, "stride", 1),
        padding,
        op.arg_value(dilation_at, "dilation", 1),
    )


def pooling(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what maximum or average pooling by fixed windows reads."""
    if not isinstance(op.value, Tensor):
        raise unbounded(op, "returns places as well")
    if op.module is not None:
        one = op.module
        return _windows(
            op, side, one.kernel_size, one.stride, one.padding, getattr(one, "dilation", 1)
        )
    kernel = op.arg_value(1, "kernel_size")
    stride, padding = op.arg_value(2, "stride") or kernel, op.arg_value(3, "padding", 0)
    dilation = op.arg_value(4, "dilation", 1) if op.node.target in _MAXIMUM else 1
    return _windows(op, side, kernel, stride, padding, dilation)


def pixel_shuffle(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what a shuffle of channels into space reads."""
    factor = (
        op.module.upscale_factor if op.module is not None else op.arg_value(1, "upscale_factor")
    )
    return _map(op, side, [(lambda i: [i // factor], Fraction(1, factor))] * 2)


def pixel_unshuffle(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what a shuffle of space into channels reads."""
    factor = (
        op.module.downscale_factor if op.module is not None else op.arg_value(1, "downscale_factor")
    )
    return _windows(op, side, factor, factor, 0, 1)


def pad(op: OpContext, side: int) -> ReceptiveField2D:
    """Return what a padded image reads; the padding counts as places outside it."""
    sides = op.module.padding if op.module is not None else op.arg_value(1, "pad")
    circular = (
        isinstance(op.module, nn.CircularPad2d) or op.arg_value(2, "mode", "constant") == "circular"
    )
    if circular or any(sides[4:]):
        raise unbounded(
            op, "pads with the image's other end" if circular else "pads more than the sides"
        )
    left, _, top, _ = (*sides, 0, 0)[:4]
    return _map(
        op, side, [(lambda i, first=first: [i - first], Fraction(1)) for first in (top, left)]
    )


_NEIGHBORS = {"nearest": (0, 0), "nearest-exact": (0, 0), "bilinear": (0, 1), "bicubic": (-1, 2)}


def interpolate(op: OpContext, side: int) -> ReceptiveField2D:
    """Resize by a fixed factor, which the example's sides tell."""
    one = op.module
    mode = one.mode if one is not None else op.arg_value(3, "mode", "nearest")
    corners = one.align_corners if one is not None else op.arg_value(4, "align_corners")
    if mode not in _NEIGHBORS or corners or (one is None and op.arg_value(6, "antialias", False)):
        raise unbounded(
            op,
            f"resizes by {mode}{' with align_corners' * bool(corners)}, whose reach is not known",
        )
    first, last = _NEIGHBORS[mode]
    center = Fraction(0) if mode == "nearest" else Fraction(1, 2)
    back = Fraction(0) if mode.startswith("nearest") else Fraction(1, 2)
    maps = []
    for before, after in zip(op.shape(op.source)[2:], op.value.shape[2:], strict=True):
        ratio = Fraction(before, after)

        def reads(i: int, ratio: Fraction = ratio) -> Iterable[int]:
            place = ((i + center) * ratio - back).__floor__()
            return range(place + first, place + last + 1)

        maps.append((reads, ratio))
    return _map(op, side, maps)


_MAXIMUM = (F.max_pool2d, "max_pool2d")
POOLS = (nn.MaxPool2d, nn.AvgPool2d, F.avg_pool2d, "avg_pool2d", *_MAXIMUM)
PADS = (
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.ZeroPad2d,
    nn.ConstantPad2d,
    nn.CircularPad2d,
    pointwise.pad,
)
