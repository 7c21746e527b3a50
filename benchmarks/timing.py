"""Wall and processor time of interleaved calls, and statistics of their ratios."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dhp_sr.utils import timing
from dhp_sr.utils.timing import WARM_UP, time_interleaved


@dataclass(frozen=True)
class Times:
    """Times of a call, an entry per round."""

    wall_ms: list[float]
    """Wall time."""
    cpu_ms: list[float]
    """Processor time of the process, all threads together; says little about a graphics card."""


def measure(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    *,
    lead_in: int = 0,
) -> dict[str, Times]:
    """Time each call once per round, after untimed rounds.

    Args:
        calls: name -> function to time.
        rounds: timed rounds.
        device: device of the calls.
        lead_in: untimed passes of a call before each timed one, see `time_interleaved`.
    """
    cpu_ms: dict[str, list[float]] = {name: [] for name in calls}

    def with_cpu_time(name: str, call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            call()
            cpu_ms[name].append((time.process_time() - start) * 1000)

        return run

    timed = {name: with_cpu_time(name, call) for name, call in calls.items()}
    wall_ms = time_interleaved(timed, device, rounds, lead_in=lead_in)
    every = lead_in + 1
    return {name: Times(wall_ms[name], cpu_ms[name][lead_in::every][WARM_UP:]) for name in calls}


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median, and lower and upper quartile as `low` and `high`."""
    low, median, high = timing.quartiles(values)
    return {"median": median, "low": low, "high": high}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Quartiles of the ratios within each round."""
    pairs = zip(numerators, denominators, strict=True)
    return quartiles([numerator / denominator for numerator, denominator in pairs])
