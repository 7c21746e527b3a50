"""State of the dependency analysis, and the contexts in which rules see a node of the graph."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.graph.shape_inference import count_macs
from dhp_sr.operators.channel_ids import ChannelUnionFind, ids_along, lay_along
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


class AnalysisContext:
    """Everything that channel rules write while the graph is analyzed."""

    def __init__(self, network: nn.Module, *, kept_statistics: bool = True) -> None:
        self.kept_statistics_allowed = kept_statistics
        """Whether normalizations over channels may take their statistics over the kept ones."""
        self.kept_statistics: dict[str, tuple[int, Tensor]] = {}
        """Layers that do -> axis of the channels, counted from the back, and their (C,) ids."""
        self.union_find = ChannelUnionFind()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> (length,) channel id of each entry."""
        self.weight_groups: dict[tuple[str, int], int] = {}
        """(weight name, axis) -> groups of a convolution, where the axis holds the channels of one
        group."""
        self.layers: dict[str, LayerCalls] = {}
        """Weight name -> all calls of layers with this weight."""
        self.products: dict[str, tuple[int, ...]] = {}
        """Name of a node whose multiply-adds belong to no weight (a product of two features, an
        operator without a rule) -> lengths of the axes that they are proportional to."""
        self.read_as_values: dict[str, str] = {}
        """Name of a weight that something else than the rule of its layer reads -> why its channels
        are pinned."""
        self.hardcoded_sizes: list[HardcodedSize] = []
        self.inferred_axes: dict[str, set[int]] = {}
        """Node name -> axes whose length the forward infers (-1, or read from a shape), best left
        to lose channels."""
        self.signs: dict[fx.Node, Sign] = {}
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
            name: of the node.
            macs: for the example.
            axes: number of an axis -> (length,) ids of channels that the count is proportional to.
        """
        shape = [1] * max(2, *(dim + 1 for dim in axes), 0)
        for dim, ids in axes.items():
            shape[dim] = len(ids)
            self.axes[name, dim] = ids
        self.products[name] = tuple(shape)
        self.layers[name] = LayerCalls("product", macs // math.prod(shape), 0, 0)

    def pin(self, ids: Any, reason: str) -> None:
        """Pin the channels of a value, of a list of values, or of a size; None has no channels."""
        items = ids if isinstance(ids, list) else [ids]
        for item in items:
            channel_ids = item.ids if isinstance(item, ChannelSize) else item
            if isinstance(channel_ids, Tensor):
                self.union_find.pin(channel_ids, reason)

    def sign_of_constant(self, tensor: str) -> Sign:
        """Return the sign of a buffer; parameters change in training."""
        buffer = self.buffers.get(tensor)
        if buffer is None or buffer.is_meta:
            return Sign.ANY
        if bool((buffer > 0).all()):
            return Sign.POSITIVE
        return Sign.ANY


@dataclass(frozen=True)
class NodeContext:
    """A node with the values that it and all other nodes have for the example input."""

    node: fx.Node
    module: Any
    """The module called; None for functions and methods of tensors. (Typed loosely, as torch types
    every attribute of a module `Tensor | Module`.)"""
    value: Any
    """Result for the example."""
    values: dict[fx.Node, Any]
    """Results of all nodes for the example."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, with nodes for the values of other nodes."""
        return self.node.args

    @property
    def layer(self) -> str:
        """Qualified name of the module called, or name of the node."""
        if self.node.op == "call_module":
            return str(self.node.target)
        return self.node.name

    @property
    def operator(self) -> str:
        """Name of the operator, for messages."""
        if self.module is not None:
            return type(self.module).__name__
        target = self.node.target
        if isinstance(target, str):
            return target
        return getattr(target, "__name__", str(target))

    @property
    def source(self) -> fx.Node:
        """The node whose value is the first input."""
        return self.argument(0, "input")

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by keyword, nodes in it left as nodes."""
        if len(self.node.args) > index:
            return self.node.args[index]
        return self.node.kwargs.get(name, default)

    def arg_value(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument with every node in it replaced by its value for the example."""
        return self.evaluate(self.argument(index, name, default))

    def option(self, index: int, name: str, default: Any = None) -> Any:
        """Return a setting: an attribute of the module, or an argument of the function."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.arg_value(index, name, default)

    def evaluate(self, argument: Any) -> Any:
        """Replace every node in an argument by its value for the example."""
        return fx.node.map_arg(argument, lambda node: self.values[node])

    def arg_path(self, index: int, name: str) -> ArgPath:
        """Return the path of an argument that is given by position or by keyword."""
        if len(self.node.args) > index:
            return ("args", index)
        return ("kwargs", name)

    def axes(self, index: int, name: str) -> list[int]:
        """Return an argument that is an axis, or several; an empty list where it is not given."""
        dims = self.arg_value(index, name)
        if isinstance(dims, int):
            return [dims]
        return list(dims or ())

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of another node's value."""
        return tuple(self.values[node].shape)

    def apply(self, tensor: Tensor) -> Any:
        """Run the operator on `tensor` instead of its first input."""
        if self.module is not None:
            return self.module(tensor)
        others = self.evaluate(self.node.args[1:])
        named = {k: self.evaluate(v) for k, v in self.node.kwargs.items() if k != "input"}
        if isinstance(self.node.target, str):
            return getattr(tensor, self.node.target)(*others, **named)
        return self.node.target(tensor, *others, **named)


