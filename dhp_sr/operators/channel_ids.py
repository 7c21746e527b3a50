"""Ids of channels, and the union-find that couples those which must be pruned together.

Each tensor of channel ids is broadcastable to the value that it describes: an axis along which all
entries belong to the same channel has length 1. Ids of a feature map are thus (1, C, 1, 1), not (N,
C, H, W).

    x = conv1(image)     ids [3 4 5 6] along axis 1     new
    y = conv2(x)         ids [7 8 9 10]                 new; conv2.weight axis 1 is bound to 3 ... 6
    x + y                ids [3 4 5 6]                  unions 3-7, 4-8, 5-9, 6-10
    pixel_shuffle(.., 2) ids [3]                        unions 3-4-5-6
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelMatrix:
    """Channels of a value whose entries belong to several channels each, one along every axis.

    The product of one feature's channels with another's, q (c, n) @ k (d, n)^T, is such a value.
    """

    axes: tuple[Tensor | None, ...]
    """For each axis the (length,) ids of its channels; None for one without channels."""
    masked: tuple[bool, ...]
    """For each axis whether all entries of a masked channel along it are zeros."""


class ChannelUnionFind:
    """Union-find over channels.

    Every source of channels (a convolution, the network's input, a bare parameter) creates ids;
    operators unite them. A class in the end is one prunable element of a dependency group: one
    entry of its latent vector.
    """

    def __init__(self) -> None:
        self.producer: list[str] = []
        """Name of the layer that created each id."""
        # Unions are only recorded, and the classes computed for all of them at once: a wide network
        # unites channels hundreds of thousands of times, and one vectorized pass is far cheaper
        # than as many pointer chases.
        self._pairs: list[Tensor] = []
        self._pins: list[tuple[Tensor, str]] = []
        self._boundaries: list[tuple[Tensor, str]] = []
        self._activated: list[Tensor] = []
        self._roots = torch.zeros(0, dtype=torch.long)

    def new_ids(self, count: int, producer: str) -> Tensor:
        """Create (count,) ids."""
        start = len(self.producer)
        self.producer.extend([producer] * count)
        return torch.arange(start, start + count)

    def union(self, first: Tensor, second: Tensor) -> None:
        """Couple two equally shaped tensors of ids, entry by entry."""
        if first is second:
            return
        # Reduced together: along an axis on which both are constant, one pair says it all. The axis
        # of the pair itself is kept, even where both are equal.
        pairs = compact(torch.stack((first, second)), keep=0)
        if not torch.equal(pairs[0], pairs[1]):
            self._pairs.append(pairs.flatten(1))

    def pin(self, ids: Tensor, reason: str) -> None:
        """Make channels, and all that are ever coupled with them, non-prunable."""
        self._pins.append((compact(ids).flatten(), reason))

    def add_split_boundary(self, ids: Tensor, section: str) -> None:
        """Make the channels of a slice a separate group, which never becomes empty."""
        self._boundaries.append((compact(ids).flatten(), section))

    def count_activation(self, ids: Tensor) -> None:
        """Record that a non-linear activation acts on channels."""
        self._activated.append(compact(ids).flatten())

    def roots(self) -> Tensor:
        """Return (ids,) the root of every id: the smallest id of its class."""
        known = len(self._roots)
        roots = torch.cat((self._roots, torch.arange(known, len(self.producer))))
        if self._pairs:
            roots = _apply_unions(roots, torch.cat(self._pairs, dim=1))
            self._pairs.clear()
        self._roots = roots
        return roots

    def pin_reasons(self) -> dict[int, str]:
        """Return, for the root of each pinned class, why it is pinned."""
        # The reason given first to the lowest id: nearest to the network's input.
        reason_of: dict[int, str] = {}
        for ids, reason in self._pins:
            for channel_id in torch.unique(ids).tolist():
                reason_of.setdefault(channel_id, reason)
        roots = self.roots().tolist()
        reasons: dict[int, str] = {}
        for channel_id in sorted(reason_of):
            reasons.setdefault(roots[channel_id], reason_of[channel_id])
        return reasons

    def split_boundaries(self) -> dict[int, tuple[str, ...]]:
        """Return, for the root of each class, the slices that hold it."""
        roots = self.roots()
        sections: dict[int, list[str]] = {}
        for ids, section in self._boundaries:
            for root in torch.unique(roots[ids]).tolist():
                sections.setdefault(root, []).append(section)
        return {root: tuple(names) for root, names in sections.items()}

    def activations(self) -> Counter[int]:
        """Return, for the root of each class, the number of activations that act on it."""
        roots = self.roots()
        counts: Counter[int] = Counter()
        for ids in self._activated:
            counts.update(torch.unique(roots[ids]).tolist())
        return counts


def _apply_unions(roots: Tensor, pairs: Tensor) -> Tensor:
    """Return the roots after further unions, shape (2, unions)."""
    while True:
        # Shape (2, unions): the roots, at present, of both ends of every union.
        first, second = roots[pairs]
        differing = first != second
        if not differing.any():
            return roots
        pairs = pairs[:, differing]
        low = torch.minimum(first, second)[differing]
        high = torch.maximum(first, second)[differing]
        # Hang the larger root below the smaller. Of several unions of one root only the smallest
        # survives the scatter; the others are seen again in the next round, when their ends still
        # differ.
        roots = roots.scatter_reduce(0, high, low, "amin")
        # Follow the chains to their ends, twice as far in every pass.
        while not torch.equal(roots, roots[roots]):
            roots = roots[roots]


def compact(ids: Tensor, keep: int | None = None) -> Tensor:
    """Reduce every axis along which all ids are equal to length 1, except axis `keep`."""
    for dim in range(ids.dim()):
        if dim != keep and ids.shape[dim] > 1:
            first = ids.narrow(dim, 0, 1)
            # Expanded axes have stride 0: no need to compare the copies.
            if ids.stride(dim) == 0 or bool((ids == first).all()):
                ids = first
    return ids


def varying_axes(ids: Tensor) -> list[int]:
    """Return the axes of a value along which its entries are different channels."""
    axes = []
    for dim, size in enumerate(ids.shape):
        if size > 1:
            axes.append(dim)
    return axes


def ids_along(ids: Tensor, size: int, dim: int, union_find: ChannelUnionFind) -> Tensor:
    """Return (size,) channel ids of the entries along `dim`.

    Ids that differ along other axes are united.

    Args:
        ids: Channel ids of a value, broadcastable to it.
        size: Length of the value's axis `dim`.
        dim: The axis that carries the channels.
        union_find: Records the unions.
    """
    # Of a value whose channels vary along two axes (`c` channels viewed as (2, c / 2)), only one
    # axis can be an axis of channels for the operator that asks: entries along the other are
    # coupled.
    if ids.numel() == 0:  # an empty tensor, to which others are joined
        return ids.new_zeros(size)[:0]
    rows = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)
    if rows.shape[1] > 1:
        union_find.union(rows, rows[:, :1].expand_as(rows))
    return rows[:, 0].expand(size) if rows.shape[0] == 1 else rows[:, 0]


def lay_along(ids: Tensor, rank: int, dim: int) -> Tensor:
    """Shape (C,) ids so that they lie along axis `dim` of a value with `rank` axes."""
    # Length 1 along all other axes: the result broadcasts to the value.
    shape = [1] * rank
    shape[dim] = -1
    return ids.reshape(shape)


def union_all(tensors: Iterable[Tensor], union_find: ChannelUnionFind) -> Tensor:
    """Unite broadcastable tensors of ids entry by entry; returns their common ids."""
    first, *others = torch.broadcast_tensors(*tensors)
    for other in others:
        union_find.union(first, other)
    return compact(first)


def union_chunks(channels: Tensor, chunks: int, union_find: ChannelUnionFind) -> Tensor:
    """Unite channels at the same position of equal chunks, so that all chunks stay equally wide.

    Args:
        channels: (C,) ids.
        chunks: A divisor of C.
        union_find: Records the unions.

    Returns:
        (chunks, C / chunks) ids, one row for each chunk.
    """
    rows = channels.reshape(chunks, -1)
    union_find.union(rows, rows[:1].expand_as(rows))
    return rows


def union_blocks(channels: Tensor, blocks: int, union_find: ChannelUnionFind) -> Tensor:
    """Unite all channels of each of several equal, consecutive blocks.

    Returns:
        (blocks, C / blocks) ids, one row for each block.
    """
    rows = channels.reshape(blocks, -1)
    union_find.union(rows, rows[:, :1].expand_as(rows))
    return rows


def couple_along(ids: Tensor, dim: int, union_find: ChannelUnionFind, layer: str) -> Tensor:
    """Unite the channels along an axis that must keep its length.

    Args:
        ids: Channel ids of a value.
        dim: The axis.
        union_find: Records the unions.
        layer: Name of the node that needs it, for the reason.

    Returns:
        Ids that do not vary along the axis.
    """
    first = ids.narrow(dim, 0, 1)
    union_find.union(ids, first.expand_as(ids))
    if first.numel() == 1:
        union_find.pin(first, f"an axis that keeps its length at {layer}")
    return first


def couple_unless_alone(
    ids: Tensor, dims: Iterable[int], union_find: ChannelUnionFind, layer: str
) -> Tensor | None:
    """Unite the channels along axes that an operator mixes, where others are left along another.

    Channels of two branches viewed as (2, C) and summed or weighted over the first axis (selective
    kernels) stay C channels, each of which the branches lose together.

    Args:
        ids: Channel ids of a value.
        dims: Axes that the operator mixes.
        union_find: Records the unions.
        layer: Name of the node that needs it, for the reason.

    Returns:
        Ids that do not vary along these axes; None where they would not vary at all.
    """
    mixed = {dim % ids.dim() for dim in dims}
    coupled = [dim for dim in varying_axes(ids) if dim in mixed]
    if coupled and len(coupled) == len(varying_axes(ids)):
        return None
    for dim in coupled:
        ids = couple_along(ids, dim, union_find, layer)
    return ids
