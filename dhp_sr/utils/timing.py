"""Interleaved timing: several calls measured under the same conditions.

Every call runs once per round, after untimed rounds, so that a busy moment of the machine hits all
calls alike. Compare medians of the ratios within a round, or the fastest pass of each call.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Clock = Callable[[], float]
"""Function that returns seconds since an arbitrary moment."""

WARM_UP = 2
"""Untimed rounds: first allocations, choice of kernels, optimizer state."""


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    *,
    warm_up: int = WARM_UP,
    lead_in: int = 0,
    clock: Clock | None = None,
) -> dict[str, list[float]]:
    """Time each call once per round.

    Args:
        calls: Name -> function to time.
        device: Device of the calls; its queue is emptied before each reading of the clock.
        rounds: Timed rounds.
        warm_up: Untimed rounds before them.
        lead_in: Untimed passes of the same call before each timed one. In use a network follows
            itself and finds its own weights and features in the caches; after another network it
            does not, which costs fast ones most.
        clock: Clock to read; default: wall time.

    Returns:
        Name -> milliseconds, an entry per timed round.
    """
    # Looked up at each call, not bound as a default, so that tests can replace it.
    clock = clock or time.perf_counter
    samples: dict[str, list[float]] = {}
    for index in range(warm_up + rounds):
        for name, call in calls.items():
            for _ in range(lead_in):
                call()
            _synchronize(device)
            start = clock()
            call()
            _synchronize(device)
            elapsed_ms = (clock() - start) * 1000
            if index >= warm_up:
                samples.setdefault(name, []).append(elapsed_ms)
    return samples


def relative_speeds(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """Compare interleaved times: the median over the rounds of the ratio within a round.

    Work beside them that comes and goes within seconds slows down all calls of a round; it would
    move the median of each by another amount.

    Args:
        times: Name -> times, from `time_interleaved`.
        reference: Name of the call whose speed is 1.

    Returns:
        Name -> how many times as fast as the reference.
    """
    speeds = {}
    for name, own in times.items():
        pairs = zip(times[reference], own, strict=True)
        speeds[name] = statistics.median(other / mine for other, mine in pairs)
    return speeds


def cpu_thread_clock(device: torch.device, threads: int) -> Clock:
    """Clock that other programs on the machine disturb least.

    With a single CPU thread this is the processor time of the thread: equal to wall time on an
    idle machine, and on a busy machine without the time of other programs. Otherwise wall time.

    Args:
        device: Device of the calls to time.
        threads: CPU threads that torch uses.
    """
    if device.type == "cpu" and threads == 1:
        return time.thread_time
    return time.perf_counter


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of a single value, the value three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, method="inclusive")
    return low, median, high


def _synchronize(device: torch.device) -> None:
    # Kernels run asynchronously on other devices; without waiting, only their launch is timed.
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
