"""What the rules write while a graph is walked: ties, which tensor's axis holds which channels, and literal sizes."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from dhp_sr.operators.channel_ids import Ties

Path = tuple[Any, ...]
"""Where in a node's arguments: ("args", 1, 0), ("kwargs", "dim"), ("args", 1, 1, "stop"), ..."""


class Size(NamedTuple):
    """A number that was read from a tensor's shape and counts channels."""

    atoms: Tensor
    """(C,) the channels counted."""


class Count(NamedTuple):
    """A number of channels: those between two bounds along one axis of a value."""

    atoms: Tensor
    """Of the whole value."""
    dim: int
    size: int
    """Length of the axis."""
    bounds: tuple[int, int]


class Literal(NamedTuple):
    """An argument of a node that counts kept channels, so that a cut copy needs another number there."""

    node: str
    path: Path
    counts: Count | list[Count]
    read_from: Tensor | None = None
    """Channels of another value that the forward counts to work the number out."""


class Book:
    """The ledger of one walk over a graph."""

    def __init__(self, network: nn.Module) -> None:
        self.ties = Ties()
        self.axes: dict[tuple[str, int], Tensor] = {}
        """(tensor name, axis) -> one atom for each entry."""
        self.divided: dict[tuple[str, int], int] = {}
        """(weight name, axis) -> groups of a convolution, where the axis holds the channels of one of them."""
        self.positions: dict[str, int] = {}
        """Weight name -> how often each of its entries is multiplied, for one sample."""
        self.kinds: dict[str, str] = {}
        """Weight name -> kind of its layer."""
        self.computed_with: dict[str, str] = {}
        """Name of a weight that something else than its layers reads -> why its channels must stay."""
        self.literals: list[Literal] = []
        self.free: dict[str, set[int]] = {}
        """Node name -> axes whose length the forward computes by itself, where channels are best left to vary."""
        self.buffers = dict(network.named_buffers())
        self.modules = dict(network.named_modules(remove_duplicate=False))
        self._canonical = first_names(network)

    def name(self, tensor: str) -> str:
        """Return the first name under which a shared tensor is known."""
        return self._canonical.get(tensor, tensor)

    def holds(self, tensor: str) -> bool:
        """Return whether `tensor` is a parameter or buffer of the network, rather than a bare constant."""
        return tensor in self._canonical

    def is_buffer(self, tensor: str) -> bool:
        """Return whether `tensor` is a buffer: learning and masks leave it as it is."""
        return self.name(tensor) in self.buffers

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

    def divide(self, weight: str, dim: int, groups: int) -> None:
        """Note that an axis of a weight holds the channels of one of several groups, which are alike."""
        self.divided[self.name(weight), dim] = groups

    def multiply(self, weight: str, positions: int, kind: str) -> None:
        """Count `positions` more uses of every entry of a weight."""
        name = self.name(weight)
        self.positions[name] = self.positions.get(name, 0) + positions
        self.kinds[name] = kind

    def pin(self, atoms: Any, reason: str) -> None:
        """Pin the atoms of a value, of each value of a list, or of a size; what has none is passed over."""
        for part in atoms if isinstance(atoms, list) else [atoms]:
            part = part.atoms if isinstance(part, Size) else part
            if isinstance(part, Tensor):
                self.ties.pin(part, reason)


def first_names(network: nn.Module) -> dict[str, str]:
    """Return, for every name of a parameter or buffer, the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def parameter_places(network: nn.Module) -> dict[str, str]:
    """Return, for every parameter of every module, each module once, the first name of the same tensor."""
    first = first_names(network)
    names = [
        f"{path}.{leaf}" if path else leaf
        for path, module in network.named_modules()
        for leaf in _leaves(module)
    ]
    return {name: first[name] for name in names}


def _leaves(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)]
