"""Latency of networks, measured so that two of them can be compared."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from dhp_sr.utils.devices import thread_count
from dhp_sr.utils.modules import evaluating
from dhp_sr.utils.timing import quartiles, time_interleaved


@dataclass(frozen=True)
class Latency:
    """Wall time of a forward pass."""

    median_ms: float
    """Median over the rounds."""
    low_ms: float
    """Lower quartile."""
    high_ms: float
    """Upper quartile."""
    threads: int
    """CPU threads that torch used."""
    device: str
    """Name of the torch device."""


def latencies(
    networks: Mapping[str, nn.Module],
    input_shape: Sequence[int],
    *,
    repeats: int = 10,
    threads: int | None = None,
) -> dict[str, Latency]:
    """Time several networks, interleaved (see `utils.timing`).

    Every network runs in evaluation mode, without gradients, on the device and in the type of its
    parameters. Modes and the number of threads are restored afterwards.

    Args:
        networks: Name -> network that takes a tensor.
        input_shape: (N, C, H, W).
        repeats: Timed passes of each network, after two untimed ones.
        threads: CPU threads to use; default: as many as torch uses now.

    Returns:
        Name -> latency.

    Raises:
        ValueError: `repeats` or `threads` is below 1.
    """
    samples = _measure_ms(networks, input_shape, repeats, threads)
    results = {}
    for name, times_ms in samples.items():
        low, median, high = quartiles(times_ms)
        results[name] = Latency(
            median_ms=median,
            low_ms=low,
            high_ms=high,
            threads=threads or torch.get_num_threads(),
            device=str(_first_parameter(networks[name]).device),
        )
    return results


def _measure_ms(
    networks: Mapping[str, nn.Module], input_shape: Sequence[int], repeats: int, threads: int | None
) -> dict[str, list[float]]:
    if repeats < 1 or (threads is not None and threads < 1):
        raise ValueError(f"`repeats` (={repeats}) and `threads` (={threads}) must be at least 1")
    calls = {}
    device = torch.device("cpu")
    with ExitStack() as stack:
        stack.enter_context(thread_count(threads))
        stack.enter_context(torch.no_grad())
        for name, network in networks.items():
            stack.enter_context(evaluating(network))
            first = _first_parameter(network)
            # Not torch.rand: measuring must not move the random state of a running training.
            image = torch.full(tuple(input_shape), 0.5, device=first.device, dtype=first.dtype)
            calls[name] = partial(network, image)
            if first.device.type != "cpu":
                device = first.device  # the queue to wait for
        return time_interleaved(calls, device, repeats)


def _first_parameter(network: nn.Module) -> torch.Tensor:
    # A network without parameters runs on the CPU in float32.
    return next(network.parameters(), torch.empty(0))
