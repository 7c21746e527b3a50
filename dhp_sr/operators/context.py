"""One node of the graph, as a rule sees it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.operators.analysis_state import Book, Count, Literal, Path, Size
from dhp_sr.operators.channel_ids import along, collapse


class Call(NamedTuple):
    """A node with what is known of its inputs and its result."""

    node: fx.Node
    module: nn.Module | None
    value: Any
    """What the node returned for the example."""
    values: dict[fx.Node, Any]
    atoms: dict[fx.Node, Any]
    book: Book

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

    def number(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument with every node in it replaced by what it returned."""
        return self.static(self.argument(index, name, default))

    def static(self, argument: Any) -> Any:
        """Replace every node in an argument by what it returned for the example."""
        return fx.node.map_arg(argument, lambda node: self.values[node])

    def place(self, index: int, name: str) -> Path:
        """Return where an argument stands."""
        return ("args", index) if len(self.node.args) > index else ("kwargs", name)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of another node's value."""
        return tuple(self.values[node].shape)

    def channels(self, node: fx.Node, dim: int = 1) -> Tensor:
        """Return one atom for each channel (entry along `dim`) of a node's value."""
        shape = self.shape(node)
        return collapse(self.atoms[node], shape[dim], dim % len(shape), self.book.ties)

    def spread(self, channels: Tensor, dim: int = 1) -> Tensor:
        """Lay (C,) atoms along axis `dim` of this node's value."""
        rank = len(self.value.shape)
        return along(channels, rank, dim % rank)

    def varies(self, node: fx.Node, dim: int) -> bool:
        """Return whether the entries of a node's value along `dim` are different channels."""
        return self.atoms[node].shape[dim] > 1

    def expanded(self, node: fx.Node) -> Tensor:
        """Return an atom for every entry of a node's value."""
        return self.atoms[node].expand(self.shape(node))

    def tensors(self) -> list[fx.Node]:
        """Input nodes whose values are tensors with channels."""
        return [
            node for node in self.node.all_input_nodes if isinstance(self.atoms.get(node), Tensor)
        ]

    def sizes(self, argument: Any = None) -> Iterator[Size]:
        """Numbers that count channels, among all inputs or in one argument."""
        nodes: list[fx.Node] = [] if argument is not None else self.node.all_input_nodes
        if argument is not None:
            fx.node.map_arg(argument, nodes.append)
        for node in nodes:
            found = self.atoms.get(node)
            yield from (
                part
                for part in (found if isinstance(found, list) else [found])
                if isinstance(part, Size)
            )

    def note(self, path: Path, counts: Count | list[Count], argument: Any) -> None:
        """Note that an argument at `path` counts channels."""
        read = [size.atoms for size in self.sizes(argument)]
        self.book.literals.append(
            Literal(self.node.name, path, counts, torch.cat(read) if read else None)
        )


def fresh(call: Call, value: Any, reason: str) -> Any:
    """Return one new pinned atom for a result, or for each of several."""
    if isinstance(value, (tuple, list)):
        return [fresh(call, item, reason) for item in value]
    if not isinstance(value, Tensor):
        return None
    atom = call.book.ties.new(1, call.layer)
    call.book.ties.pin(atom, reason)
    return atom.reshape([1] * value.dim())


def pinned(call: Call, reason: str) -> Any:
    """Pin every input of a call, and its result; `reason` is shown in the plan."""
    for node in call.node.all_input_nodes:
        call.book.pin(call.atoms.get(node), reason)
    return fresh(call, call.value, reason)
