"""How latencies of one network and its cuts are measured: at which size, on which device, with how many threads."""

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.cost.latency_lut import LatencyLUT, prepare_lut
from dhp_sr.utils.devices import thread_count
from dhp_sr.utils.timing import cpu_thread_clock, time_interleaved

ROUNDS = (9, 41)
"""Least and most rounds of a comparison; between them, as many as fit into SECONDS."""
SECONDS = 2.0


def _alone(compute: Callable[[], Any]) -> Any:
    return compute()


@dataclass(frozen=True)
class LatencyBenchmark:
    """Measures networks for one example input.

    A ratio is the median over the rounds of (candidate's time / reference's time), both timed in turns in eval mode
    without gradients; in each round each gets two passes, of which the faster counts. With one CPU thread the time is
    that of the processor, see `cpu_thread_clock`.
    """

    example_input: Tensor
    """Its shape, device and type are those measured; its values do not matter."""
    threads: int = 1
    """CPU threads."""
    path: Path | None = None
    """File of layer times, read and added to; None: they are measured and forgotten."""
    share: Callable[[Callable[[], Any]], Any] = _alone
    """Calls its argument; among several processes, gives the first one's result to all."""

    known: dict[str, Any] = field(default_factory=dict)
    """Times measured so far, so that none is measured twice."""

    def table(self, network: nn.Module) -> LatencyLUT:
        """Return the times of a plain network's layers: those in the file, and measured ones for the rest."""
        threads, path, share = self.threads, self.path, self.share
        table = prepare_lut(
            network, self.example_input, threads=threads, path=path, share=share, known=self.known
        )
        self.known.update(table.times())
        return table

    def ratio(self, candidate: nn.Module, reference: nn.Module) -> float:
        """Return the time of `candidate` as a fraction of that of `reference`; both are left as they were."""
        return float(self.share(lambda: self._ratio(candidate, reference)))

    @torch.no_grad()
    def _ratio(self, candidate: nn.Module, reference: nn.Module) -> float:
        device, example = self.example_input.device, torch.full_like(self.example_input, 0.5)
        ours, theirs = (copy.deepcopy(network).eval() for network in (candidate, reference))
        calls = {
            name: lambda network=network: network(example)
            for name, network in (("a", ours), ("b", theirs))
        }
        calls |= {f"{name}2": call for name, call in calls.items()}
        clock = cpu_thread_clock(device, self.threads)
        with thread_count(self.threads):
            first = time_interleaved({"b": calls["b"]}, device, 1, clock=clock)["b"][0]
            rounds = max(
                ROUNDS[0], min(ROUNDS[1], math.ceil(1000 * SECONDS / max(3 * first, 1e-3)))
            )
            times = time_interleaved(calls, device, rounds, warm_up=1, clock=clock)
        fastest = [
            (min(pair) for pair in zip(times[name], times[f"{name}2"], strict=True))
            for name in "ab"
        ]
        return statistics.median(mine / other for mine, other in zip(*fastest, strict=True))
