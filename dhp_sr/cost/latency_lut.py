"""Lookup table (LUT) of measured layer times, kept on disk."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.modules import call_input, canonical_names
from dhp_sr.utils.network_io import Example, inputs_of
from dhp_sr.utils.strict_json import Json

FORMAT = "dhp_sr.latency.1"
"""Format and version of the file."""
_FAMILY = "dhp_sr.latency."
"""What every version of it begins with."""

TIMED_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


Layer = _ConvNd | nn.Linear
"""Layer that can be timed; the elements of `TIMED_LAYERS`."""


class LayerGrid(TypedDict):
    """Times of a layer on a grid of widths."""

    first: list[int]
    """Sizes measured of the weight's first axis, ascending."""
    second: list[int]
    """Sizes measured of its second axis."""
    ms: list[list[float]]
    """Milliseconds for each pair of them."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in a network's forward."""

    weight: str
    """Name of the layer's weight."""
    module: Layer
    input_shape: tuple[int, ...]
    elements: int
    """Size of its output."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the unpruned weight."""
        return tuple(self.module.weight.shape)

    @property
    def signature(self) -> str:
        """Everything that the layer's time depends on, except for the kept widths."""
        layer = self.module
        # Probes have other numbers of input channels; everything else of the shape counts.
        shape = list(self.input_shape)
        shape[channel_dim(layer)] = 0
        details = []
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
            if hasattr(layer, name):
                details.append(f"{name}={getattr(layer, name)}")
        bias = "no bias" if layer.bias is None else "bias"
        widths = f"weight {self.weight_shape}"
        return f"{type(layer).__name__} {widths} {bias} {' '.join(details)} input {tuple(shape)}"


def channel_dim(layer: Layer) -> int:
    """Return the axis of a layer's input that holds its channels."""
    return -1 if isinstance(layer, nn.Linear) else 1


@dataclass
class LatencyLUT:
    """Times of layers on grids of widths, and of whole networks, in milliseconds.

    They hold for a single device, torch version, number of threads and data type: `conditions`.
    """

    conditions: Mapping[str, Json]
    layers: dict[str, LayerGrid] = field(default_factory=dict)
    """Signature of a layer call -> its times."""
    networks: dict[str, float] = field(default_factory=dict)
    """Signature of a whole network -> its time."""
    calls: tuple[LayerCall, ...] = ()
    """The layer calls of the network that the table is prepared for."""
    rest: str = ""
    """What runs between them, see `describe_rest`."""

    @property
    def network_signature(self) -> str:
        """Key of the network's time."""
        return " | ".join([*(call.signature for call in self.calls), self.rest])

    @property
    def dense_ms(self) -> float:
        """Time of the network that the table is prepared for."""
        return self.networks[self.network_signature]

    @property
    def is_complete(self) -> bool:
        """Whether no time of the network is missing."""
        has_layers = all(call.signature in self.layers for call in self.calls)
        return has_layers and self.network_signature in self.networks

    def times(self) -> dict[str, dict]:
        """Return all times, JSON-able."""
        return {"layers": self.layers, "networks": self.networks}

    def add_missing(self, times: Mapping[str, Mapping]) -> None:
        """Add those of further times, as `times` returns them, that are not in the table."""
        for signature, grid in times.get("layers", {}).items():
            self.layers.setdefault(signature, grid)
        for signature, ms in times.get("networks", {}).items():
            self.networks.setdefault(signature, ms)

    def check(self) -> None:
        """Check that all times are numbers, in grids of the widths that they are stated for.

        Raises:
            ValueError: They are not.
            KeyError: A grid lacks widths or times.
            TypeError: A value is of another type.
        """
        for signature, grid in self.layers.items():
            times = torch.tensor(grid["ms"], dtype=torch.double)
            if tuple(times.shape) != (len(grid["first"]), len(grid["second"])):
                raise ValueError(f"{times.shape} times of {signature}")
            if not times.isfinite().all() or sorted(grid["first"]) != grid["first"]:
                raise ValueError(f"times of {signature}")
        if not torch.tensor([*self.networks.values()], dtype=torch.double).isfinite().all():
            raise ValueError("times of networks")

    def write(self, path: Path) -> None:
        """Write the table.

        Raises:
            OSError: The file cannot be written.
        """
        write_json(path, {"format": FORMAT, "conditions": dict(self.conditions), **self.times()})

    @classmethod
    def read(cls, path: Path, conditions: Mapping[str, Json]) -> "LatencyLUT":
        """Read a table; return an empty table where there is no file.

        Also where the file is a damaged table, or has other conditions, with a warning.

        Raises:
            UserError: The file is something else, which a new table would replace.
        """
        empty = cls(conditions)
        if not path.exists():
            return empty
        stored_bytes = path.read_bytes()
        if stored_bytes and _FAMILY.encode() not in stored_bytes:
            raise UserError(
                f"{path}: expected a table of latencies ({FORMAT}), got another file, which it "
                "would replace; name another one"
            )
        try:
            content = json.loads(stored_bytes)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            # A file from elsewhere may be anything: wrong types are found by using them.
            stored = dict(content["conditions"])
            table = cls(conditions, dict(content["layers"]), dict(content["networks"]))
            table.check()
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{path}: expected a table of latencies ({FORMAT}), got {error!r}; it is "
                "measured anew",
                stacklevel=2,
            )
            return empty
        differing = []
        for key, value in conditions.items():
            if stored.get(key) != value:
                differing.append(f"{key}: {stored.get(key)!r} there, {value!r} here")
        if differing:
            warnings.warn(
                f"{path}: latencies of other conditions ({'; '.join(differing)}); they are "
                "measured anew",
                stacklevel=2,
            )
            return empty
        return table


def record_layer_calls(network: nn.Module, example_input: Example) -> tuple[LayerCall, ...]:
    """Run a network and return every call of a layer that can be timed at other widths."""
    names = canonical_names(network)
    calls: list[LayerCall] = []
    handles = []
    for path, module in network.named_modules():
        if not isinstance(module, TIMED_LAYERS) or not _has_plain_weights(module):
            continue
        # The network itself may be a layer; its path is empty.
        weight = names[f"{path}.weight".removeprefix(".")]

        # `weight` is bound as a default: the hook runs after the loop has moved on.
        def record(
            layer: Layer,
            args: Sequence[Tensor],
            kwargs: Mapping[str, Tensor],
            output: Tensor,
            weight: str = weight,
        ) -> None:
            shape = tuple(call_input(args, kwargs).shape)
            calls.append(LayerCall(weight, layer, shape, output.numel()))

        handles.append(module.register_forward_hook(record, with_kwargs=True))
    try:
        with torch.no_grad():
            network(*inputs_of(example_input))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(calls)


def describe_rest(network: nn.Module) -> str:
    """Return what a network's time depends on beside its timed layers: its class and modules.

    Networks with the same layers may have other activations between them. What a forward computes
    by functions is that of its class.
    """
    counts: dict[str, int] = {}
    for module in network.modules():
        is_leaf = next(module.children(), None) is None
        if is_leaf and not isinstance(module, TIMED_LAYERS):
            name = type(module).__name__
            counts[name] = counts.get(name, 0) + 1
    return " ".join(
        [type(network).__name__, *(f"{count} {name}" for name, count in counts.items())]
    )


def _has_plain_weights(layer: Layer) -> bool:
    """Return whether weight and bias are stored, not computed as under a weight norm."""
    tensors = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers(recurse=False))
    return "weight" in tensors and (layer.bias is None or "bias" in tensors)
