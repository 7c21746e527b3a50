"""Numbers as the page words them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Cost:
    """A kind of cost."""

    key: str
    """In metrics.json."""
    label: str
    """Heading, with its unit."""
    unit: float
    """What one of the heading's unit is."""
    digits: int
    """After the point."""


COSTS = (
    Cost("macs", "multiply-adds, G", 1e9, 3),
    Cost("params", "parameters, M", 1e6, 3),
    Cost("latency_ms", "latency, ms", 1.0, 1),
)


def number(value: float | None, digits: int, unit: float = 1.0) -> str:
    """Return a number with thousands separated, or a dash for none."""
    return MISSING if value is None else f"{value / unit:,.{digits}f}"


def percent(part: float | None, whole: float | None) -> str:
    """Return what of `whole` is kept, or a dash where that is unknown."""
    return MISSING if not part or not whole else f"{part / whole:.1%}"


def gain(value: float, reference: float, digits: int) -> str:
    """Return a difference with its sign; a true minus, for readers."""
    return f"{value - reference:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def score_keys(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Return every kind of score in the rows of `metrics.json`."""
    scores = [one for row in metrics["rows"] for one in row["sets"].values()]
    return tuple(
        dict.fromkeys(
            key for one in scores for key, value in one.items() if isinstance(value, float)
        )
    )
