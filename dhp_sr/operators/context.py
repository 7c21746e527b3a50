"""Contexts in which the rules of operators see a node of the graph."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.graph.call_macs import count_macs
from dhp_sr.graph.capture import ArgPath
from dhp_sr.graph.in_place import sharing_memory, written_argument
from dhp_sr.operators.analysis_context import (
    AnalysisContext,
    ChannelRange,
    ChannelSize,
    HardcodedSize,
    Sign,
)
from dhp_sr.operators.channel_ids import ChannelMatrix, ids_along, lay_along
from dhp_sr.operators.receptive_field import (
    AxisReceptiveField,
    Reads,
    ReceptiveField2D,
    Unbounded,
    propagate,
)


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
        if len(self.args) > index + 1:
            # `x.flip(2, 3)`: one by one, behind all other arguments.
            dims = self.evaluate(self.args[index:])
        if isinstance(dims, int):
            return [dims]
        return list(dims or ())

    def overwritten(self) -> list[fx.Node]:
        """Return the nodes whose values this function or method writes into.

        Returns:
            First the argument that it writes into, then the earlier values that share its memory,
            such as the value that it is a slice of; none for an operator with a result of its own.
        """
        nodes: list[fx.Node] = []
        fx.node.map_arg(written_argument(self.node, self.module), nodes.append)
        for written in tuple(nodes):
            for node in sharing_memory(written, self.node, self.values):
                if node not in nodes:
                    nodes.append(node)
        return nodes

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
        if isinstance(self.ids[node], ChannelMatrix):
            channels: Tensor = self.ids[node].axes[dim]
            return channels
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
        if isinstance(value, fx.Node) and not isinstance(self.values[value], (int, float)):
            return self.analysis.signs.get(value, Sign.ANY)
        # Numbers that the forward computes are those of pixels (`h * w - 1`): of one sign.
        number = self.evaluate(value)
        if isinstance(number, (int, float)):
            if number > 0:
                return Sign.POSITIVE
            if number == 0:
                return Sign.NONNEGATIVE
        return Sign.ANY


@dataclass(frozen=True)
class ReceptiveContext(NodeContext):
    """A node as a receptive-field rule sees it."""

    fields: dict[fx.Node, Any]
    """Results of earlier rules: the field of each node's value, a list of fields for several
    results, or None for constants and numbers."""
    input_size: int
    """Height and width of the example."""

    def unbounded(self, reason: str) -> Unbounded:
        """Return the error for this operator."""
        name = self.operator
        if self.layer != self.operator:
            name = f"{self.operator} at {self.layer}"
        return Unbounded(f"{name} {reason}")

    @property
    def field(self) -> ReceptiveField2D:
        """Field of the first input.

        Raises:
            Unbounded: The first input is a constant, a further one is not.
        """
        field = self.fields.get(self.source)
        if not isinstance(field, ReceptiveField2D):
            raise self.unbounded("takes an input of the network as a further argument")
        return field

    def propagated(
        self,
        source: AxisReceptiveField,
        reads: Reads,
        ratio: Fraction,
        length: int,
        pattern: int | None = None,
    ) -> AxisReceptiveField:
        """Propagate along an axis, see `propagate`."""
        field = propagate(source, reads, ratio, (self.input_size, length), pattern)
        if field is None or length == 1:
            raise self.unbounded(
                f"makes sides of {length}, not in proportion to the input's {self.input_size}"
            )
        return field
