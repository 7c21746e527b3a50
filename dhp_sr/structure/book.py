"""What the rules read and write while a graph is walked: the ties, and which tensor's axis holds which channels."""

from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from dhp_sr.structure.ties import Ties, along, collapse


class Book:
    """The ledger of one walk over a graph."""

    def __init__(self, network: nn.Module) -> None:
        self.ties = Ties()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> one atom for each entry."""
        self.positions: dict[str, int] = {}
        """Weight name -> how often each of its entries is multiplied, for one sample."""
        self.kinds: dict[str, str] = {}
        """Weight name -> kind of its layer."""
        self._canonical = first_names(network)

    def name(self, tensor: str) -> str:
        """Return the first name under which a shared tensor is known."""
        return self._canonical.get(tensor, tensor)

    def own(self, tensor: str, dim: int, atoms: Tensor) -> Tensor:
        """Note that axis `dim` of a parameter or buffer holds `atoms`; a second use ties them to the first."""
        key = (self.name(tensor), dim)
        if key in self.axes:
            self.ties.tie(self.axes[key], atoms)
        else:
            self.axes[key] = atoms
        return self.axes[key]

    def produce(self, tensor: str, dim: int, count: int, layer: str) -> Tensor:
        """Return the atoms that axis `dim` of a weight produces, new ones at its first use."""
        key = (self.name(tensor), dim)
        if key not in self.axes:
            self.axes[key] = self.ties.new(count, layer)
        return self.axes[key]

    def multiply(self, weight: str, positions: int, kind: str) -> None:
        """Count `positions` more uses of every entry of a weight."""
        name = self.name(weight)
        self.positions[name] = self.positions.get(name, 0) + positions
        self.kinds[name] = kind

    def pin(self, atoms: Any, reason: str) -> None:
        """Pin the atoms of a value, or of each value of a list; what has none is passed over."""
        for part in atoms if isinstance(atoms, list) else [atoms]:
            if isinstance(part, Tensor):
                self.ties.pin(part, reason)


class Call(NamedTuple):
    """One node of the graph, as a rule sees it."""

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

    def tensors(self) -> list[fx.Node]:
        """Input nodes whose values are tensors with channels."""
        return [node for node in self.node.all_input_nodes if isinstance(self.atoms.get(node), Tensor)]


def first_names(network: nn.Module) -> dict[str, str]:
    """Return, for every name of a parameter or buffer, the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}
