"""Axes that hold the rows and columns of the image, as operators move and combine them.

Each axis of a value is described by its digits, see `Digit`. A reshape moves digits between axes,
and where all digits of the row number meet again on an axis, it holds rows again: the receptive
field of its entries follows from the order of the digits. Only the most significant digit grows
with the image, so it has to come first there; where it does not, the field is unbounded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

from dhp_sr.operators.context import ReceptiveContext
from dhp_sr.operators.receptive_field import (
    AxisReceptiveField,
    Digit,
    ReceptiveField2D,
    holds_space,
    plain_axis,
    union,
)


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
        layout.append(plain_axis(_length(digits)) if dim in dims else digits)
    return replace(field, layout=tuple(layout))


def _without_digits(
    op: ReceptiveContext, field: ReceptiveField2D, spatial: int, mixed: Sequence[Digit]
) -> ReceptiveField2D:
    """Combine entries over some digits of the row or column number."""
    remaining: list[Digit] = []
    for digit in chain(*field.layout):
        if digit.spatial == spatial and digit not in mixed:
            remaining.append(digit)
    remaining.sort(key=lambda digit: -digit.stride)
    shorter = _regroup(op, field.along(spatial), field.lengths[spatial], remaining, mixed)
    # The number is now made of the remaining digits alone, so their strides shrink. The mixed ones
    # stay in the layout, where the value still has their axes, as digits of no spatial axis.
    new_digits: dict[Digit, Digit] = {}
    for digit in mixed:
        new_digits[digit] = Digit(None, digit.size)
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
        op: The operator, for its message.
        source: Field along all rows (or columns).
        length: Their number, for the example.
        digits: From the most significant on; the first must be the most significant of the whole
            number, which is the only one that grows with the image.
        mixed: Further digits, over all of whose values the entries are combined.
    """
    if not digits or digits[0].spatial is None or digits[0].size * digits[0].stride != length:
        raise op.unbounded("looks at the whole image")
    # The pattern repeats after all values of the low digits, a step of the highest further.
    inner = _length(digits[1:])
    # All values of the mixed digits together: how far their entries lie from that of digits 0.
    offsets = [0]
    for digit in mixed:
        steps = range(0, digit.size * digit.stride, digit.stride)
        offsets = [offset + step for offset in offsets for step in steps]

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
        holding: list[int] = []
        for dim, axis in enumerate(field.layout):
            if _digits_of(axis, spatial):
                holding.append(dim)
        # Digits that are spread over several axes stay as they are: a later permutation may bring
        # them together in another order.
        if len(holding) != 1:
            continue
        dim = holding[0]
        digits = field.layout[dim]
        alone = all(digit.spatial in (spatial, None) for digit in digits)
        if len(digits) > 1 and alone and digits[0].spatial == spatial:
            along = _regroup(op, field.along(spatial), field.lengths[spatial], digits)
            length = _length(digits)
            layout = list(field.layout)
            layout[dim] = (Digit(spatial, length, 1),)
            field = replace(field, layout=tuple(layout)).replaced(spatial, along, length)
    return field


def _digits_of(axis: Iterable[Digit], spatial: int) -> list[Digit]:
    """Return the digits of the row number (0) or of the column number (1)."""
    return [digit for digit in axis if digit.spatial == spatial]


def _length(axis: Iterable[Digit]) -> int:
    """Return the number of entries along an axis."""
    return math.prod(digit.size for digit in axis)


def reshaped(
    op: ReceptiveContext, field: ReceptiveField2D, new: Sequence[int], written: Sequence[bool]
) -> ReceptiveField2D:
    """Return the field after a reshape, which moves digits between axes.

    Args:
        op: The operator.
        field: Field of the value before.
        new: Shape of the result.
        written: For each axis of the result, whether its size is written in the forward, not
            computed.

    Raises:
        Unbounded: The new axes cut through a digit, or the image is divided into a fixed number of
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
        op: The operator.
        operands: (field, or None for a constant; shape) of each value, broadcastable to the result.
        shape: Shape of the result.
        joined_dim: Axis of a concatenation.

    Raises:
        Unbounded: A constant differs from pixel to pixel, or the entries do not correspond.
    """
    fields = [field for field, _ in operands if field is not None]
    layout: list[tuple[Digit, ...]] = []
    for dim, size in enumerate(shape):
        digits = plain_axis(size)
        # Counted from the back, as in broadcasting: an operand may lack the first axes.
        back = dim - len(shape)
        for field in fields:
            if -back <= len(field.layout) and field.holds_space(back):
                digits = field.layout[back]
        layout.append(digits)
        if holds_space(digits):
            _check_axis(op, operands, digits, back, is_joined=dim == joined_dim)
    # All operands have the same digits on the same axes, so entry i is at the same pixel in all.
    rows = union([field.rows for field in fields])
    columns = union([field.columns for field in fields])
    lengths = {field.lengths for field in fields}
    if rows is None or columns is None or len(lengths) > 1:
        raise op.unbounded("combines values whose pixels do not correspond")
    return ReceptiveField2D(rows, columns, lengths.pop(), tuple(layout))


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
