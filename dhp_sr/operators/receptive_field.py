"""Receptive fields: along an axis, and of a value of any rank that holds rows and columns.

Strides and shuffles make neighboring entries along an axis read differently, but the pattern
repeats: a table of one period says what every entry reads, however long the axis is.

Reference: Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019
(there for one entry and odd kernels; here periodic, so that sub-pixel shuffles and resizing are
exact).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

Reads = Callable[[int], Iterable[int]]
"""Entry of a result -> entries of its source, along an axis."""


class AxisReceptiveField(NamedTuple):
    """Input indices that the entries of a value read along an axis.

    Entry i + period reads `stride` input pixels further than entry i; the period is the length of
    the table. Along the rows of an image:

        value                             first      last     stride
        the input                         (0,)       (0,)     1
        a convolution 3x3 of it           (-1,)      (1,)     1
        a pixel shuffle by 2 of that      (-1, -1)   (1, 1)   1       2 entries per input pixel
        a convolution 3x3 of that         (-2, -1)   (1, 2)   1
        every second entry of that        (-2,)      (1,)     1
    """

    first: tuple[int, ...]
    """First input pixel read by each entry of one period."""
    last: tuple[int, ...]
    """Last input pixel read by each entry of one period."""
    stride: int
    """Input pixels per period."""
    padding: int = 0
    """Entries beyond those that the input's length accounts for; negative after cropping."""

    @property
    def step(self) -> Fraction:
        """Input pixels per entry."""
        return Fraction(self.stride, len(self.first))

    @property
    def before(self) -> int:
        """Input pixels read before the start of a tile that begins at a multiple of `stride`."""
        return max(0, -min(self.first))

    @property
    def after(self) -> int:
        """Input pixels read behind the end of a tile that ends at a multiple of `stride`."""
        return max(0, max(self.last) - self.stride + 1)

    def at(self, index: int) -> tuple[int, int]:
        """Return the first and the last input pixel of any entry, also outside the value."""
        periods, phase = divmod(index, len(self.first))
        offset = periods * self.stride
        return self.first[phase] + offset, self.last[phase] + offset


IDENTITY = AxisReceptiveField((0,), (0,), 1)
"""The input itself: every pixel reads itself."""


def propagate(
    source: AxisReceptiveField,
    reads: Reads,
    ratio: Fraction,
    lengths: tuple[int, int],
    pattern: int | None = None,
) -> AxisReceptiveField | None:
    """Return the receptive field of a value that is computed from some entries of `source`.

    Period (entries) and stride (input pixels) of the result:

        source    operator              ratio    pattern    advance    repeats    result
        1, 1      pixel shuffle by 2    1/2      2          1          1          2, 1
        2, 1      every second entry    2        1          2          1          1, 1
        2, 1      every third entry     3        1          3          2          2, 3

    Args:
        source: What the operator's input reads.
        reads: Entry of the result -> entries of `source` that it is computed from.
        ratio: Entries of `source` per entry of the result.
        lengths: Lengths of the network's input and of the result, for the example.
        pattern: Entries of the result after which `reads` repeats, `ratio * pattern` entries of
            `source` further; default: the denominator of `ratio`.

    Returns:
        None where the result's length is not proportional to the input's.
    """
    pattern = pattern or ratio.denominator
    # Entries of the source that a repetition of the operator's pattern advances by.
    advance = int(ratio * pattern)
    # The result repeats where both the operator's pattern and the source's period are complete:
    # after the least number of patterns that advance by whole periods of the source.
    source_period = len(source.first)
    repeats = source_period // math.gcd(advance, source_period)
    period = pattern * repeats
    stride = source.stride * advance * repeats // source_period
    step = Fraction(stride, period)
    # Padding adds a fixed number of entries whatever the image's size. It is what the length of the
    # example leaves over; a fraction would change with the size.
    padding = lengths[1] - lengths[0] / step
    if padding.denominator != 1:
        return None
    first, last = [], []
    for entry in range(period):
        starts, ends = [], []
        for index in reads(entry):
            start, end = source.at(index)
            starts.append(start)
            ends.append(end)
        # An index outside `source` is padding. It is filled differently for a whole image (zeros,
        # reflection) and inside it, so an entry always counts as reading the pixels at its own
        # position as well: a tile then includes them, and its padding never stands where the image
        # has pixels.
        first_here = math.floor(entry * step)
        last_here = math.ceil((entry - padding + 1) * step) - 1
        first.append(min([first_here, *starts]))
        last.append(max([last_here, *ends]))
    return AxisReceptiveField(tuple(first), tuple(last), stride, int(padding))


def union(fields: Iterable[AxisReceptiveField]) -> AxisReceptiveField | None:
    """Return the field of values combined entry by entry; None if they do not correspond."""
    # Fields of different periods (a sum behind two shuffles) repeat together after the least common
    # multiple. Different steps or padding mean that entry i is at different pixels in them.
    fields = list(fields)
    reference = fields[0]
    for field in fields:
        if (field.step, field.padding) != (reference.step, reference.padding):
            return None
    period = math.lcm(*[len(field.first) for field in fields])
    first, last = [], []
    for entry in range(period):
        starts, ends = zip(*[field.at(entry) for field in fields], strict=True)
        first.append(min(starts))
        last.append(max(ends))
    stride = int(reference.step * period)
    return AxisReceptiveField(tuple(first), tuple(last), stride, reference.padding)


class Unbounded(Exception):
    """An output pixel may depend on the whole image; the text gives the operator and the reason."""


class Digit(NamedTuple):
    """A factor of the length of an axis, as a digit in a number of mixed radix.

    A forward may split, merge and permute axes, as a pixel shuffle written with `view` does. For
    h = 6:

        shape              digits of the row number, size x stride
        (n, c, 6, w)       axis 2: 6 x 1                    row = axis 2
        (n, c, 3, 2, w)    axis 2: 3 x 2   axis 3: 2 x 1    row = 2 * axis 2 + axis 3
        (n, c, 2, 3, w)    axis 2: 2 x 1   axis 3: 3 x 2    after permute(0, 1, 3, 2, 4)
        (n, c, 6, w)       axis 2: 2 x 1, 3 x 2             rows 0 2 4 1 3 5
    """

    spatial: int | None
    """0: digit of the row number; 1: of the column number; None: of anything else (batch, channels,
    heads)."""
    size: int
    stride: int = 0
    """Rows or columns per step of this digit."""


Layout = tuple[tuple[Digit, ...], ...]
"""For each axis of a value, its digits from the most to the least significant; none for an axis of
length 1."""


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
        return holds_space(self.layout[dim])


def holds_space(digits: Iterable[Digit]) -> bool:
    """Return whether one of an axis's digits is of the row or column number."""
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
