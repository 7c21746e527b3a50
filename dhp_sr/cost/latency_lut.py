"""Measured times of the layers of a network at various widths, kept on disk.

Protocol: eval mode, no gradients, one device, a fixed number of CPU threads. Each kind of layer is rebuilt at a grid of
widths; all of its grid is timed in turns, and of each point the fastest of several passes counts, because what else
the machine does only ever adds time. With one CPU thread the time is that of the processor, see `cpu_thread_clock`. The
whole network is timed the same way. Times of one table hold for one device, torch version, number of threads and
data type alone; a file made under other conditions is not used, with a warning.
"""

import copy
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.operators.registry import weighted_layer_types
from dhp_sr.operators.resize import resize
from dhp_sr.utils.devices import device_name, thread_count
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.modules import canonical_names
from dhp_sr.utils.timing import cpu_thread_clock, time_interleaved

BLOCK = 8
"""Kernels work on blocks of channels: up to here every width is measured, then multiples of it and one channel more."""
BLOCKS = 8
"""Multiples measured along an axis, at most; beyond, they are 2, 4, ... blocks apart."""
ROUNDS = (3, 25)
"""Least and most passes of a point; between them, as many as fit into GRID_SECONDS."""
GRID_SECONDS = 2.0
FORMAT = "dhp_sr.latency.1"


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer."""

    weight: str
    """Name of its weight."""
    module: nn.Module
    input_shape: tuple[int, ...]
    elements: int
    """Numbers it puts out."""

    @property
    def signature(self) -> str:
        """What its time depends on beside the widths kept."""
        layer, shape = self.module, list(self.input_shape)
        shape[-1 if isinstance(layer, nn.Linear) else 1] = 0
        bias = "bias" if layer.bias is not None else "no bias"
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        details = [f"{name}={getattr(layer, name)}" for name in names if hasattr(layer, name)]
        widths = f"weight {tuple(layer.weight.shape)}"
        return f"{type(layer).__name__} {widths} {bias} {' '.join(details)} input {tuple(shape)}"


@dataclass
class LatencyLUT:
    """Times of layers on a grid of widths, in milliseconds."""

    conditions: dict[str, Any]
    """Device, torch version, threads and type that the times hold for."""
    layers: dict[str, dict[str, list]] = field(default_factory=dict)
    """Signature -> `first` and `second`, the widths measured along the weight's first two axes, and `ms`, the times."""
    networks: dict[str, float] = field(default_factory=dict)
    """Signature of a whole network -> its time."""
    calls: tuple[LayerCall, ...] = ()
    """The layer calls of the network that the table was prepared for."""

    @property
    def dense_ms(self) -> float:
        """Time of the whole network that the table was prepared for."""
        return self.networks[_network_signature(self.calls)]

    def times(self) -> dict[str, dict]:
        """Return all times, JSON-able."""
        return {"layers": self.layers, "networks": self.networks}

    @property
    def missing(self) -> bool:
        """Whether some of the network's times are not there."""
        known = all(call.signature in self.layers for call in self.calls)
        return not known or _network_signature(self.calls) not in self.networks


def prepare_lut(
    network: nn.Module,
    example_input: Tensor,
    *,
    threads: int = 1,
    path: Path | None = None,
    share: Callable[[Callable[[], Any]], Any] = lambda compute: compute(),
    known: Mapping[str, Any] | None = None,
) -> LatencyLUT:
    """Return the times of a network's layers: those in the file, and measured ones for the rest, which are added to it.

    Args:
        network: plain and unpruned; it is left as it was.
        example_input: one input of the size that counts.
        threads: CPU threads to measure with.
        path: the file; None: nothing is kept.
        share: calls its argument and returns the result; among several processes, the result of the first one in all.
        known: times measured before under the same conditions, as `LatencyLUT.times` gives them.

    Raises:
        UserError: the network has no layer that can be timed.
        OSError: the file cannot be written.
    """
    network = copy.deepcopy(network).eval()
    conditions = {
        "device": device_name(example_input.device),
        "torch": torch.__version__,
        "threads": threads if example_input.device.type == "cpu" else 0,
        "dtype": str(example_input.dtype).removeprefix("torch."),
    }
    calls = record_calls(network, example_input)
    if not calls:
        raise UserError(
            f"{type(network).__name__}: expected convolutions or linear layers that are modules with weights of their "
            "own, whose times make up the latency, found none in its forward: convolutions called as functions, and "
            "weights computed from others, cannot be timed at other widths. Ask for macs or params instead"
        )

    def measured() -> dict[str, Any]:
        table = _read(path, conditions)
        before = json.dumps(table.times())
        for kind, times in (known or {}).items():
            getattr(table, kind).update(
                {key: value for key, value in times.items() if key not in getattr(table, kind)}
            )
        table.calls = calls
        if table.missing:
            with torch.no_grad(), thread_count(threads):
                _measure_missing(table, network, example_input)
        if path is not None and json.dumps(table.times()) != before:
            write_json(path, {"format": FORMAT, "conditions": conditions, **table.times()})
        return table.times()

    times = share(measured)
    return LatencyLUT(conditions, times["layers"], times["networks"], calls)


