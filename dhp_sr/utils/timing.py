"""Times that can be compared: several things timed in turns, under the same conditions.

Protocol: all take turns, one pass each per round, after untimed passes; a busy moment of the machine then hits all
alike. What is compared is the median over the rounds of the ratio within each round, or the fastest pass of each.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

WARM_UP = 2  # untimed passes: first allocations, choice of kernels


def rounds_ms(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    *,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Time each call once per round.

    Args:
        calls: name -> what to time.
        device: where the calls compute; their work is waited for.
        rounds: timed rounds.
        warm_up: untimed rounds before them.
        clock: gives seconds; default: the wall clock.

    Returns:
        Name -> milliseconds of every timed round.
    """
    clock = clock or time.perf_counter
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            elapsed_ms = _once_ms(call, device, clock)
            if turn >= warm_up:
                samples[name].append(elapsed_ms)
    return samples


def quiet_clock(device: torch.device, threads: int) -> Callable[[], float]:
    """Return the clock that is disturbed least by what else the machine does.

    With one CPU thread that is the processor time of this thread: on a quiet machine the same as the wall clock's, on a
    busy one without the time in which other programs had the core.
    """
    return time.thread_time if device.type == "cpu" and threads == 1 else time.perf_counter


def _once_ms(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    _wait_for(device)
    start = clock()
    call()
    _wait_for(device)
    return (clock() - start) * 1000


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads inside the block; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """Return the name of the processor or graphics card, with the CPU's vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = (
        cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        if cpuinfo.exists()
        else []
    )
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