@dataclass(frozen=True)
class OpContext(NodeContext):
    """A node as a channel rule sees it."""

    ids: dict[fx.Node, Any]
    """Results of earlier rules: channel ids broadcastable to the node's value, a `ChannelSize`, a
    list of these for several results, or None for values that know no channels."""
    analysis: AnalysisContext

    @property
    def macs(self) -> int:
        """Multiply-adds of the node, for one sample of the example's size, as torch counts them."""
        node = self.node
        return count_macs(node, self.module, self.evaluate(node.args), self.evaluate(node.kwargs))

    def channels(self, node: fx.Node, dim: int = 1) -> Tensor:
        """Return (C,) channel ids of the entries of a node's value along `dim`."""
        shape = self.shape(node)
        return ids_along(self.ids[node], shape[dim], dim % len(shape), self.analysis.union_find)

    def broadcast_along(self, channels: Tensor, dim: int = 1) -> Tensor:
        """Lay (C,) channel ids along axis `dim` of this node's value."""
        rank = len(self.value.shape)
        return lay_along(channels, rank, dim % rank)

    def varies_along(self, node: fx.Node, dim: int) -> bool:
        """Return whether the entries of a node's value along `dim` are different channels."""
        return self.ids[node].shape[dim] > 1

    def ids_of_entries(self, node: fx.Node) -> Tensor:
        """Return a channel id for every entry of a node's value."""
        return self.ids[node].expand(self.shape(node))

    def tensor_inputs(self) -> list[fx.Node]:
        """Return the input nodes whose values are tensors with channels."""
        inputs = self.node.all_input_nodes
        return [node for node in inputs if isinstance(self.ids.get(node), Tensor)]

    def channel_sizes(self, argument: Any = None) -> Iterator[ChannelSize]:
        """Yield the numbers that count channels, among all inputs or in an argument."""
        nodes: list[fx.Node] = []
        if argument is None:
            nodes = self.node.all_input_nodes
        else:
            # Visits the nodes in nested lists, tuples and slices, too.
            fx.node.map_arg(argument, nodes.append)
        for node in nodes:
            ids = self.ids.get(node)
            items = ids if isinstance(ids, list) else [ids]
            for item in items:
                if isinstance(item, ChannelSize):
                    yield item

    def range_along(self, dim: int, bounds: tuple[int, int]) -> ChannelRange:
        """Return the channels of the first input between two bounds along an axis."""
        shape = self.shape(self.source)
        return ChannelRange(self.ids[self.source], dim % len(shape), shape[dim], bounds)

    def record_size(
        self, path: ArgPath, counted: ChannelRange | list[ChannelRange], argument: Any
    ) -> None:
        """Record that the argument at `path` counts channels."""
        # What the argument was computed from is kept, too: a cut of those channels changes it, even
        # if it counts others.
        read = [size.ids for size in self.channel_sizes(argument)]
        size = HardcodedSize(self.node.name, path, counted)
        if isinstance(argument, fx.Node) and not read:
            size = size._replace(follows_input=True)
        if read:
            size = size._replace(read_from=torch.cat(read))
        self.analysis.hardcoded_sizes.append(size)

    # Signs are worked out node by node, along with the channels: the sign of a value needs no
    # search back through the graph.
    def sign(self, value: Any) -> Sign:
        """Return the sign of an argument: a number, or a node that was analyzed before."""
        if isinstance(value, (int, float)):
            if value > 0:
                return Sign.POSITIVE
            if value == 0:
                return Sign.NONNEGATIVE
        if isinstance(value, fx.Node):
            return self.analysis.signs.get(value, Sign.ANY)
        return Sign.ANY
