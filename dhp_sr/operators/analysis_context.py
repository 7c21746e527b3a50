"""State of the dependency analysis: what channel rules write while the graph is analyzed."""

import math
from collections.abc import Collection, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from dhp_sr.graph.call_sites import CallSite
from dhp_sr.graph.capture import ArgPath
from dhp_sr.graph.equal_modules import ComputedLayers
from dhp_sr.operators.channel_ids import ChannelMatrix, ChannelUnionFind
from dhp_sr.utils.modules import canonical_names


class Sign(IntEnum):
    """Guaranteed sign of all entries of a value, whatever the input is.

    A pruned channel is a zero before an operator: a division or a root needs to know that it never
    meets that zero.
    """

    ANY = 0
    NONNEGATIVE = 1
    POSITIVE = 2


class ChannelSize(NamedTuple):
    """A number that the forward reads from a tensor's shape and that counts channels."""

    ids: Tensor
    """(C,) ids of the channels counted."""


class ChannelRange(NamedTuple):
    """Channels between two bounds along an axis of a value."""

    ids: Tensor
    """Channel ids of the whole value, broadcastable to it."""
    dim: int
    size: int
    """Length of the axis."""
    bounds: tuple[int, int]
    """First channel, and the end: one past the last."""


class HardcodedSize(NamedTuple):
    """An argument of a node that counts channels, which is another number after a cut."""

    node: str
    path: ArgPath
    counted: ChannelRange | list[ChannelRange]
    """The channels counted; a list where the argument is a list of sizes."""
    read_from: Tensor | None = None
    """Ids of the channels whose number the forward reads to work the argument out."""
    follows_input: bool = False
    """Whether the forward works it out from the size of the input or the batch alone."""


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


class KeptAxes(NamedTuple):
    """Channels of a module whose statistics are taken over the kept ones."""

    inputs: Mapping[tuple[int | str, int], Tensor]
    """(name or position of an input, axis) -> (length,) ids of its entries."""
    tensors: Mapping[tuple[str, int], Tensor]
    """(name of a tensor of the module, axis) -> (length,) ids of its entries."""
    out_dim: int
    """Axis of the result that holds its channels, counted from the back."""
    output: Tensor
    """(C,) ids of the channels of the result."""


class CallChannels(NamedTuple):
    """Channels of a call of a function whose statistics are taken over the kept ones."""

    module: str
    """Name of the module in whose forward the call is."""
    site: CallSite
    operator: str
    """Name of the function."""
    dim: int
    """Axis of the first input that holds the channels, counted from the back."""
    channels: Tensor
    """(C,) their ids."""
    returns_channels: bool
    """Whether the result has the same channels along the same axis."""
    zeroed: int | None = None
    """Position of the argument that the channels belong to, where those that are not kept are set
    to zero in it instead of left out; None where they are left out of the first input."""
    vectors: tuple[str, ...] = ()
    """Names of arguments with an entry for each channel."""
    shape_at: int | None = None
    """Position of the argument that states the number of channels, as (C,); None for none."""


class FusedWeight(NamedTuple):
    """A weight, or bias, that the forward computes from those of layers."""

    axes: tuple[Collection[tuple[str, int]], ...]
    """For each axis the axes (tensor, dim) of tensors of layers that hold its channels."""
    masked: tuple[bool, ...]
    """For each axis whether masked channels are zeros. Where a buffer is added they are not."""


