"""Channels as ids: which of them must live and die together, and which may not die at all."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor


class ChannelUnionFind:
    """A union-find over channels.

    Every producer of channels (a convolution, the network's input, a bare parameter) makes ids; operators tie
    ids together. What comes out as one class is one latent's worth of channels. ChannelUnionFind are only noted; the classes
    are found all at once.
    """

    def __init__(self) -> None:
        self.producer: list[str] = []
        """Name of the layer that made each channel_id."""
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []
        self._boundaries: list[tuple[Tensor, str]] = []
        self._activated: list[Tensor] = []
        self._roots = torch.zeros(0, dtype=torch.long)

    def new_ids(self, count: int, producer: str) -> Tensor:
        """Make `count` ids; returns their numbers, shape (count,)."""
        start = len(self.producer)
        self.producer.extend([producer] * count)
        return torch.arange(start, start + count)

    def union(self, first: Tensor, second: Tensor) -> None:
        """Tie two equally shaped tensors of ids, entry by entry."""
        if first is second:
            return
        both = compact(torch.stack((first, second)), keep=0)
        if not torch.equal(both[0], both[1]):
            self._pairs.append(both.flatten(1))

    def pin(self, ids: Tensor, reason: str) -> None:
        """Mark ids, and all that is ever tied to them, as not to be pruned."""
        self._pins.append((compact(ids).flatten(), reason))

    def add_split_boundary(self, ids: Tensor, part: str) -> None:
        """Note that a part of a value holds these ids alone: they form a group of their own, never empty."""
        self._boundaries.append((compact(ids).flatten(), part))

    def count_activation(self, ids: Tensor) -> None:
        """Note that an activation acts on ids."""
        self._activated.append(compact(ids).flatten())

    def roots(self) -> Tensor:
        """Return the class of every channel_id: the smallest number in it."""
        known = len(self._roots)
        roots = torch.cat((self._roots, torch.arange(known, len(self.producer))))
        if self._pairs:
            roots = _joined(roots, torch.cat(self._pairs, dim=1))
            self._pairs.clear()
        self._roots = roots
        return roots

    def pin_reasons(self) -> dict[int, str]:
        """Return, for the root of each pinned class, the first reason given to its first pinned channel_id."""
        reason_of: dict[int, str] = {}
        for ids, reason in self._pins:
            for channel_id in torch.unique(ids).tolist():
                reason_of.setdefault(channel_id, reason)
        roots, found = self.roots().tolist(), {}
        for channel_id in sorted(reason_of):
            found.setdefault(roots[channel_id], reason_of[channel_id])
        return found

    def split_boundaries(self) -> dict[int, tuple[str, ...]]:
        """Return, for the root of each class, the parts that it was marked with."""
        roots, found = self.roots(), {}
        for ids, part in self._boundaries:
            for root in torch.unique(roots[ids]).tolist():
                found.setdefault(root, []).append(part)
        return {root: tuple(parts) for root, parts in found.items()}

    def activations(self) -> Counter[int]:
        """Return, for the root of each class, how many activations act on it."""
        roots = self.roots()
        return Counter(
            root for ids in self._activated for root in torch.unique(roots[ids]).tolist()
        )


def _joined(roots: Tensor, pairs: Tensor) -> Tensor:
    """Return the roots after further union_find, shape (2, union_find): the larger root of a pair hangs below the smaller."""
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


def compact(ids: Tensor, keep: int | None = None) -> Tensor:
    """Reduce every axis along which all entries are equal to length 1, except axis `keep`."""
    for dim in range(ids.dim()):
        if dim != keep and ids.shape[dim] > 1:
            first = ids.narrow(dim, 0, 1)
            if ids.stride(dim) == 0 or bool((ids == first).all()):
                ids = first
    return ids


def ids_along(ids: Tensor, size: int, dim: int, union_find: ChannelUnionFind) -> Tensor:
    """Return one channel_id for each of the `size` entries along `dim`, tying what differs along the other axes.

    Args:
        ids: an channel_id for each entry of a value, broadcastable to it.
        size: length of the value's axis `dim`.
        dim: the axis that carries the channels.
        union_find: where the union_find are recorded.
    """
    rows = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)
    if rows.shape[1] > 1:
        union_find.union(rows, rows[:, :1].expand_as(rows))
    return rows[:, 0].expand(size) if rows.shape[0] == 1 else rows[:, 0]


def lay_along(ids: Tensor, rank: int, dim: int) -> Tensor:
    """Shape (C,) ids so that they lie along axis `dim` of a value with `rank` axes."""
    shape = [1] * rank
    shape[dim] = -1
    return ids.reshape(shape)


def union_all(tensors: Iterable[Tensor], union_find: ChannelUnionFind) -> Tensor:
    """Tie broadcastable channel_id tensors entry by entry; returns their common ids."""
    spread = torch.broadcast_tensors(*tensors)
    for other in spread[1:]:
        union_find.union(spread[0], other)
    return compact(spread[0])
