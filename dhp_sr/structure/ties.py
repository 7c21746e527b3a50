"""Channels as atoms: which of them must live and die together, and which may not die at all."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Ties:
    """A union-find over channels.

    Every producer of channels (a convolution, the network's input, a bare parameter) makes atoms; operators tie
    atoms together. What comes out as one class is one latent's worth of channels.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.producer: list[str] = []
        """Name of the layer that made each atom."""
        self._pins: dict[int, str] = {}

    def new(self, count: int, producer: str) -> Tensor:
        """Make `count` atoms; returns their numbers, shape (count,)."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        self.producer.extend([producer] * count)
        return torch.arange(start, start + count)

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Tie two equally shaped tensors of atoms, entry by entry."""
        if first is second:
            return
        pairs = torch.stack((first.flatten(), second.flatten()), dim=1)
        for a, b in torch.unique(pairs, dim=0).tolist():
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low

    def pin(self, atoms: Tensor, reason: str) -> None:
        """Mark atoms, and all that is ever tied to them, as not to be pruned."""
        for atom in torch.unique(atoms).tolist():
            self._pins.setdefault(atom, reason)

    def root(self, atom: int) -> int:
        """Return the smallest number of the atom's class."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def roots(self) -> list[int]:
        """Return the class of every atom."""
        return [self.root(atom) for atom in range(len(self._parent))]

    def reasons(self) -> dict[int, str]:
        """Return, for the root of each pinned class, the first reason given."""
        found: dict[int, str] = {}
        for atom in sorted(self._pins):
            found.setdefault(self.root(atom), self._pins[atom])
        return found


def collapse(atoms: Tensor, size: int, dim: int, ties: Ties) -> Tensor:
    """Return one atom for each of the `size` entries along `dim`, tying what differs along the other axes.

    Args:
        atoms: an atom for each entry of a value, broadcastable to it.
        size: length of the value's axis `dim`.
        dim: the axis that carries the channels.
        ties: where the ties are recorded.
    """
    rows = atoms.movedim(dim, 0).reshape(atoms.shape[dim], -1)
    if rows.shape[1] > 1:
        ties.tie(rows, rows[:, :1].expand_as(rows))
    return rows[:, 0].expand(size) if rows.shape[0] == 1 else rows[:, 0]


def along(atoms: Tensor, rank: int, dim: int) -> Tensor:
    """Shape (C,) atoms so that they lie along axis `dim` of a value with `rank` axes."""
    shape = [1] * rank
    shape[dim] = -1
    return atoms.reshape(shape)


def tie_all(tensors: Iterable[Tensor], ties: Ties) -> Tensor:
    """Tie broadcastable atom tensors entry by entry; returns their common atoms."""
    spread = torch.broadcast_tensors(*tensors)
    for other in spread[1:]:
        ties.tie(spread[0], other)
    return spread[0]
