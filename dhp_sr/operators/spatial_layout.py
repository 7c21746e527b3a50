"""Receptive field of a value of any rank: where its axes hold the rows and columns of the image.

A forward may split, merge and permute axes, as a pixel shuffle written with `view` does. Each axis
of a value is therefore described by its digits, as in a number of mixed radix. For h = 6:

    shape              digits of the row number, size x stride
    (n, c, 6, w)       axis 2: 6 x 1                    row = axis 2
    (n, c, 3, 2, w)    axis 2: 3 x 2   axis 3: 2 x 1    row = 2 * axis 2 + axis 3
    (n, c, 2, 3, w)    axis 2: 2 x 1   axis 3: 3 x 2    after permute(0, 1, 3, 2, 4)
    (n, c, 6, w)       axis 2: 2 x 1, 3 x 2             rows 0 2 4 1 3 5

A reshape moves digits between axes, and where all digits of the row number meet again on an axis,
it holds rows again: the receptive field of its entries follows from the order of the digits. Only
the most significant digit grows with the image, so it has to come first there; in the last line it
does not, and the field is unbounded.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, product
from typing import Any, NamedTuple

from torch import Tensor, fx

from dhp_sr.operators.context import NodeContext
from dhp_sr.operators.receptive_field import AxisReceptiveField, propagate, union


class Unbounded(Exception):
    """An output pixel may depend on the whole image; the text gives the operator and the reason."""


class Digit(NamedTuple):
    """A factor of the length of an axis."""

    spatial: int | None
    """0: digit of the row number; 1: of the column number; None: of anything else (batch, channels,
    heads)."""
    size: int
    stride: int = 0
    """Rows or columns per step of this digit."""


Layout = tuple[tuple[Digit, ...], ...]
"""For each axis of a value, its digits from the most to the least significant; none for an axis of
length 1."""

Reads = Callable[[int], Iterable[int]]
"""Entry of a result -> entries of its source, along an axis."""


@dataclass(frozen=True)
class ReceptiveField2D:
    """Input pixels that the entries of a value read."""

    rows: AxisReceptiveField
    columns: AxisReceptiveField
    lengths: tuple[int, int]
    """Number of rows and of columns for the example."""
    layout: Layout

    @property
    def is_image(self) -> bool:
        """Whether the last two of four axes are the rows and the columns."""
        row = Digit(0, self.lengths[0], 1)
        column = Digit(1, self.lengths[1], 1)
        return len(self.layout) == 4 and self.layout[2:] == ((row,), (column,))

    def along(self, spatial: int) -> AxisReceptiveField:
        """Return the field along rows (0) or columns (1)."""
        return (self.rows, self.columns)[spatial]

    def replaced(self, spatial: int, field: AxisReceptiveField, length: int) -> "ReceptiveField2D":
        """Return a copy with another field along rows (0) or columns (1)."""
        if spatial == 0:
            return replace(self, rows=field, lengths=(length, self.lengths[1]))
        return replace(self, columns=field, lengths=(self.lengths[0], length))

    def holds_space(self, dim: int) -> bool:
        """Return whether axis `dim` holds rows or columns, or a digit of them."""
        return _holds_space(self.layout[dim])


def _holds_space(digits: Iterable[Digit]) -> bool:
    return any(digit.spatial is not None for digit in digits)


def plain_axis(size: int) -> tuple[Digit, ...]:
    """Return the digits of an axis that is neither rows nor columns."""
    return (Digit(None, size),) if size > 1 else ()


def image_field(
    rows: AxisReceptiveField, columns: AxisReceptiveField, shape: Sequence[int]
) -> ReceptiveField2D:
    """Return the receptive field of an (N, C, H, W) value."""
    layout = (
        plain_axis(shape[0]),
        plain_axis(shape[1]),
        (Digit(0, shape[2], 1),),
        (Digit(1, shape[3], 1),),
    )
    return ReceptiveField2D(rows, columns, (shape[2], shape[3]), layout)


@dataclass(frozen=True)
class ReceptiveContext(NodeContext):
    """A node as a receptive-field rule sees it."""

    fields: dict[fx.Node, Any]
    """Results of earlier rules: the field of each node's value, a list of fields for several
    results, or None for constants and numbers."""
    input_size: int
    """Height and width of the example."""

    def unbounded(self, reason: str) -> Unbounded:
        """Return the error for this operator."""
        name = self.operator
        if self.layer != self.operator:
            name = f"{self.operator} at {self.layer}"
        return Unbounded(f"{name} {reason}")

    @property
    def field(self) -> ReceptiveField2D:
        """Field of the first input.

        Raises:
            Unbounded: the first input is a constant, a further one is not.
        """
        field = self.fields.get(self.source)
        if not isinstance(field, ReceptiveField2D):
            raise self.unbounded("takes an input of the network as a further argument")
        return field

    def propagated(
        self,
        source: AxisReceptiveField,
        reads: Reads,
        ratio: Fraction,
        length: int,
        pattern: int | None = None,
    ) -> AxisReceptiveField:
        """Propagate along an axis, see `propagate`."""
        field = propagate(source, reads, ratio, (self.input_size, length), pattern)
        if field is None or length == 1:
            raise self.unbounded(
                f"makes sides of {length}, not in proportion to the input's {self.input_size}"
            )
        return field


def mix_axes(
    op: ReceptiveContext, field: ReceptiveField2D, dims: Iterable[int]
) -> ReceptiveField2D:
    """Return the field of a value whose entries are combined along `dims`."""
    # Every entry then reads what any entry along these axes reads. For an axis of channels that is
    # the same; for a low digit of the row number it is a window of rows; the high digit is the
    # image.
    dims = {dim % len(field.layout) for dim in dims}
    for spatial in (0, 1):
        mixed: list[Digit] = []
        for dim in dims:
            mixed += _digits_of(field.layout[dim], spatial)
        if mixed:
            field = _without_digits(op, field, spatial, mixed)
    layout = []
    for dim, digits in enumerate(field.layout):
        size = math.prod(digit.size for digit in digits)
        layout.append(plain_axis(size) if dim in dims else digits)
    return replace(field, layout=tuple(layout))


def _without_digits(
    op: ReceptiveContext, field: ReceptiveField2D, spatial: int, mixed: Sequence[Digit]
) -> ReceptiveField2D:
    """Combine entries over some digits of the row or column number."""
    remaining: list[Digit] = []
    for axis in field.layout:
        remaining += [digit for digit in _digits_of(axis, spatial) if digit not in mixed]
    remaining.sort(key=lambda digit: -digit.stride)
    shorter = _regroup(op, field.along(spatial), field.lengths[spatial], remaining, mixed)
    # The number is now made of the remaining digits alone, so their strides shrink. The mixed ones
    # stay in the layout, where the value still has their axes, as digits of no spatial axis.
    new_digits = {digit: Digit(None, digit.size) for digit in mixed}
    stride = 1
    for digit in reversed(remaining):
        new_digits[digit] = digit._replace(stride=stride)
        stride *= digit.size
    layout = []
    for axis in field.layout:
        layout.append(tuple(new_digits.get(digit, digit) for digit in axis))
    return replace(field, layout=tuple(layout)).replaced(spatial, shorter, stride)


def _regroup(
    op: ReceptiveContext,
    source: AxisReceptiveField,
    length: int,
    digits: Sequence[Digit],
    mixed: Sequence[Digit] = (),
) -> AxisReceptiveField:
    """Return the field along an axis whose index is made of digits of a row or column number.

    Args:
        op: the operator, for its message.
        source: field along all rows (or columns).
        length: their number, for the example.
        digits: from the most significant on; the first must be the most significant of the whole
            number, which is the only one that grows with the image.
        mixed: further digits, over all of whose values the entries are combined.
    """
    if not digits or digits[0].spatial is None or digits[0].size * digits[0].stride != length:
        raise op.unbounded("looks at the whole image")
    # The pattern repeats after all values of the low digits, a step of the highest further.
    inner = math.prod(digit.size for digit in digits[1:])
    # All values of the mixed digits together: how far their entries lie from that of digits 0.
    combinations = product(*(range(0, d.size * d.stride, d.stride) for d in mixed))
    offsets = [sum(steps) for steps in combinations]

    def reads(entry: int) -> list[int]:
        high, low = divmod(entry, inner)
        base = high * digits[0].stride
        for digit in reversed(digits[1:]):
            low, value = divmod(low, digit.size)
            base += value * digit.stride
        return [base + offset for offset in offsets]

    ratio = Fraction(digits[0].stride, inner)
    return op.propagated(source, reads, ratio, digits[0].size * inner, pattern=inner)


def normalized(op: ReceptiveContext, field: ReceptiveField2D) -> ReceptiveField2D:
    """Merge the digits of an axis that holds all digits of the row or column number."""
    for spatial in (0, 1):
        holding = [dim for dim, axis in enumerate(field.layout) if _digits_of(axis, spatial)]
        # Digits that are spread over several axes stay as they are: a later permutation may bring
        # them together in another order.
        if len(holding) != 1:
            continue
        dim = holding[0]
        digits = field.layout[dim]
        alone = all(digit.spatial in (spatial, None) for digit in digits)
        if len(digits) > 1 and alone and digits[0].spatial == spatial:
            along = _regroup(op, field.along(spatial), field.lengths[spatial], digits)
            length = math.prod(digit.size for digit in digits)
            layout = list(field.layout)
            layout[dim] = (Digit(spatial, length, 1),)
            field = replace(field, layout=tuple(layout)).replaced(spatial, along, length)
    return field


def _digits_of(axis: Iterable[Digit], spatial: int) -> list[Digit]:
    return [digit for digit in axis if digit.spatial == spatial]


def reshaped(
    op: ReceptiveContext, field: ReceptiveField2D, new: Sequence[int], written: Sequence[bool]
) -> ReceptiveField2D:
    """Return the field after a reshape, which moves digits between axes.

    Args:
        op: the operator.
        field: of the value before.
        new: shape of the result.
        written: for each axis of the result, whether its size is written in the forward, not
            computed.

    Raises:
        Unbounded: the new axes cut through a digit, or the image is divided into a fixed number of
            sections.
    """
    remaining = _merged(chain(*field.layout))
    layout: list[tuple[Digit, ...]] = []
    for dim, size in enumerate(new):
        taken: list[Digit] = []
        # An axis takes digits from the most significant on; the last of them may have to be split.
        while size > 1:
            digit = remaining.pop(0)
            if size % digit.size == 0:
                taken.append(digit)
                size //= digit.size
                continue
            if digit.size % size:
                raise op.unbounded("reshapes across rows and columns")
            low = digit.size // size
            taken.append(Digit(digit.spatial, size, digit.stride * low))
            remaining.insert(0, Digit(digit.spatial, low, digit.stride))
            # Of a split row number the low digit must stay as it is when the image grows: windows
            # of 8 rows are fine, 8 windows are not, and the example cannot tell the two apart. Only
            # a number that is written in the forward is certain not to grow.
            if digit.spatial is not None and not (dim + 1 < len(new) and written[dim + 1]):
                raise op.unbounded("divides the image by a size that it computes")
            size = 1
        layout.append(tuple(_merged(taken)))
    return normalized(op, replace(field, layout=tuple(layout)))


def _merged(digits: Iterable[Digit]) -> list[Digit]:
    """Merge neighboring digits that count no space: the result can be split anywhere."""
    merged: list[Digit] = []
    for digit in digits:
        if merged and merged[-1].spatial is None and digit.spatial is None:
            merged[-1] = Digit(None, merged[-1].size * digit.size)
        else:
            merged.append(digit)
    return merged


def combined(
    op: ReceptiveContext,
    operands: Sequence[tuple[Any, Sequence[int]]],
    shape: Sequence[int],
    joined_dim: int | None = None,
) -> ReceptiveField2D:
    """Return the field of values that are combined entry by entry, or joined along an axis.

    Args:
        op: the operator.
        operands: (field, or None for a constant; shape) of each value, broadcastable to the result.
        shape: of the result.
        joined_dim: axis of a concatenation.

    Raises:
        Unbounded: a constant differs from pixel to pixel, or the entries do not correspond.
    """
    fields = [field for field, _ in operands if field is not None]
    layout: list[tuple[Digit, ...]] = []
    for dim, size in enumerate(shape):
        digits = plain_axis(size)
        for field in fields:
            back = dim - len(shape)
            if -back <= len(field.layout) and field.holds_space(back):
                digits = field.layout[back]
        layout.append(digits)
        if _holds_space(digits):
            _check_axis(op, operands, digits, dim - len(shape), is_joined=dim == joined_dim)
    # All operands have the same digits on the same axes, so entry i is at the same pixel in all.
    rows = union([field.rows for field in fields])
    columns = union([field.columns for field in fields])
    has_same_size = all(field.lengths == fields[0].lengths for field in fields)
    if rows is None or columns is None or not has_same_size:
        raise op.unbounded("combines values whose pixels do not correspond")
    return ReceptiveField2D(rows, columns, fields[0].lengths, tuple(layout))


def _check_axis(
    op: ReceptiveContext,
    operands: Sequence[tuple[Any, Sequence[int]]],
    digits: tuple[Digit, ...],
    back: int,
    is_joined: bool,
) -> None:
    """Check that all operands lay the same rows or columns along an axis, counted from the back."""
    if is_joined:
        raise op.unbounded("joins images along rows or columns")
    for field, shape in operands:
        size = shape[back] if -back <= len(shape) else 1
        if field is None and size > 1:
            raise op.unbounded(
                f"takes a constant of {tuple(shape)}, which differs from pixel to pixel"
            )
        if field is not None and (-back > len(field.layout) or field.layout[back] != digits):
            raise op.unbounded("combines values whose rows and columns do not correspond")


_IN_PLACE = (
    operator.setitem,
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
)


def writes_to_input(node: fx.Node) -> bool:
    """Return whether an operator changes its first input, for all who read it later."""
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.target in _IN_PLACE


def shapes_of(value: Any) -> list[tuple[int, ...]]:
    """Return the shapes of a result, or of each of several."""
    results = list(value) if isinstance(value, (tuple, list)) else [value]
    return [tuple(result.shape) for result in results if isinstance(result, Tensor)]