class AnalysisContext:
    """Everything that channel rules write while the graph is analyzed."""

    def __init__(
        self,
        network: nn.Module,
        computed_layers: ComputedLayers,
        *,
        kept_statistics: bool = True,
    ) -> None:
        self.computed_layers = computed_layers
        """Findings about modules that compute the weight of a layer."""
        self.kept_statistics_allowed = kept_statistics
        """Whether layers may take their statistics over the kept channels."""
        self.kept_statistics: dict[str, KeptAxes] = {}
        """Layers that do -> their channels."""
        self.kept_calls: dict[str, CallChannels] = {}
        """Nodes that do, calls of functions -> their channels."""
        self.union_find = ChannelUnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> (length,) channel id of each entry."""
        self.weight_groups: dict[tuple[str, int], int] = {}
        """(weight name, axis) -> groups of a convolution, where the axis holds the channels of one
        group."""
        self.layers: dict[str, LayerCalls] = {}
        """Weight name -> all calls of layers with this weight."""
        self.counted_calls: set[fx.Node] = set()
        """Calls whose multiply-adds are recorded with a weight."""
        self.products: dict[str, tuple[int, ...]] = {}
        """Name of a node whose multiply-adds belong to no weight (a product of two features, an
        operator without a rule) -> lengths of the axes that they are proportional to."""
        self.read_as_values: dict[str, str] = {}
        """Name of a weight that something else than the rule of its layer reads -> why its channels
        are pinned."""
        self.fused_weights: dict[fx.Node, FusedWeight] = {}
        """Nodes that compute a weight or bias from those of layers -> its channels."""
        self.mixed_by_buffers: list[FusedWeight] = []
        """Those that mix channels, with a buffer, which may not be zero where they are masked."""
        self.hardcoded_sizes: list[HardcodedSize] = []
        self.made_channels: list[tuple[Tensor, str]] = []
        """Ids of the channels of tensors that the forward makes, and the nodes that make them; no
        layer creates them."""
        self.checks: dict[str, Tensor] = {}
        """Name of a node that checks numbers of channels -> ids of these channels."""
        self.inferred_axes: dict[str, set[int]] = {}
        """Node name -> axes whose length the forward infers (-1, or read from a shape), best left
        to lose channels."""
        self.signs: dict[fx.Node, Sign] = {}
        self.read_as_matrices: set[fx.Node] = set()
        """Nodes whose value may have channels along several axes: all that it leads to, up to
        products, have rules for that."""
        self.leaves_constant: dict[fx.Node, bool] = {}
        """Node -> whether masked channels of its value may be other than zeros, where it was asked
        for."""
        # Buffers are constants of the computation: their values may be looked at (signs, zeros).
        self.buffers = dict(network.named_buffers())
        self.shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
        """Shape of every parameter."""
        self._canonical = canonical_names(network)

    def name(self, tensor: str) -> str:
        """Return the first name under which a shared tensor is registered."""
        return self._canonical.get(tensor, tensor)

    def is_tensor_of_network(self, tensor: str) -> bool:
        """Return whether `tensor` names a parameter or buffer, not a constant of the trace."""
        return tensor in self._canonical

    def is_buffer(self, tensor: str) -> bool:
        """Return whether `tensor` is a buffer, which neither training nor masks change."""
        return self.name(tensor) in self.buffers

    def bind_axis(self, tensor: str, dim: int, ids: Tensor) -> Tensor:
        """Bind axis `dim` of a tensor to (length,) channel ids; returns those of its first use."""
        key = (self.name(tensor), dim)
        if key in self.axes:
            # A shared tensor has one set of entries: both uses must lose the same channels.
            self.union_find.union(self.axes[key], ids)
        else:
            self.axes[key] = ids
        return self.axes[key]

    def new_out_channels(self, tensor: str, dim: int, count: int, layer: str) -> Tensor:
        """Return (count,) ids of the channels that axis `dim` of a weight creates."""
        # A weight that is used twice creates the same channels twice: they are pruned alike.
        key = (self.name(tensor), dim)
        if key not in self.axes:
            self.axes[key] = self.union_find.new_ids(count, layer)
        return self.axes[key]

    def bind_axes(self, axes: Collection[tuple[str, int]], ids: Tensor | None = None) -> Tensor:
        """Bind several axes of tensors to the same channels, new ones unless `ids` are given.

        With an output axis of a layer go the vectors of its module, whether anything reads them or
        not: the module must still have matching shapes after a cut.
        """
        for name, dim in sorted(axes):
            length = self._shape(name)[dim]
            if ids is None:
                ids = self.new_out_channels(name, dim, length, name.rpartition(".")[0] or name)
            self.bind_axis(name, dim, ids)
            for vector in self._vectors_beside(name, length) if dim == 0 else ():
                self.bind_axis(vector, 0, ids)
        assert ids is not None, "an axis of channels is that of a tensor"
        return ids

    def tensors_of_fused_weights(self) -> set[str]:
        """Return the names of the tensors that weights and biases are computed from."""
        names: set[str] = set()
        for fused in self.fused_weights.values():
            for axes in fused.axes:
                names.update(name for name, _ in axes)
        return names

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self.shapes[tensor] if tensor in self.shapes else tuple(self.buffers[tensor].shape)

    def _vectors_beside(self, tensor: str, length: int) -> Iterator[str]:
        """Yield the vectors of a length of the module that holds a tensor."""
        module = tensor.rpartition(".")[0]
        for name in (*self.shapes, *self.buffers):
            if name.rpartition(".")[0] == module and self._shape(name) == (length,):
                yield name

    def record_groups(self, weight: str, dim: int, groups: int) -> None:
        """Record that axis `dim` of a weight holds the channels of a single one of equal groups."""
        self.weight_groups[self.name(weight), dim] = groups

    def record_macs(self, weight: str, call: LayerCalls) -> None:
        """Count a call of a layer with a weight."""
        name = self.name(weight)
        if name in self.layers:
            before = self.layers[name]
            call = call._replace(
                positions=before.positions + call.positions,
                output_elements=before.output_elements + call.output_elements,
            )
        self.layers[name] = call

    def record_product(self, name: str, macs: int, axes: Mapping[int, Tensor]) -> None:
        """Count multiply-adds that belong to no weight.

        Args:
            name: Name of the node.
            macs: For the example.
            axes: Number of an axis -> (length,) ids of channels that the count is proportional to.
        """
        shape = [1] * max(2, *(dim + 1 for dim in axes), 0)
        for dim, ids in axes.items():
            shape[dim] = len(ids)
            self.axes[name, dim] = ids
        self.products[name] = tuple(shape)
        self.layers[name] = LayerCalls("product", macs // math.prod(shape), 0, 0)

    def pin(self, ids: Any, reason: str) -> None:
        """Pin the channels of a value, of a list of values, or of a size; None has no channels."""
        if isinstance(ids, ChannelMatrix):
            ids = list(ids.axes)
        items = ids if isinstance(ids, list) else [ids]
        for item in items:
            channel_ids = item.ids if isinstance(item, ChannelSize) else item
            if isinstance(channel_ids, Tensor):
                self.union_find.pin(channel_ids, reason)

    def new_pinned(self, value: Any, producer: str, reason: str) -> Any:
        """Return a new pinned id for a value, or for each of a list of values.

        Args:
            value: Result for the example; only tensors have channels.
            producer: Name of the layer that creates it.
            reason: Shown in the plan.
        """
        if isinstance(value, (tuple, list)):
            return [self.new_pinned(item, producer, reason) for item in value]
        if not isinstance(value, Tensor):
            return None
        # A single id for the whole value: an unknown operator may put any channel anywhere.
        channel_id = self.union_find.new_ids(1, producer)
        self.union_find.pin(channel_id, reason)
        return channel_id.reshape([1] * value.dim())
