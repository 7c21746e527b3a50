"""Measurement of latency: of whole networks against each other, and of layers at many widths.

Protocol: eval mode, no gradients, a fixed number of CPU threads; what is compared is timed
interleaved, and of several passes the fastest counts, because what else the machine does only ever
adds time. With one CPU thread the time is that of the processor, see `cpu_thread_clock`.
"""

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.cost.latency_lut import (
    LatencyLUT,
    LayerCall,
    LayerGrid,
    channel_dim,
    describe_rest,
    record_layer_calls,
)
from dhp_sr.operators.resize import resize
from dhp_sr.utils.devices import device_name, thread_count
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.network_io import Example, inputs_of, with_further_inputs
from dhp_sr.utils.strict_json import Json, JsonObject
from dhp_sr.utils.timing import Clock, cpu_thread_clock, time_interleaved

NETWORK_SECONDS = 2.0
"""Time for a comparison of two networks; it gets as many rounds as fit into it."""
MIN_NETWORK_ROUNDS = 9
MAX_NETWORK_ROUNDS = 41

GRID_SECONDS = 2.0
"""Time for the grid of a layer; it gets as many rounds as fit into it."""
MIN_GRID_ROUNDS = 3
MAX_GRID_ROUNDS = 25

BLOCK = 8
"""Channels that kernels compute at once: up to a block every width is measured, then blocks and 1
channel more."""
MAX_BLOCKS = 8
"""Multiples of a block measured along an axis; on longer ones they are 2, 4, ... blocks apart."""


Prepare = Callable[[nn.Module, Example, int], Callable[[], object]]
"""(module, example input, threads) -> a function that computes the module once."""


@dataclass(frozen=True)
class TimedRuntime:
    """Program whose times are measured; the engine itself knows PyTorch alone."""

    name: str
    version: str
    prepare: Prepare
    processor: str = ""
    """Name of what computes where that is not the device of the example; empty: that device."""
    is_torch: bool = False
    """Whether it is PyTorch, which computes on any device; others take images from the CPU."""


TORCH = TimedRuntime(
    "torch",
    torch.__version__,
    lambda module, example, threads: partial(module, *inputs_of(example)),
    is_torch=True,
)


