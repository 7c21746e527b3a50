"""What the rules write while a graph is walked: union_find, which tensor's axis holds which channels, and hardcoded sizes."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.channel_ids import ChannelUnionFind
from dhp_sr.utils.modules import canonical_names


class ChannelSize(NamedTuple):
    """A number that was read from a tensor's shape and counts channels."""

    ids: Tensor
    """(C,) the channels counted."""


class ChannelRange(NamedTuple):
    """A number of channels: those between two bounds along one axis of a value."""

    ids: Tensor
    """Of the whole value."""
    dim: int
    size: int
    """Length of the axis."""
    bounds: tuple[int, int]


class HardcodedSize(NamedTuple):
    """An argument of a node that counts kept channels, so that a cut copy needs another number there."""

    node: str
    path: ArgPath
    counts: ChannelRange | list[ChannelRange]
    read_from: Tensor | None = None
    """Channels of another value that the forward counts to work the number out."""


class AnalysisContext:
    """The ledger of one walk over a graph."""

    def __init__(self, network: nn.Module) -> None:
        self.union_find = ChannelUnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> one channel_id for each entry."""
        self.weight_groups: dict[tuple[str, int], int] = {}
        """(weight name, axis) -> groups of a convolution, where the axis holds the channels of one of them."""
        self.positions: dict[str, int] = {}
        """Weight name -> how often each of its entries is multiplied, for one sample."""
        self.kinds: dict[str, str] = {}
        self.out_dims: dict[str, int] = {}
        self.output_elements: dict[str, int] = {}
        """Weight name -> kind of its layer."""
        self.computed_with: dict[str, str] = {}
        """Name of a weight that something else than its layers reads -> why its channels must stay."""
        self.hardcoded_sizes: list[HardcodedSize] = []
        self.inferred_axes: dict[str, set[int]] = {}
        """Node name -> axes whose length the forward computes by itself, where channels are best left to vary."""
        self.buffers = dict(network.named_buffers())
        self.modules = dict(network.named_modules(remove_duplicate=False))
        self._canonical = canonical_names(network)

    def name(self, tensor: str) -> str:
        """Return the first name under which a shared tensor is known."""
        return self._canonical.get(tensor, tensor)

    def is_tensor_of_network(self, tensor: str) -> bool:
        """Return whether `tensor` is a parameter or buffer of the network, rather than a bare constant."""
        return tensor in self._canonical

    def is_buffer(self, tensor: str) -> bool:
        """Return whether `tensor` is a buffer: learning and masks leave it as it is."""
        return self.name(tensor) in self.buffers

    def bind_axis(self, tensor: str, dim: int, ids: Tensor) -> Tensor:
        """Note that axis `dim` of a parameter or buffer holds `ids`; a second use union_find them to the first."""
        key = (self.name(tensor), dim)
        if key in self.axes:
            self.union_find.union(self.axes[key], ids)
        else:
            self.axes[key] = ids
        return self.axes[key]

    def new_out_channels(self, tensor: str, dim: int, count: int, layer: str) -> Tensor:
        """Return the ids that axis `dim` of a weight produces, new ones at its first use."""
        key = (self.name(tensor), dim)
        if key not in self.axes:
            self.axes[key] = self.union_find.new_ids(count, layer)
        return self.axes[key]

    def record_groups(self, weight: str, dim: int, groups: int) -> None:
        """Note that an axis of a weight holds the channels of one of several groups, which are alike."""
        self.weight_groups[self.name(weight), dim] = groups

    def record_macs(
        self, weight: str, positions: int, kind: str, *, out_dim: int, output_elements: int
    ) -> None:
        """Count a call of a layer: `positions` more uses of every entry of its weight.

        Args:
            weight: name of the weight.
            positions: how often each entry of it is multiplied.
            kind: the layer's kind.
            out_dim: axis of the weight that holds the output channels.
            output_elements: size of the layer's output, for one sample.
        """
        name = self.name(weight)
        self.positions[name] = self.positions.get(name, 0) + positions
        self.output_elements[name] = self.output_elements.get(name, 0) + output_elements
        self.out_dims[name] = out_dim
        self.kinds[name] = kind

    def pin(self, ids: Any, reason: str) -> None:
        """Pin the ids of a value, of each value of a list, or of a size; what has none is passed over."""
        for part in ids if isinstance(ids, list) else [ids]:
            part = part.ids if isinstance(part, ChannelSize) else part
            if isinstance(part, Tensor):
                self.union_find.pin(part, reason)
