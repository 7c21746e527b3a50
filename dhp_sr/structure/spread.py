"""What each operator reads: one small rule per operator, for the receptive field."""

import operator
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.structure.call import Call
from dhp_sr.structure.reach import Reach, reading, union
from dhp_sr.structure.rules import layers, norms, parts, pointwise, reductions, rule_for, shapes


class Unbounded(Exception):
    """An output pixel may depend on the whole image; the text says why."""


class Spread(NamedTuple):
    """What a picture's entries read."""

    rows: Reach
    columns: Reach


Reads = Callable[[int], Iterable[int]]

_SAME_PLACE = (
    pointwise.alike,
    pointwise.elementwise,
    pointwise.combine,
    pointwise.divide,
    pointwise.root,
    pointwise.power,
    norms.per_channel,
    norms.per_channel_function,
    shapes.channel_shuffle,
    parts.halves,
)
"""Rules of operators that leave every entry in its place."""

_ALONG_AXES = (
    shapes.concatenate,
    parts.chunk,
    parts.split,
    norms.over_axis,
    norms.unit_length,
    reductions.reduction,
    reductions.norm,
    reductions.extremum,
)
"""Rules of operators that leave every entry in its place if they work along the channels."""


def spread_of(call: Call, rule: Callable[[Call], Any], side: int) -> Spread | list[Spread]:
    """Return what the result of an operator reads.

    Args:
        call: the node; `call.atoms` holds the spreads of its inputs.
        rule: how the channel groups treat the operator, which tells what kind it is.
        side: side of the example.

    Raises:
        Unbounded: it looks at the whole image, or is not known.
    """
    if any(isinstance(value, Tensor) and value.dim() != 4 for value in _values(call)):
        raise _unbounded(call, "works on something else than (N, C, H, W)")
    if rule is pointwise.unknown or _takes_statistics(call):
        raise _unbounded(call, "may look at the whole image")
    if rule in _SAME_PLACE:
        return _together(call)
    if rule in _ALONG_AXES:
        return _along_axes(call, rule)
    for kinds, handler in _HANDLERS:
        if rule in kinds or call.node.target in kinds or type(call.module) in kinds:
            return handler(call, side)
    raise _unbounded(call, "may look at the whole image")


def _values(call: Call) -> list[Any]:
    found = [call.value, *(call.values[node] for node in call.node.all_input_nodes if call.atoms.get(node) is not None)]
    return [part for one in found for part in _parts(one)]


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _unbounded(call: Call, what: str) -> Unbounded:
    place = "" if call.layer == call.operator else f" at {call.layer}"
    return Unbounded(f"{call.operator}{place} {what}")


def _takes_statistics(call: Call) -> bool:
    """Return whether a normalisation works with statistics of the image before it."""
    if isinstance(call.module, nn.modules.instancenorm._InstanceNorm) or call.node.target is F.instance_norm:
        return True
    if isinstance(call.module, nn.modules.batchnorm._BatchNorm):
        return call.module.running_mean is None
    if call.node.target is F.batch_norm:
        return call.number(1, "running_mean") is None or bool(call.number(5, "training", False))
    return False


def _holds_weights(call: Call) -> bool:
    return rule_for(call.node, call.module) in (norms.per_channel, norms.per_channel_function)


def _together(call: Call) -> Spread:
    """Combine pictures entry by entry; constants must be the same everywhere."""
    spreads, sides = [], tuple(call.value.shape[2:])
    for node in call.node.all_input_nodes:
        given, values = call.atoms.get(node), call.values[node]
        if isinstance(given, list):
            spreads += given
        elif isinstance(given, Spread):
            spreads.append(given)
        elif isinstance(values, Tensor) and any(size > 1 for size in values.shape[-2:]) and not _holds_weights(call):
            raise _unbounded(call, f"takes a constant of {tuple(values.shape)}, which differs from place to place")
        if given is not None and any(tuple(value.shape[2:]) != sides for value in _parts(values)):
            raise _unbounded(call, f"spreads one value over {sides}")
    rows, columns = union(one.rows for one in spreads), union(one.columns for one in spreads)
    if rows is None or columns is None:
        raise _unbounded(call, "combines values whose places do not correspond")
    return Spread(rows, columns)


