"""Channels as atoms: which of them must live and die together, and which may not die at all."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor


class Ties:
    """A union-find over channels.

    Every producer of channels (a convolution, the network's input, a bare parameter) makes atoms; operators tie
    atoms together. What comes out as one class is one latent's worth of channels. Ties are only noted; the classes
    are found all at once.
    """

    def __init__(self) -> None:
        self.producer: list[str] = []
        """Name of the layer that made each atom."""
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []
        self._marks: list[tuple[Tensor, str]] = []
        self._activated: list[Tensor] = []
        self._roots = torch.zeros(0, dtype=torch.long)

    def new(self, count: int, producer: str) -> Tensor:
        """Make `count` atoms; returns their numbers, shape (count,)."""
        start = len(self.producer)
        self.producer.extend([producer] * count)
        return torch.arange(start, start + count)

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Tie two equally shaped tensors of atoms, entry by entry."""
        if first is second:
            return
        both = compact(torch.stack((first, second)), keep=0)
        if not torch.equal(both[0], both[1]):
            self._pairs.append(both.flatten(1))

    def pin(self, atoms: Tensor, reason: str) -> None:
        """Mark atoms, and all that is ever tied to them, as not to be pruned."""
        self._pins.append((compact(atoms).flatten(), reason))

    def mark(self, atoms: Tensor, part: str) -> None:
        """Note that a part of a value holds these atoms alone: they form a group of their own, never empty."""
        self._marks.append((compact(atoms).flatten(), part))

    def activate(self, atoms: Tensor) -> None:
        """Note that an activation acts on atoms."""
        self._activated.append(compact(atoms).flatten())

    def roots(self) -> Tensor:
        """Return the class of every atom: the smallest number in it."""
        known = len(self._roots)
        roots = torch.cat((self._roots, torch.arange(known, len(self.producer))))
        if self._pairs:
            roots = _joined(roots, torch.cat(self._pairs, dim=1))
            self._pairs.clear()
        self._roots = roots
        return roots

    def reasons(self) -> dict[int, str]:
        """Return, for the root of each pinned class, the first reason given to its first pinned atom."""
        reason_of: dict[int, str] = {}
        for atoms, reason in self._pins:
            for atom in torch.unique(atoms).tolist():
                reason_of.setdefault(atom, reason)
        roots, found = self.roots().tolist(), {}
        for atom in sorted(reason_of):
            found.setdefault(roots[atom], reason_of[atom])
        return found

    def marks(self) -> dict[int, tuple[str, ...]]:
        """Return, for the root of each class, the parts that it was marked with."""
        roots, found = self.roots(), {}
        for atoms, part in self._marks:
            for root in torch.unique(roots[atoms]).tolist():
                found.setdefault(root, []).append(part)
        return {root: tuple(parts) for root, parts in found.items()}

    def activations(self) -> Counter[int]:
        """Return, for the root of each class, how many activations act on it."""
        roots = self.roots()
        return Counter(
            root for atoms in self._activated for root in torch.unique(roots[atoms]).tolist()
        )


def _joined(roots: Tensor, pairs: Tensor) -> Tensor:
    """Return the roots after further ties, shape (2, ties): the larger root of a pair hangs below the smaller."""
    while True:
        first, second = roots[pairs]
        apart = first != second
        if not apart.any():
            return roots
        pairs, first, second = pairs[:, apart], first[apart], second[apart]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        roots = roots.scatter_reduce(0, high, low, "amin")
        while not torch.equal(roots, roots[roots]):
            roots = roots[roots]


def compact(atoms: Tensor, keep: int | None = None) -> Tensor:
    """Reduce every axis along which all entries are equal to length 1, except axis `keep`."""
    for dim in range(atoms.dim()):
        if dim != keep and atoms.shape[dim] > 1:
            first = atoms.narrow(dim, 0, 1)
            if atoms.stride(dim) == 0 or bool((atoms == first).all()):
                atoms = first
    return atoms


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
    return compact(spread[0])
