"""Axes that hold the rows and columns of the image, as operators move and combine them.

Each axis of a value is described by its digits, see `Digit`. A reshape moves digits between axes,
and where all digits of the row number meet again on an axis, it holds rows again: the receptive
field of its entries follows from the order of the digits. Only the most significant digit grows
with the image, so it has to come first there; where it does not, the field is unbounded. For an
image of 48 rows, windows of 8 (columns left out):

    operator                 shape           digits of the row number, size x stride
    the image                (n, 48, c)      axis 1: 48 x 1
    reshaped                 (n, 6, 8, c)    axis 1: 6 x 8    axis 2: 8 x 1
    softmax over axis 2      (n, 6, 8, c)    axis 1: 6 x 1    axis 2: none; an entry reads 8 rows
    softmax over axis 1      (n, 6, 8, c)    an entry reads every 8th row of the image: unbounded
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
    """Return the field of a value whose entries are combined along `dims`.

    Every entry then reads what any entry along these axes reads. For an axis of channels that is
    nothing more; for a low digit of the row number it is a window of rows; for the most significant
    digit it is the image.
    """
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
    """Combine entries over some digits of the row or column number.

    Of the digits 6 x 8 and 8 x 1, without the latter, 6 x 1 is left: the number of a window.
    """
    remaining: list[Digit] = []
    for digit in chain(*field.layout):
        if digit.spatial == spatial and digit not in mixed:
            remaining.append(digit)
    remaining.sort(key=lambda digit: -digit.stride)
    shorter = _field_of_digits(op, field.along(spatial), field.lengths[spatial], remaining, mixed)
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


def _field_of_digits(
    op: ReceptiveContext,
    source: AxisReceptiveField,
    length: int,
    digits: Sequence[Digit],
    mixed: Sequence[Digit] = (),
) -> AxisReceptiveField:
    """Return the field along an axis whose index is made of digits of a row or column number.

    Of 6 rows, as digits 3 x 2 and 2 x 1 ("none 4": a digit of no spatial number):

        digits                  mixed    entry i reads
        3 x 2, 2 x 1                     row i
        3 x 2                   2 x 1    rows 2 i and 2 i + 1
        3 x 2, 2 x 1, none 4             row i // 4, as repeated 4 times
        2 x 1, 3 x 2                     unbounded: neighbors are 2 rows apart, and i = 3 is row 1

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
    # Entries per value of the most significant digit: the pattern of rows repeats after them.
    inner = _length(digits[1:])
    # Rows that an entry reads for the mixed digits, relative to the row where these are all 0.
    offsets = [0]
    for digit in mixed:
        steps = range(0, digit.size * digit.stride, digit.stride)
        offsets = [offset + step for offset in offsets for step in steps]

    def reads(entry: int) -> list[int]:
        most_significant, rest = divmod(entry, inner)
        row = most_significant * digits[0].stride
        # The other digits, from the least significant on.
        for digit in reversed(digits[1:]):
            rest, value = divmod(rest, digit.size)
            row += value * digit.stride
        return [row + offset for offset in offsets]

    # Rows per entry.
    ratio = Fraction(digits[0].stride, inner)
    return op.propagated(source, reads, ratio, digits[0].size * inner, pattern=inner)


def normalized(op: ReceptiveContext, field: ReceptiveField2D) -> ReceptiveField2D:
    """Merge the digits of an axis that holds all digits of the row or column number.

    The axis then holds rows (or columns) that are numbered anew, with another receptive field: the
    digits 6 x 1 and none 2, of rows repeated twice, become 12 x 1.
    """
    for spatial in (0, 1):
        dims: list[int] = []
        for dim, axis in enumerate(field.layout):
            if _digits_of(axis, spatial):
                dims.append(dim)
        # Digits that are spread over several axes stay as they are: a later permutation may bring
        # them together in another order.
        if len(dims) != 1:
            continue
        dim = dims[0]
        digits = field.layout[dim]
        is_unshared = all(digit.spatial in (spatial, None) for digit in digits)
        # An axis that does not begin with them (channels x rows) may be split again.
        if len(digits) > 1 and is_unshared and digits[0].spatial == spatial:
            along = _field_of_digits(op, field.along(spatial), field.lengths[spatial], digits)
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
    # The digits of all axes in a row, as entries keep their order; each new axis takes the next.
    remaining = _merged(chain(*field.layout))
    layout: list[tuple[Digit, ...]] = []
    for dim, size in enumerate(new):
        taken: list[Digit] = []
        # The last digit that an axis takes may have to be split: 48 x 1, for an axis of 6, into
        # 6 x 8 there and 8 x 1 for the next.
        while size > 1:
            digit = remaining.pop(0)
            if size % digit.size == 0:
                taken.append(digit)
                size //= digit.size
                continue
            if digit.size % size:
                raise op.unbounded("reshapes across rows and columns")
            low_size = digit.size // size
            taken.append(Digit(digit.spatial, size, digit.stride * low_size))
            remaining.insert(0, Digit(digit.spatial, low_size, digit.stride))
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
    """Check that all operands have the same rows or columns along an axis.

    Args:
        op: The operator.
        operands: As for `combined`.
        digits: Those of the axis in the result.
        back: The axis, counted from the back: -1 for the last.
        is_joined: Whether the operands are concatenated along it.
    """
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