def _along_axes(call: Call, rule: Callable[[Call], Any]) -> Spread | list[Spread]:
    place = 2 if rule in (reductions.norm, parts.split, parts.chunk, norms.unit_length) else 1
    dims = getattr(call.module, "dim", None) or call.number(place, "dim", call.node.kwargs.get("axis"))
    if rule is reductions.extremum and isinstance(dims, Tensor):
        return _together(call)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    if not isinstance(dims, (tuple, list)) or any(dim % 4 != 1 for dim in dims):
        raise _unbounded(call, "looks at the whole image")
    spread = _together(call) if isinstance(call.value, Tensor) else call.atoms[call.source]
    return spread if isinstance(call.value, Tensor) else [spread for _ in call.value]


def _item(call: Call, side: int) -> Spread:
    """Return one of several values, or some rows and columns of a picture."""
    place = call.static(call.node.args[1])
    if isinstance(call.atoms[call.source], list):
        return call.atoms[call.source][place]
    places = list(place) if isinstance(place, tuple) else [place]
    if Ellipsis in places:
        gap = places.index(Ellipsis)
        places[gap : gap + 1] = [slice(None)] * (5 - len(places))
    places += [slice(None)] * (4 - len(places))
    if len(places) != 4 or not all(isinstance(one, slice) for one in places):
        raise _unbounded(call, "picks places in a way that is not known")
    spans = [range(*one.indices(size)) for one, size in zip(places, call.shape(call.source), strict=True)][2:]
    maps = [(lambda i, span=span: [span.start + span.step * i], Fraction(span.step)) for span in spans]
    return _map(call, side, maps)


def _map(call: Call, side: int, maps: list[tuple[Reads, Fraction]]) -> Spread:
    """Apply one (reads, ratio) for rows and one for columns."""
    found = [
        reading(reach, reads, ratio, (side, length))
        for reach, (reads, ratio), length in zip(call.atoms[call.source], maps, call.value.shape[2:], strict=True)
    ]
    if None in found:
        raise _unbounded(call, f"makes sides of {tuple(call.value.shape[2:])}, not in proportion to the input's {side}")
    return Spread(*found)


def _pair(value: Any) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


