"""Measures how long networks take, so that two measurements can be compared."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from dhp_sr.utils.hardware import thread_count
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.timing import time_interleaved


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one forward pass."""

    median_ms: float
    low_ms: float
    """Lower quartile."""
    high_ms: float
    """Upper quartile."""
    threads: int
    """Threads that torch used on the CPU."""
    device: str


def latency(
    network: nn.Module, input_shape: Sequence[int], *, repeats: int = 10, threads: int | None = None
) -> Latency:
    """Time one network; see `latencies`, which also compares several on equal terms."""
    return latencies({"": network}, input_shape, repeats=repeats, threads=threads)[""]


def latencies(
    networks: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    repeats: int = 10,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Time several networks in turns, one pass of each per round, so that a busy moment of the machine hits all alike.

    Every network runs in eval mode, without gradients, on the device and in the type of its parameters. Modes and the
    number of threads are put back afterwards.

    Args:
        networks: Name -> network that takes one tensor.
        input_shape: (N, C, H, W).
        repeats: Timed passes of each network; two more come before them, untimed.
        threads: CPU threads to use; default: as many as torch has now.

    Returns:
        Name -> its time.

    Raises:
        ValueError: `repeats` or `threads` is below 1.
    """
    samples = _measure(networks, input_shape, repeats, threads)
    used = threads or torch.get_num_threads()
    return {
        name: _summary(times, used, _placement(networks[name])[0])
        for name, times in samples.items()
    }


def latency_ratio(
    candidate: nn.Module,
    reference: nn.Module,
    input_shape: Sequence[int],
    *,
    repeats: int = 10,
    threads: int | None = None,
) -> float:
    """Return the kept fraction of time, candidate / reference: the median of the ratios within each round.

    Args:
        candidate: The faster network, one hopes.
        reference: What it is compared with.
        input_shape: (N, C, H, W).
        repeats: Rounds.
        threads: CPU threads to use; default: as many as torch has now.

    Raises:
        ValueError: `repeats` or `threads` is below 1.
    """
    pair = {"reference": reference, "candidate": candidate}
    samples = _measure(pair, input_shape, repeats, threads)
    return statistics.median(
        ours / theirs
        for ours, theirs in zip(samples["candidate"], samples["reference"], strict=True)
    )


def _measure(
    networks: Mapping[str, nn.Module], input_shape: Sequence[int], repeats: int, threads: int | None
) -> dict[str, list[float]]:
    if repeats < 1 or (threads is not None and threads < 1):
        raise ValueError(f"`repeats` (={repeats}) and `threads` (={threads}) must be at least 1")
    with ExitStack() as stack:
        stack.enter_context(thread_count(threads))
        stack.enter_context(torch.no_grad())
        for network in networks.values():
            stack.enter_context(evaluating(network))
        calls = {
            name: partial(network, _example(network, input_shape))
            for name, network in networks.items()
        }
        devices = [_placement(network)[0] for network in networks.values()]
        busiest = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        return time_interleaved(calls, busiest, repeats)


def _summary(times_ms: list[float], threads: int, device: torch.device) -> Latency:
    low, median, high = (
        statistics.quantiles(times_ms, method="inclusive") if len(times_ms) > 1 else times_ms * 3
    )
    return Latency(median_ms=median, low_ms=low, high_ms=high, threads=threads, device=str(device))


def _placement(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(network.parameters(), torch.empty(0))
    return first.device, first.dtype


def _example(network: nn.Module, input_shape: Sequence[int]) -> torch.Tensor:
    device, dtype = _placement(network)
    # Not torch.rand: measuring must not move the random state of a running training.
    return torch.full(tuple(input_shape), 0.5, device=device, dtype=dtype)
