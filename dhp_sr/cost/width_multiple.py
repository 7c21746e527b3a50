"""Multiple of channels that a runtime computes best, learned from the table of layer times.

Kernels compute channels in blocks: a width just above a full block takes the time of the next one.
Where a budget is a time, widths between blocks are a waste, and how long a block is depends on
runtime, processor and precision.

    time |            ___*         * multiples of the block: on the lower hull of the times
         |        ___*..o          o widths between: above it, by the excess
         |    ___*..o
         +----------------- width
"""

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from dhp_sr.cost.latency_lut import LatencyLUT
from dhp_sr.utils.cost_kinds import DEFAULT_ROUND_TO
from dhp_sr.utils.pixels import round_up

MULTIPLES = (1, 2, 4, 8, 16, 32)
"""Multiples that are considered; finer ones leave more choices of widths."""

TOLERANCE = 0.005
"""Excess, as a fraction of the layers' time, for which a finer multiple is still preferred."""

MIN_CHOICES = 4
"""Widths that a layer of the median width has to choose from, at least: a budget must be met."""

SMALLEST_SHARE = 0.25
"""Widths below this share of the dense one are not looked at: their time is mostly overhead."""


def learn_multiple(lut: LatencyLUT) -> int:
    """Return the finest multiple whose widths waste hardly more time than the best multiple's.

    Args:
        lut: Complete for its network.
    """
    curves = []
    for call in lut.calls:
        grid = lut.layers[call.signature]
        rows = grid["ms"]
        along_first = [row[-1] for row in rows]
        # Along each axis of the layer, at the dense width of the other.
        for widths, times in ((grid["first"], along_first), (grid["second"], rows[-1])):
            # A layer of a fixed width, such as the image's channels, has nothing to choose.
            if widths[-1] > DEFAULT_ROUND_TO:
                curves.append((widths, times))
    if not curves:
        return DEFAULT_ROUND_TO
    total = sum(times[-1] for _, times in curves)
    median_width = statistics.median(widths[-1] for widths, _ in curves)
    multiples = [multiple for multiple in MULTIPLES if multiple * MIN_CHOICES <= median_width]
    shares = []
    for multiple in multiples:
        excess = sum(_mean_excess(widths, times, multiple) for widths, times in curves)
        shares.append(excess / total)
    for multiple, share in zip(multiples, shares, strict=True):
        if share <= min(shares) + TOLERANCE:
            return multiple
    raise AssertionError("the smallest share is within its own tolerance")


def _mean_excess(widths: list[int], times: list[float], multiple: int) -> float:
    """Return the mean excess of the times at multiples over the lower convex hull, in ms."""
    hull = lower_hull(widths, times)
    dense = widths[-1]
    chosen = []
    for width in range(multiple, dense, multiple):
        if width >= SMALLEST_SHARE * dense:
            chosen.append(width)
    if not chosen:
        return 0.0
    points = list(zip(widths, times, strict=True))
    excess = 0.0
    for width in chosen:
        excess += estimate(points, width) - interpolate(hull, width)
    return excess / len(chosen)


def lower_hull(widths: list[int], times: list[float]) -> list[tuple[int, float]]:
    """Return the points of the lower convex hull of a curve (Andrew's monotone chain)."""
    hull: list[tuple[int, float]] = []
    for point in zip(widths, times, strict=True):
        while len(hull) > 1:
            first, middle = hull[-2:]
            slope = (point[1] - first[1]) / (point[0] - first[0])
            if middle[1] < first[1] + slope * (middle[0] - first[0]):
                break
            # On or above the line between its neighbors.
            hull.pop()
        hull.append(point)
    return hull


def estimate(points: list[tuple[int, float]], width: int) -> float:
    """Return the time at a width that was not measured, as a staircase between measured ones.

    Large layers are measured at every 16th width or fewer, and at 1 channel more. How much of the
    way to the next the 1 channel takes tells how many steps lie between:

        16: 1.0 ms   17: 1.5 ms   32: 2.0 ms   ->   steps of 8 channels, 24: 1.5 ms
    """
    for (before, before_ms), (left, left_ms), (right, right_ms) in triplewise(points):
        rise = right_ms - before_ms
        if not left < width < right or left != before + 1 or rise <= 0:
            continue
        length = (right - before) * (left_ms - before_ms) / rise
        # Of noise, a step of 7.6 channels is one of 8.
        step = 2 ** round(math.log2(max(length, 1.0)))
        stepped = min(round_up(width - before, step), right - before)
        return before_ms + rise * stepped / (right - before)
    return interpolate(points, width)


def triplewise(points: list[tuple[int, float]]) -> Iterator[tuple[tuple[int, float], ...]]:
    """Yield all three neighbors in a row."""
    return zip(points, points[1:], points[2:], strict=False)


def interpolate(points: list[tuple[int, float]], width: int) -> float:
    """Return the time at a width between measured ones, linearly; below the first, its time."""
    for (left, left_ms), (right, right_ms) in pairwise(points):
        if left <= width <= right:
            return left_ms + (right_ms - left_ms) * (width - left) / (right - left)
    return points[0][1] if width < points[0][0] else points[-1][1]
