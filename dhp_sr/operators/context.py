"""One node of the graph, as a rule sees it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import ArgPath
from dhp_sr.operators.analysis_context import (
    AnalysisContext,
    ChannelRange,
    ChannelSize,
    HardcodedSize,
)
from dhp_sr.operators.channel_ids import ids_along, lay_along


class OpContext(NamedTuple):
    """A node with what is known of its inputs and its result."""

    node: fx.Node
    module: nn.Module | None
    value: Any
    """What the node returned for the example."""
    values: dict[fx.Node, Any]
    ids: dict[fx.Node, Any]
    analysis: AnalysisContext

    @property
    def layer(self) -> str:
        """Qualified name of the module called, or of the node."""
        return str(self.node.target) if self.node.op == "call_module" else self.node.name

    @property
    def operator(self) -> str:
        """The operator's name, for messages."""
        if self.module is not None:
            return type(self.module).__name__
        target = self.node.target
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    @property
    def source(self) -> fx.Node:
        """The node whose value goes in first."""
        return self.argument(0, "input")

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        if len(self.node.args) > index:
            return self.node.args[index]
        return self.node.kwargs.get(name, default)

    def arg_value(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument with every node in it replaced by what it returned."""
        return self.static(self.argument(index, name, default))

    def static(self, argument: Any) -> Any:
        """Replace every node in an argument by what it returned for the example."""
        return fx.node.map_arg(argument, lambda node: self.values[node])

    def arg_path(self, index: int, name: str) -> ArgPath:
        """Return where an argument stands."""
        return ("args", index) if len(self.node.args) > index else ("kwargs", name)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of another node's value."""
        return tuple(self.values[node].shape)

    def channels(self, node: fx.Node, dim: int = 1) -> Tensor:
        """Return one channel_id for each channel (entry along `dim`) of a node's value."""
        shape = self.shape(node)
        return ids_along(self.ids[node], shape[dim], dim % len(shape), self.analysis.union_find)

    def broadcast_along(self, channels: Tensor, dim: int = 1) -> Tensor:
        """Lay (C,) ids along axis `dim` of this node's value."""
        rank = len(self.value.shape)
        return lay_along(channels, rank, dim % rank)

    def varies_along(self, node: fx.Node, dim: int) -> bool:
        """Return whether the entries of a node's value along `dim` are different channels."""
        return self.ids[node].shape[dim] > 1

    def expanded(self, node: fx.Node) -> Tensor:
        """Return an channel_id for every entry of a node's value."""
        return self.ids[node].expand(self.shape(node))

    def tensors(self) -> list[fx.Node]:
        """Input nodes whose values are tensors with channels."""
        return [
            node for node in self.node.all_input_nodes if isinstance(self.ids.get(node), Tensor)
        ]

    def sizes(self, argument: Any = None) -> Iterator[ChannelSize]:
        """Numbers that count channels, among all inputs or in one argument."""
        nodes: list[fx.Node] = [] if argument is not None else self.node.all_input_nodes
        if argument is not None:
            fx.node.map_arg(argument, nodes.append)
        for node in nodes:
            found = self.ids.get(node)
            yield from (
                part
                for part in (found if isinstance(found, list) else [found])
                if isinstance(part, ChannelSize)
            )

    def record_size(
        self, path: ArgPath, counts: ChannelRange | list[ChannelRange], argument: Any
    ) -> None:
        """Note that an argument at `path` counts channels."""
        read = [size.ids for size in self.sizes(argument)]
        self.analysis.hardcoded_sizes.append(
            HardcodedSize(self.node.name, path, counts, torch.cat(read) if read else None)
        )


def new_pinned(op: OpContext, value: Any, reason: str) -> Any:
    """Return one new pinned channel_id for a result, or for each of several."""
    if isinstance(value, (tuple, list)):
        return [new_pinned(op, item, reason) for item in value]
    if not isinstance(value, Tensor):
        return None
    channel_id = op.analysis.union_find.new_ids(1, op.layer)
    op.analysis.union_find.pin(channel_id, reason)
    return channel_id.reshape([1] * value.dim())


def pinned(op: OpContext, reason: str) -> Any:
    """Pin every input of a op, and its result; `reason` is shown in the plan."""
    for node in op.node.all_input_nodes:
        op.analysis.pin(op.ids.get(node), reason)
    return new_pinned(op, op.value, reason)
