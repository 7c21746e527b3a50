"""How far along one axis every entry of a value reads: an endless, periodic table of first and last input pixels.

Strides and shuffles make neighboring entries read differently, but the pattern repeats, so that one period says all.
"""

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple


class AxisReceptiveField(NamedTuple):
    """What the entries of a value read along one axis; entry i + period reads `shift` pixels further than entry i."""

    low: tuple[int, ...]
    """First input pixel read by each entry of one period."""
    high: tuple[int, ...]
    """Last input pixel read."""
    shift: int
    """Input pixels in one period."""
    extra: int = 0
    """Entries beyond those that the input's length accounts for: padding, or less than none after cropping."""

    @property
    def step(self) -> Fraction:
        """Input pixels per entry."""
        return Fraction(self.shift, len(self.low))

    @property
    def before(self) -> int:
        """Pixels read before the first one of a tile that begins at a multiple of `shift`."""
        return max(0, -min(self.low))

    @property
    def after(self) -> int:
        """Pixels read behind the last one of a tile that ends before a multiple of `shift`."""
        return max(0, max(self.high) - self.shift + 1)

    def at(self, index: int) -> tuple[int, int]:
        """Return the first and the last input pixel of any entry, one outside the value included."""
        turns, phase = divmod(index, len(self.low))
        return self.low[phase] + turns * self.shift, self.high[phase] + turns * self.shift


START = AxisReceptiveField((0,), (0,), 1)
"""The input itself: every pixel reads itself."""


def propagate(
    source: AxisReceptiveField,
    reads: Callable[[int], Iterable[int]],
    ratio: Fraction,
    lengths: tuple[int, int],
) -> AxisReceptiveField | None:
    """Return the reach of a value each of whose entries is computed from some entries of `source`.

    An entry that lies outside `source` is padding. Padding differs between a whole image and a tile of it, so
    an entry is taken to read its own place as well.

    Args:
        source: what is read.
        reads: entry -> entries of `source`; b entries on, it reads a entries further, where `ratio` is a / b.
        ratio: entries of `source` per entry of the result.
        lengths: of the input and of the result, for the example.

    Returns:
        The reach; None where the result's length is not proportional to the input's.
    """
    above, below = ratio.numerator, ratio.denominator
    whole = below * len(source.low)
    period = whole // math.gcd(above, whole)
    shift = source.shift * period * above // whole
    step = Fraction(shift, period)
    extra = lengths[1] - lengths[0] / step
    if extra.denominator != 1:
        return None
    low, high = [], []
    for entry in range(period):
        spans = [source.at(index) for index in reads(entry)]
        low.append(min([math.floor(entry * step), *(first for first, _ in spans)]))
        high.append(max([math.ceil((entry - extra + 1) * step) - 1, *(last for _, last in spans)]))
    return AxisReceptiveField(tuple(low), tuple(high), shift, int(extra))


def union(reaches: Iterable[AxisReceptiveField]) -> AxisReceptiveField | None:
    """Return the reach of values that are combined entry by entry; None where their entries do not correspond."""
    reaches = list(reaches)
    first = reaches[0]
    if any((one.step, one.extra) != (first.step, first.extra) for one in reaches):
        return None
    period = math.lcm(*(len(one.low) for one in reaches))
    spans = [[one.at(entry) for one in reaches] for entry in range(period)]
    low = tuple(min(start for start, _ in one) for one in spans)
    high = tuple(max(end for _, end in one) for one in spans)
    return AxisReceptiveField(low, high, int(first.step * period), first.extra)
