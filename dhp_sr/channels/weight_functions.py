"""Weights that a forward computes from those of several layers: fused branches, differences.

    conv.weight (O, I, 3, 3) ----------------> + --> weight of F.conv2d(x, weight)
    point.weight (O, I, 1, 1) --> F.pad -------^

An entry of such a value belongs to an output channel and to an input channel, which channel ids
cannot say. Here each axis of a value has its own channels instead: the axes of tensors that hold
them. In the example axis 0 is (conv.weight, 0) and (point.weight, 0).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

TensorAxes = frozenset[tuple[str, int]]
"""Axes (tensor, dim) that hold the same channels."""


class NotFollowed(Exception):
    """The channels of a computed weight are not known."""


@dataclass(frozen=True)
class WeightValue:
    """Channels of a value that is computed from parameters and buffers alone."""

    axes: tuple[TensorAxes | None, ...]
    """For each axis the axes of tensors with the same channels; None for one without channels."""
    masked: tuple[bool, ...]
    """For each axis whether it is zero wherever a channel along it is masked, as parameters are and
    buffers are not."""
    is_constant: bool
    """Whether no parameter has a part in it."""


@dataclass(frozen=True)
class WeightCall:
    """A call of a function, with the channels of its arguments."""

    node: fx.Node
    known: dict[fx.Node, WeightValue]
    values: dict[fx.Node, Any]
    """Results of all nodes for the example."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, with nodes for the values of other nodes."""
        return self.node.args

    @property
    def source(self) -> WeightValue:
        """The first argument."""
        return self.argument(self.args[0])

    @property
    def rank(self) -> int:
        """Number of axes of the result."""
        return int(self.values[self.node].dim())

    def argument(self, argument: Any) -> WeightValue:
        """Return the channels of an argument; a number has none."""
        if isinstance(argument, fx.Node):
            return self.known[argument]
        if not isinstance(argument, int | float):
            raise NotFollowed
        return WeightValue((), (), is_constant=True)

    def setting(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument that is no tensor."""
        if len(self.args) > index:
            return self.args[index]
        return self.node.kwargs.get(name, default)


def value_of_tensor(name: str, tensor: Tensor, *, is_parameter: bool) -> WeightValue:
    """Return the channels of a parameter or buffer: along its first two axes."""
    axes: list[TensorAxes | None] = []
    for dim, size in enumerate(tensor.shape):
        axes.append(frozenset({(name, dim)}) if dim < 2 and size > 1 else None)
    masked = tuple(names is not None and is_parameter for names in axes)
    return WeightValue(tuple(axes), masked, is_constant=not is_parameter)


def _joined(call: WeightCall, operands: Sequence[WeightValue]) -> list[TensorAxes | None]:
    """Return the axes of broadcast operands."""
    joined: list[TensorAxes | None] = []
    for dim in range(-call.rank, 0):
        known = [value.axes[dim] for value in operands if len(value.axes) >= -dim]
        of_channels = [axes for axes in known if axes is not None]
        joined.append(frozenset().union(*of_channels) if of_channels else None)
    return joined


def _combined(call: WeightCall, decide: Callable[[Iterable[bool]], bool]) -> WeightValue:
    """Combine two broadcast operands; `decide` by which of them are masked along an axis."""
    operands = [call.argument(argument) for argument in call.args]
    if len(operands) != 2:
        raise NotFollowed
    masked: list[bool] = []
    for dim in range(-call.rank, 0):
        masked.append(decide([len(v.masked) >= -dim and v.masked[dim] for v in operands]))
    is_constant = all(value.is_constant for value in operands)
    return WeightValue(tuple(_joined(call, operands)), tuple(masked), is_constant)


def _sum(call: WeightCall) -> WeightValue:
    # A constant that is added, such as a kernel of ones, is there in masked channels as well.
    return _combined(call, all)


def _product(call: WeightCall) -> WeightValue:
    return _combined(call, any)


def _quotient(call: WeightCall) -> WeightValue:
    if not call.argument(call.args[1]).is_constant:  # zero where it is masked
        raise NotFollowed
    return _combined(call, any)


def _same(call: WeightCall) -> WeightValue:
    return call.source


def _of_constants(call: WeightCall) -> WeightValue:
    """Roots and the like are not finite at zero, or not zero there."""
    if not call.source.is_constant:
        raise NotFollowed
    return call.source


def _with_axes(call: WeightCall, dims: Sequence[int | None]) -> WeightValue:
    """Return the first argument with its axes in another order; None for a new axis."""
    if len(dims) != call.rank:
        raise NotFollowed
    source = call.source
    axes = [None if dim is None else source.axes[dim] for dim in dims]
    masked = [dim is not None and source.masked[dim] for dim in dims]
    return WeightValue(tuple(axes), tuple(masked), source.is_constant)


def _pad(call: WeightCall) -> WeightValue:
    pads = call.setting(1, "pad")
    mode, value = call.setting(2, "mode", "constant"), call.setting(3, "value", 0)
    padded = call.source.axes[len(call.source.axes) - len(pads) // 2 :]
    if mode != "constant" or value not in (0, None) or any(axes is not None for axes in padded):
        raise NotFollowed
    return call.source


def _reduced(call: WeightCall) -> WeightValue:
    dims = call.setting(1, "dim")
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list):
        raise NotFollowed
    source = call.source.axes
    reduced = {dim % len(source) for dim in dims}
    if any(source[dim] is not None for dim in reduced):
        raise NotFollowed
    if call.rank == len(source):
        return call.source
    return _with_axes(call, [dim for dim in range(len(source)) if dim not in reduced])


def _indexed(call: WeightCall) -> WeightValue:
    index = call.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    remaining = list(range(len(call.source.axes)))
    dims: list[int | None] = []
    for item in items:
        if item is None:
            dims.append(None)
            continue
        dim = remaining.pop(0)
        if item != slice(None) and (item is Ellipsis or call.source.axes[dim] is not None):
            raise NotFollowed
        if isinstance(item, slice):
            dims.append(dim)
    return _with_axes(call, [*dims, *remaining])


def _unsqueezed(call: WeightCall) -> WeightValue:
    dims: list[int | None] = list(range(call.rank - 1))
    dims.insert(call.setting(1, "dim") % call.rank, None)
    return _with_axes(call, dims)


def _moved(call: WeightCall) -> WeightValue:
    rank = call.rank
    order = list(range(rank))
    if _name(call.node) == "permute":
        dims = list(call.args[1:])
        if isinstance(dims[0], tuple | list):
            dims = list(dims[0])
        order = [dim % rank for dim in dims]
    else:
        first, second = (dim % rank for dim in call.args[1:])
        order[first], order[second] = second, first
    return _with_axes(call, order)


def _reshaped(call: WeightCall) -> WeightValue:
    """Follow a vector that is laid along an axis, `t.reshape(-1, 1, 1, 1)`."""
    sizes = call.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    shape = tuple(call.values[call.args[0]].shape)
    is_vector = max(shape, default=1) == math.prod(shape)
    if not is_vector or sorted(map(str, sizes)) != sorted(["-1", *["1"] * (len(sizes) - 1)]):
        raise NotFollowed
    held = [dim for dim, axes in enumerate(call.source.axes) if axes is not None]
    return _with_axes(call, [held[0] if size == -1 and held else None for size in sizes])


def _convolved(call: WeightCall) -> WeightValue:
    """Follow a kernel that is merged with one before it: (O, M, ...) and (I, M, 1, 1)."""
    first, second = call.source, call.argument(call.setting(1, "weight"))
    if call.setting(2, "bias") is not None or call.setting(6, "groups", 1) != 1:
        raise NotFollowed
    rest = call.rank - 2
    axes = (first.axes[0], second.axes[0], *[None] * rest)
    masked = (first.masked[0], second.masked[0], *[False] * rest)
    return WeightValue(axes, masked, first.is_constant and second.is_constant)


def summed_axes(call: WeightCall) -> TensorAxes | None:
    """Return the channels that a product of two weights sums over, which belong together."""
    if _name(call.node) not in _CONVOLUTIONS:
        return None
    first, second = call.source, call.argument(call.setting(1, "weight"))
    return (first.axes[1] or frozenset()) | (second.axes[1] or frozenset())


_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")

_RULES: dict[str, Callable[[WeightCall], WeightValue]] = {
    **dict.fromkeys(("add", "sub"), _sum),
    "mul": _product,
    **dict.fromkeys(("truediv", "div"), _quotient),
    **dict.fromkeys(("neg", "clone", "contiguous", "float", "double", "half"), _same),
    **dict.fromkeys(("to", "type", "type_as", "detach", "abs", "relu", "tanh"), _same),
    **dict.fromkeys(("sqrt", "rsqrt", "exp", "reciprocal", "pow"), _of_constants),
    **dict.fromkeys(("sum", "mean"), _reduced),
    "pad": _pad,
    "getitem": _indexed,
    "unsqueeze": _unsqueezed,
    **dict.fromkeys(("permute", "transpose"), _moved),
    **dict.fromkeys(("reshape", "view"), _reshaped),
    **dict.fromkeys(_CONVOLUTIONS, _convolved),
}
"""Name of a function or method -> how the channels of its result follow."""


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).lstrip("_")


def followed(call: WeightCall) -> WeightValue:
    """Return the channels of what a call computes.

    Raises:
        NotFollowed: They are not known.
    """
    rule = _RULES.get(_name(call.node))
    if rule is None or not isinstance(call.values[call.node], Tensor):
        raise NotFollowed
    try:
        return rule(call)
    except (ValueError, TypeError, IndexError, KeyError) as error:  # called in another way
        raise NotFollowed from error


LAYER_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d, F.linear)
"""Functions of layers whose computed weights are followed."""
