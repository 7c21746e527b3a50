"""State of the dependency analysis: coupled channels, axes of tensors, sizes written in the forward."""

from enum import IntEnum
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.channel_ids import ChannelUnionFind
from dhp_sr.utils.modules import canonical_names


class Sign(IntEnum):
    """Guaranteed sign of all entries of a value, whatever the input is.

    A pruned channel is a zero before an operator: a division or a root needs to know that it never meets that zero.
    """

    ANY = 0
    NONNEGATIVE = 1
    POSITIVE = 2


class ChannelSize(NamedTuple):
    """A number that the forward reads from a tensor's shape and that counts channels."""

    ids: Tensor
    """(C,) ids of the channels counted."""


class ChannelRange(NamedTuple):
    """Channels between two bounds along one axis of a value."""

    ids: Tensor
    """Channel ids of the whole value, broadcastable to it."""
    dim: int
    size: int
    """Length of the axis."""
    bounds: tuple[int, int]
    """First channel, and the one after the last."""


class HardcodedSize(NamedTuple):
    """An argument of a node that counts kept channels, so that a cut network needs another number there."""

    node: str
    path: ArgPath
    counted: ChannelRange | list[ChannelRange]
    """The channels counted; a list where the argument is a list of sizes."""
    read_from: Tensor | None = None
    """Ids of the channels whose number the forward reads to work the argument out."""


class LayerCalls(NamedTuple):
    """Multiply-adds of a weight, summed over all calls of its layers, for one sample."""

    kind: str
    """conv, transposed conv or linear."""
    positions: int
    """Number of multiplications of each entry of the weight."""
    out_dim: int
    """Axis of the weight that holds the output channels."""
    output_elements: int
    """Size of the output."""


class AnalysisContext:
    """Everything that channel rules write while the graph is analyzed."""

    def __init__(self, network: nn.Module) -> None:
        self.union_find = ChannelUnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> (length,) channel id of each entry."""
        self.weight_groups: dict[tuple[str, int], int] = {}
        """(weight name, axis) -> groups of a convolution, where the axis holds the channels of one group."""
        self.layers: dict[str, LayerCalls] = {}
        """Weight name -> all calls of layers with this weight."""
        self.read_as_values: dict[str, str] = {}
        """Name of a weight that something else than its layer computes with -> why its channels are pinned."""
        self.hardcoded_sizes: list[HardcodedSize] = []
        self.inferred_axes: dict[str, set[int]] = {}
        """Node name -> axes whose length the forward infers (-1, or read from a shape), best left to lose channels."""
        self.signs: dict[fx.Node, Sign] = {}
        self.buffers = dict(network.named_buffers())
        self._canonical = canonical_names(network)

    def name(self, tensor: str) -> str:
        """Return the first name under which a shared tensor is registered."""
        return self._canonical.get(tensor, tensor)

    def is_tensor_of_network(self, tensor: str) -> bool:
        """Return whether `tensor` names a parameter or buffer of the network, not a bare constant of the trace."""
        return tensor in self._canonical

    def is_buffer(self, tensor: str) -> bool:
        """Return whether `tensor` is a buffer, which neither training nor masks change."""
        return self.name(tensor) in self.buffers

    def bind_axis(self, tensor: str, dim: int, ids: Tensor) -> Tensor:
        """Bind axis `dim` of a parameter or buffer to (length,) channel ids; returns those of its first use."""
        key = (self.name(tensor), dim)
        if key in self.axes:
            # A shared tensor has one set of entries: both uses must lose the same channels.
            self.union_find.union(self.axes[key], ids)
        else:
            self.axes[key] = ids
        return self.axes[key]

    def new_out_channels(self, tensor: str, dim: int, count: int, layer: str) -> Tensor:
        """Return (count,) ids of the channels that axis `dim` of a weight creates, new ones at its first use."""
        key = (self.name(tensor), dim)
        if key not in self.axes:
            self.axes[key] = self.union_find.new_ids(count, layer)
        return self.axes[key]

    def record_groups(self, weight: str, dim: int, groups: int) -> None:
        """Record that axis `dim` of a weight holds the channels of one of several equal groups."""
        self.weight_groups[self.name(weight), dim] = groups

    def record_macs(self, weight: str, call: LayerCalls) -> None:
        """Count one more call of a layer with a weight."""
        name = self.name(weight)
        if name in self.layers:
            before = self.layers[name]
            call = call._replace(
                positions=before.positions + call.positions,
                output_elements=before.output_elements + call.output_elements,
            )
        self.layers[name] = call

    def pin(self, ids: Any, reason: str) -> None:
        """Pin the channels of a value, of each value of a list, or of a size; None has no channels."""
        for item in ids if isinstance(ids, list) else [ids]:
            channel_ids = item.ids if isinstance(item, ChannelSize) else item
            if isinstance(channel_ids, Tensor):
                self.union_find.pin(channel_ids, reason)

    def sign_of_constant(self, tensor: str) -> Sign:
        """Return the sign of a buffer; parameters change in training."""
        buffer = self.buffers.get(tensor)
        if buffer is None or buffer.is_meta:
            return Sign.ANY
        return Sign.POSITIVE if bool((buffer > 0).all()) else Sign.ANY
