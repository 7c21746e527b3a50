"""Where the phases of a run lie."""

from collections.abc import Sequence

from dhp_sr.reports.run import TrainingPoint, ValidationPoint


def phase_spans(points: Sequence[TrainingPoint | ValidationPoint]) -> list[tuple[str, int, int]]:
    """Return (phase, first, last iteration): each begins where the one before was last seen."""
    last: dict[str, int] = {}
    for point in sorted(points, key=lambda point: point.iteration):
        last[point.phase] = point.iteration
    starts = [0, *last.values()]
    return [
        (phase, start, end)
        for (phase, end), start in zip(last.items(), starts, strict=False)
        if end > start
    ]