def record_calls(network: nn.Module, example_input: Tensor) -> tuple[LayerCall, ...]:
    """Run a network and note every call of a layer that multiplies and can be built at other widths."""
    names, calls, handles = canonical_names(network), [], []
    for path, module in network.named_modules():
        if isinstance(module, weighted_layer_types()) and _holds_its_weights(module):
            weight = names[f"{path}.weight" if path else "weight"]

            def note(
                layer: nn.Module, inputs: tuple, named: dict, output: Tensor, weight: str = weight
            ) -> None:
                given = inputs[0] if inputs else named["input"]
                calls.append(LayerCall(weight, layer, tuple(given.shape), output.numel()))

            handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        with torch.no_grad():
            network(example_input)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(calls)


def _holds_its_weights(layer: nn.Module) -> bool:
    """Return whether weight and bias are parameters or buffers, not computed from others as those of a weight norm."""
    own = dict([*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)])
    return "weight" in own and (layer.bias is None or "bias" in own)


def grid(width: int, multiple: int = 1) -> list[int]:
    """Return the widths to measure up to a dense one, itself included.

    One channel more than a full block costs as much as many more do, so both sides of such a step are measured.

    Args:
        width: the dense width.
        multiple: only multiples of this can be built.
    """
    if width <= BLOCK * multiple:
        return list(range(multiple, width + 1, multiple))
    step = BLOCK * multiple
    while width / step > BLOCKS:
        step *= 2
    full = range(step, width, step)
    return sorted({*full, *(one + multiple for one in full), width})


def _measure_missing(table: LatencyLUT, network: nn.Module, example_input: Tensor) -> None:
    clock = cpu_thread_clock(example_input.device, table.conditions["threads"])
    for call in table.calls:
        if call.signature not in table.layers:
            table.layers[call.signature] = _measure_layer(call, example_input, clock)
    run = {"": lambda: network(example_input)}
    table.networks[_network_signature(table.calls)] = _fastest_ms(run, example_input.device, clock)[
        ""
    ]


def _measure_layer(call: LayerCall, like: Tensor, clock: Callable[[], float]) -> dict[str, list]:
    shape, groups = tuple(call.module.weight.shape), getattr(call.module, "groups", 1)
    depthwise = groups > 1 and shape[1] == 1
    first = grid(shape[0], shape[0] // groups if depthwise else groups)
    second = grid(shape[1])
    probes = {f"{one} {two}": _probe(call, one, two, like) for one in first for two in second}
    fastest = _fastest_ms(probes, like.device, clock)
    return {
        "first": first,
        "second": second,
        "ms": [[fastest[f"{one} {two}"] for two in second] for one in first],
    }


def _probe(call: LayerCall, first: int, second: int, like: Tensor) -> Callable[[], object]:
    """Return a call of a copy of the layer with other widths."""
    layer = copy.deepcopy(call.module)
    shapes = {"weight": (first, second, *layer.weight.shape[2:])}
    transposed, linear = (
        isinstance(layer, nn.modules.conv._ConvTransposeNd),
        isinstance(layer, nn.Linear),
    )
    if layer.bias is not None:
        groups = getattr(layer, "groups", 1)
        shapes["bias"] = (second * groups if transposed else first,)
    resize(layer, shapes)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        tensor.fill_(
            0.01
        )  # not random: measuring must not move the random state of a running training
    shape = list(call.input_shape)
    shape[-1 if linear else 1] = layer.in_features if linear else layer.in_channels
    example = like.new_full(shape, 0.5)
    return lambda: layer(example)


def _fastest_ms(
    calls: Mapping[str, Callable[[], object]], device: torch.device, clock: Callable[[], float]
) -> dict[str, float]:
    once = (
        sum(
            min(times)
            for times in time_interleaved(calls, device, 1, warm_up=1, clock=clock).values()
        )
        / 1000
    )
    rounds = max(ROUNDS[0], min(ROUNDS[1], math.ceil(GRID_SECONDS / max(once, 1e-6))))
    return {
        name: min(times)
        for name, times in time_interleaved(calls, device, rounds, warm_up=0, clock=clock).items()
    }


def _network_signature(calls: Sequence[LayerCall]) -> str:
    return " | ".join(call.signature for call in calls)


def _read(path: Path | None, conditions: Mapping[str, Any]) -> LatencyLUT:
    empty = LatencyLUT(dict(conditions))
    if path is None or not path.exists():
        return empty
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        found = content["conditions"]
        table = LatencyLUT(dict(conditions), dict(content["layers"]), dict(content["networks"]))
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"{path}: expected a table of latencies ({FORMAT}), found {error!r}; measured anew",
            stacklevel=2,
        )
        return empty
    differing = [
        f"{key}: {found.get(key)!r} there, {value!r} here"
        for key, value in conditions.items()
        if found.get(key) != value
    ]
    if differing:
        warnings.warn(
            f"{path}: latencies of other conditions ({'; '.join(differing)}); measured anew",
            stacklevel=2,
        )
        return empty
    return table
