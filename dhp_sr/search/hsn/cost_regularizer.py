"""Cost regularizer: penalizes the distance of the kept fraction of the cost from its target.

All three forms occur in the authors' code; which of them the paper prints is not known. The default
is two-sided: a closed gate gets almost no gradient from the loss, so a search that fell below its
budget would stay there otherwise.
"""

import math
from collections.abc import Callable

CostRegularizer = Callable[[float, float], tuple[float, float]]
"""(kept fraction, target fraction) -> (value, derivative by the kept fraction)."""


def one_sided(kept: float, target: float) -> tuple[float, float]:
    """Return log(max(kept, target) / target) and its derivative: 0 once the budget is met."""
    if kept > target:
        return math.log(kept / target), 1 / kept
    return 0.0, 0.0


def two_sided(kept: float, target: float) -> tuple[float, float]:
    """Return |log(kept / target)| and its derivative; below the budget it opens gates again."""
    if kept == target:
        return 0.0, 0.0
    return abs(math.log(kept / target)), math.copysign(1 / kept, kept - target)


def distance(kept: float, target: float) -> tuple[float, float]:
    """Return log(1 + |kept - target|) and its derivative, which is 1 near the budget.

    Form of the authors' code that is commented out in favor of the others.
    """
    if kept == target:
        return 0.0, 0.0
    difference = abs(kept - target)
    return math.log1p(difference), math.copysign(1 / (1 + difference), kept - target)


COST_REGULARIZERS: dict[str, CostRegularizer] = {
    "one_sided": one_sided,
    "two_sided": two_sided,
    "distance": distance,
}
"""Value of `compress.hsn.cost_regularizer` -> the function."""
