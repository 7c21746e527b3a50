"""The budget's part of the objective: how far the cost of the drawn network lies from what was asked for.

All three forms are found in the authors' code; which one the paper prints is not known. The default is two-sided: a
channel that went hardly hears the loss any more, so that a search that fell below its budget stays there otherwise.
"""

import math
from collections.abc import Callable

Term = Callable[[float, float], tuple[float, float]]
"""(kept fraction, fraction asked for) -> (value, slope by the kept fraction)."""


def one_sided(kept: float, asked: float) -> tuple[float, float]:
    """Return log(max(kept, asked) / asked): nothing once the budget is met."""
    return (math.log(kept / asked), 1 / kept) if kept > asked else (0.0, 0.0)


def two_sided(kept: float, asked: float) -> tuple[float, float]:
    """Return |log(kept / asked)|: it also opens channels below the budget."""
    return abs(math.log(kept / asked)), math.copysign(
        1 / kept, kept - asked
    ) if kept != asked else 0.0


def distance(kept: float, asked: float) -> tuple[float, float]:
    """Return log(1 + |kept - asked|), of the authors' work before this one; its slope near the budget is 1."""
    off = abs(kept - asked)
    return math.log1p(off), math.copysign(1 / (1 + off), kept - asked) if kept != asked else 0.0


TERMS: dict[str, Term] = {"one_sided": one_sided, "two_sided": two_sided, "distance": distance}
"""Name in the option file -> the term."""
