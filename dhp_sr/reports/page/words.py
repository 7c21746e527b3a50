"""Numbers and scores as the page words them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Score:
    """A kind of score."""

    key: str
    """In metrics.json."""
    label: str
    """Heading."""
    digits: int
    """After the point."""


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

_LUMA = (Score("psnr_y_db", "PSNR-Y, dB", 2), Score("ssim_y", "SSIM-Y", 4))
_COLOURS = (Score("psnr_rgb_db", "PSNR, dB", 2), Score("ssim_rgb", "SSIM", 4))
_OTHERS = (
    Score("top1_error_percent", "top-1 error, %", 2),
    Score("top5_error_percent", "top-5 error, %", 2),
)


def scores_of(task: str | None, found: Sequence[str]) -> tuple[Score, ...]:
    """Return the kinds of score that a page shows, the one that counts first.

    Args:
        task: of `metrics.json`; super-resolution is compared on Y first, denoising on all channels alone.
        found: keys that the run has.
    """
    known = (*_COLOURS, *_OTHERS) if task == "denoise" else (*_LUMA, *_COLOURS, *_OTHERS)
    return tuple(score for score in known if score.key in found)


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
    return tuple(dict.fromkeys(key for one in scores for key, value in one.items() if isinstance(value, float)))