@dataclass(frozen=True)
class LatencyBenchmark:
    """Measures the latency of networks and their layers, for a given input size and device."""

    example_input: Example
    """Its shape, device and type are those measured; an image's values do not matter."""
    threads: int = 1
    """CPU threads."""
    path: Path | None = None
    """File of layer times, read and added to; None: they are not kept."""
    broadcast: Callable[[Callable[[], Any]], Any] = lambda compute: compute()
    """Calls its argument and returns the result; of several processes, rank 0's result in all."""
    cache: JsonObject = field(default_factory=dict)
    """Times measured so far, as `LatencyLUT.times` returns them; none is measured twice."""
    runtime: TimedRuntime = TORCH
    """Program that computes what is timed."""

    @property
    def _image(self) -> Tensor:
        return inputs_of(self.example_input)[0]

    def lut(self, network: nn.Module) -> LatencyLUT:
        """Return the times of a network's layers; those that are not in the file are measured.

        Args:
            network: Plain and unpruned; it is left as it was.

        Raises:
            UserError: The network has no layer that can be timed.
            OSError: The file cannot be written.
        """
        network = deep_copy(network).eval().to(self._image.device)
        calls = record_layer_calls(network, self.example_input)
        if not calls:
            raise UserError(
                f"{type(network).__name__}: expected convolutions or linear layers that are "
                "modules with plain weights, whose times make up the latency, got none in its "
                "forward: convolutions called as functions, and weights computed from others, "
                "cannot be timed at other widths. Choose a budget of another kind, such as macs"
            )
        times = self.broadcast(lambda: self._complete_times(network, calls))
        self.cache.update(times)
        return LatencyLUT(
            self._conditions(), times["layers"], times["networks"], calls, describe_rest(network)
        )

    def ratio(self, candidate: nn.Module, reference: nn.Module) -> float:
        """Return the time of `candidate` as a fraction of that of `reference`.

        Both are left as they were. The median over the rounds of the ratio within a round, in which
        each gets two passes.
        """
        return float(self.broadcast(lambda: self._ratio(candidate, reference)))

    def _conditions(self) -> dict[str, Json]:
        """Return the conditions that measured times depend on besides the layer."""
        device = self._image.device
        return {
            "device": self.runtime.processor or device_name(device),
            # Its name is the key, so that a table of another runtime is never taken for this one.
            self.runtime.name: self.runtime.version,
            # Times of other devices do not depend on CPU threads.
            "threads": self.threads if self._is_on_cpu else 0,
            "dtype": str(self._image.dtype).removeprefix("torch."),
        }

    def _complete_times(self, network: nn.Module, calls: tuple[LayerCall, ...]) -> dict[str, dict]:
        """Read the table, measure what is missing, and write it where it has grown."""
        conditions = self._conditions()
        table = LatencyLUT(conditions)
        if self.path is not None:
            table = LatencyLUT.read(self.path, conditions)
        # Compared as text: `add_missing` and the measurements change the tables in place.
        before = json.dumps(table.times())
        table.add_missing(self.cache)
        table.calls = calls
        table.rest = describe_rest(network)
        if not table.is_complete:
            with torch.no_grad(), thread_count(self.threads):
                self._measure_missing(table, network)
        if self.path is not None and json.dumps(table.times()) != before:
            table.write(self.path)
        return table.times()

    def _measure_missing(self, table: LatencyLUT, network: nn.Module) -> None:
        for call in table.calls:
            if call.signature not in table.layers:
                table.layers[call.signature] = self._measure_layer(call)
        # Anew even where it is known: the layers' times are compared with that of the same moment.
        compute = self.runtime.prepare(network, self.example_input, self.threads)
        whole = self._fastest_ms({"network": compute})
        table.networks[table.network_signature] = whole["network"]

    def _measure_layer(self, call: LayerCall) -> LayerGrid:
        """Time copies of a layer at a grid of widths."""
        shape = call.weight_shape
        groups = getattr(call.module, "groups", 1)
        # A depthwise convolution loses whole groups; any other narrows all its groups alike.
        multiple = groups
        if groups > 1 and shape[1] == 1:
            multiple = shape[0] // groups
        first = width_grid(shape[0], multiple)
        second = width_grid(shape[1])
        probes = {}
        for first_width in first:
            for second_width in second:
                layer, example = _make_probe(call, first_width, second_width, self._image)
                probe = self.runtime.prepare(layer, example, self.threads)
                probes[f"{first_width} {second_width}"] = probe
        fastest = self._fastest_ms(probes)
        # The probes are in row-major order, and so are their times.
        flat = torch.tensor(list(fastest.values()), dtype=torch.double)
        ms = flat.reshape(len(first), len(second)).tolist()
        return {"first": first, "second": second, "ms": ms}

    def _fastest_ms(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Return the fastest pass of each call, in milliseconds."""
        device = self._image.device
        clock = self._clock()
        first_round = time_interleaved(calls, device, 1, warm_up=1, clock=clock)
        seconds = sum(map(min, first_round.values())) / 1000
        rounds = _rounds_within(GRID_SECONDS, seconds, MIN_GRID_ROUNDS, MAX_GRID_ROUNDS)
        times = time_interleaved(calls, device, rounds, warm_up=0, clock=clock)
        return {name: min(passes) for name, passes in times.items()}

    @torch.no_grad()
    def _ratio(self, candidate: nn.Module, reference: nn.Module) -> float:
        device = self._image.device
        # Not random: measuring must not move the random state of a running training.
        image = torch.full_like(self._image, 0.5)
        example = with_further_inputs(image, inputs_of(self.example_input)[1:])
        networks = []
        for network in (reference, candidate):
            network = deep_copy(network).eval().to(device)
            networks.append(self.runtime.prepare(network, example, self.threads))
        run_reference, run_candidate = networks
        # In turns, each twice a round, so that a drift of the clock rate hits both alike.
        calls = {
            "candidate": run_candidate,
            "reference": run_reference,
            "candidate again": run_candidate,
            "reference again": run_reference,
        }
        clock = self._clock()
        with thread_count(self.threads):
            # A single pass of the reference tells how many rounds fit into the time.
            once = time_interleaved({"": calls["reference"]}, device, 1, clock=clock)
            # The four passes take about three times as long as the reference, for the candidate is
            # faster.
            seconds = 3 * once[""][0] / 1000
            rounds = _rounds_within(
                NETWORK_SECONDS, seconds, MIN_NETWORK_ROUNDS, MAX_NETWORK_ROUNDS
            )
            times = time_interleaved(calls, device, rounds, warm_up=1, clock=clock)
        ratios = []
        for index in range(rounds):
            candidate_ms = min(times["candidate"][index], times["candidate again"][index])
            reference_ms = min(times["reference"][index], times["reference again"][index])
            ratios.append(candidate_ms / reference_ms)
        return statistics.median(ratios)

    @property
    def _is_on_cpu(self) -> bool:
        return self._image.device.type == "cpu" and not self.runtime.processor

    def _clock(self) -> Clock:
        # While another device computes, the processor waits: its own time says nothing.
        if self.runtime.processor:
            return time.perf_counter
        return cpu_thread_clock(self._image.device, self.threads)


def width_grid(width: int, multiple: int = 1) -> list[int]:
    """Return the widths to measure, ascending, up to the dense width.

    Kernels compute whole blocks of channels: a channel more than a full block costs as much as
    several more do. So both sides of such a step are measured.

    Args:
        width: The dense width.
        multiple: Only multiples of this can be built.
    """
    if width <= BLOCK * multiple:
        return list(range(multiple, width + 1, multiple))
    step = BLOCK * multiple
    while width / step > MAX_BLOCKS:
        step *= 2
    widths = {width}
    for full_blocks in range(step, width, step):
        widths |= {full_blocks, full_blocks + multiple}
    return sorted(widths)


def _rounds_within(total_seconds: float, round_seconds: float, least: int, most: int) -> int:
    """Return the number of rounds of such a length that fit into a time, within bounds."""
    rounds = math.ceil(total_seconds / max(round_seconds, 1e-6))
    return max(least, min(most, rounds))


def _make_probe(
    call: LayerCall, first_width: int, second_width: int, like: Tensor
) -> tuple[nn.Module, Tensor]:
    """Return a copy of the layer at other widths and an input, on device and type of `like`."""
    layer = copy.deepcopy(call.module)
    shapes: dict[str, tuple[int, ...]] = {
        "weight": (first_width, second_width, *call.weight_shape[2:])
    }
    out_channels = first_width
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        # Its weight is (in, out / groups, *kernel).
        out_channels = second_width * layer.groups
    if layer.bias is not None:
        shapes["bias"] = (out_channels,)
    resize(layer, shapes)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        # Not random: measuring must not move the random state of a running training.
        tensor.fill_(0.01)
    in_channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    input_shape = list(call.input_shape)
    input_shape[channel_dim(layer)] = in_channels
    return layer, like.new_full(input_shape, 0.5)