def _windows(call: Call, side: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Spread:
    """Slide a window over the picture."""
    maps = []
    for size, step, before, gap in zip(*map(_pair, (kernel, stride, padding, dilation)), strict=True):
        taps = range(-before, gap * (size - 1) - before + 1, gap)
        maps.append((lambda i, step=step, taps=taps: [step * i + tap for tap in taps], Fraction(step)))
    return _map(call, side, maps)


def _convolution(call: Call, side: int) -> Spread:
    kernel, stride, padding, dilation = _conv_arguments(call, padding_at=4, dilation_at=5)
    if padding == "same":
        padding = tuple(gap * (size - 1) // 2 for gap, size in zip(_pair(dilation), kernel, strict=True))
    return _windows(call, side, kernel, stride, 0 if padding == "valid" else padding, dilation)


def _transposed_convolution(call: Call, side: int) -> Spread:
    maps = []
    for size, step, before, gap in zip(*map(_pair, _conv_arguments(call, padding_at=4, dilation_at=7)), strict=True):
        places = range(before, before - gap * size, -gap)

        def reads(i: int, step: int = step, places: range = places) -> Iterable[int]:
            return [(i + place) // step for place in places if (i + place) % step == 0]

        maps.append((reads, Fraction(1, step)))
    return _map(call, side, maps)


def _conv_arguments(call: Call, padding_at: int, dilation_at: int) -> tuple[Any, Any, Any, Any]:
    """Return kernel, stride, padding and dilation of a module or of a function's call."""
    if call.module is not None:
        if call.module.padding_mode == "circular":
            raise _unbounded(call, "pads with the image's other end")
        return call.module.kernel_size, call.module.stride, call.module.padding, call.module.dilation
    weight = call.number(1, "weight")
    padding = call.number(padding_at, "padding", 0)
    return tuple(weight.shape[2:]), call.number(3, "stride", 1), padding, call.number(dilation_at, "dilation", 1)


def _pooling(call: Call, side: int) -> Spread:
    if not isinstance(call.value, Tensor):
        raise _unbounded(call, "returns places as well")
    if call.module is not None:
        one = call.module
        return _windows(call, side, one.kernel_size, one.stride, one.padding, getattr(one, "dilation", 1))
    kernel = call.number(1, "kernel_size")
    stride, padding = call.number(2, "stride") or kernel, call.number(3, "padding", 0)
    dilation = call.number(4, "dilation", 1) if call.node.target in _MAXIMUM else 1
    return _windows(call, side, kernel, stride, padding, dilation)


def _pixel_shuffle(call: Call, side: int) -> Spread:
    factor = call.module.upscale_factor if call.module is not None else call.number(1, "upscale_factor")
    return _map(call, side, [(lambda i: [i // factor], Fraction(1, factor))] * 2)


def _pixel_unshuffle(call: Call, side: int) -> Spread:
    factor = call.module.downscale_factor if call.module is not None else call.number(1, "downscale_factor")
    return _windows(call, side, factor, factor, 0, 1)


def _pad(call: Call, side: int) -> Spread:
    sides = call.module.padding if call.module is not None else call.number(1, "pad")
    circular = isinstance(call.module, nn.CircularPad2d) or call.number(2, "mode", "constant") == "circular"
    if circular or any(sides[4:]):
        raise _unbounded(call, "pads with the image's other end" if circular else "pads more than the sides")
    left, _, top, _ = (*sides, 0, 0)[:4]
    return _map(call, side, [(lambda i, first=first: [i - first], Fraction(1)) for first in (top, left)])


_NEIGHBOURS = {"nearest": (0, 0), "nearest-exact": (0, 0), "bilinear": (0, 1), "bicubic": (-1, 2)}


def _interpolate(call: Call, side: int) -> Spread:
    """Resize by a fixed factor, which the example's sides tell."""
    one = call.module
    mode = one.mode if one is not None else call.number(3, "mode", "nearest")
    corners = one.align_corners if one is not None else call.number(4, "align_corners")
    if mode not in _NEIGHBOURS or corners or (one is None and call.number(6, "antialias", False)):
        raise _unbounded(call, f"resizes by {mode}{' with align_corners' * bool(corners)}, whose reach is not known")
    first, last = _NEIGHBOURS[mode]
    centre = Fraction(0) if mode == "nearest" else Fraction(1, 2)
    back = Fraction(0) if mode.startswith("nearest") else Fraction(1, 2)
    maps = []
    for before, after in zip(call.shape(call.source)[2:], call.value.shape[2:], strict=True):
        ratio = Fraction(before, after)

        def reads(i: int, ratio: Fraction = ratio) -> Iterable[int]:
            place = ((i + centre) * ratio - back).__floor__()
            return range(place + first, place + last + 1)

        maps.append((reads, ratio))
    return _map(call, side, maps)


_MAXIMUM = (F.max_pool2d, "max_pool2d")
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, F.avg_pool2d, "avg_pool2d", *_MAXIMUM)
_PADS = (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d, nn.ConstantPad2d, nn.CircularPad2d, pointwise.pad)

_HANDLERS: tuple[tuple[tuple[Any, ...], Callable[[Call, int], Spread]], ...] = (
    ((operator.getitem,), _item),
    ((layers.convolution,), _convolution),
    ((layers.transposed_convolution,), _transposed_convolution),
    (_POOLS, _pooling),
    ((shapes.pixel_shuffle,), _pixel_shuffle),
    ((shapes.pixel_unshuffle,), _pixel_unshuffle),
    (_PADS, _pad),
    ((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate), _interpolate),
)
"""Rules of channel groups, functions or layers, and what they read."""
