"""Receptive field along an axis, stored as one period of (first, last) input indices.

Strides and shuffles make neighboring entries read differently, but the pattern repeats: the table
of one period says what every entry reads, however long the axis is.

Reference: Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019
(there for one entry and odd kernels; here periodic, so that sub-pixel shuffles and resizing are
exact).
"""

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple


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
    reads: Callable[[int], Iterable[int]],
    ratio: Fraction,
    lengths: tuple[int, int],
    pattern: int | None = None,
) -> AxisReceptiveField | None:
    """Return the receptive field of a value that is computed from some entries of `source`.

    Args:
        source: what the operator's input reads.
        reads: entry of the result -> entries of `source` that it is computed from.
        ratio: entries of `source` per entry of the result.
        lengths: of the network's input and of the result, for the example.
        pattern: entries of the result after which `reads` repeats, `ratio * pattern` entries of
            `source` further;
            default: the denominator of `ratio`.

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
