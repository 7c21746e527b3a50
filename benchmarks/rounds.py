"""Things that take turns: in every round each runs once, so that a busy moment of the machine hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

WARM_UP = 2
"""Untimed rounds: first allocations, choice of kernels, moments of the optimizer."""


@dataclass(frozen=True)
class Turns:
    """The times of one of the things, one value per round."""

    wall_ms: list[float]
    cpu_ms: list[float]
    """Processor time of the whole process, all threads together; says little on a graphics card."""


def take_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Turns]:
    """Time each call once per round; whoever comes first in one round comes last in the next.

    Args:
        calls: name -> what to time.
        rounds: timed rounds; WARM_UP untimed ones come before them.
        device: what the calls compute on; its queue is emptied before each look at the clock.
    """
    turns = {name: Turns([], []) for name in calls}
    order = list(calls)
    for turn in range(WARM_UP + rounds):
        for name in order:
            wall_ms, cpu_ms = _once_ms(calls[name], device)
            if turn >= WARM_UP:
                turns[name].wall_ms.append(wall_ms)
                turns[name].cpu_ms.append(cpu_ms)
        order = order[1:] + order[:1]
    return turns


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return median, and the lower and upper quartile as `low` and `high`."""
    low, median, high = (
        statistics.quantiles(values, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {"median": median, "low": low, "high": high}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the quartiles of the ratios within each round."""
    return quartiles([one / other for one, other in zip(above, below, strict=True)])


def _once_ms(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    _wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _wait_for(device)
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
