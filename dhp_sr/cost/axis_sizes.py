"""Kept sizes of the axes of all weights: the variables that every cost is a function of."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan


class AxisSizes:
    """Linear map from kept channels to the kept sizes of weight axes.

    Axes that hold the same channels the same number of times always have the same size and share
    a row, so that the map has a row per distinct axis. The last row is the constant 1; it stands
    for axes without prunable channels, whose size is a constant factor of the cost. For conv1 (3 to
    12 channels), PixelShuffle by 2, conv2 (3 to 2 channels), with a group of 3 elements and one of
    2, and the mask 1 1 0 1 1:

        row                                  table        fixed    size = table @ mask + fixed
        conv1.weight axis 0, conv1.bias      4 4 4 0 0    0        8
        conv2.weight axis 1                  1 1 1 0 0    0        2
        conv2.weight axis 0, conv2.bias      0 0 0 1 1    0        2
        constant (conv1.weight axis 1)                    1        1

    Args:
        plan: The groups, and the channels of every axis.
    """

    def __init__(self, plan: ChannelPlan) -> None:
        # Entries of an axis, sorted -> its row. In order of the axes: the same in every run.
        distinct: dict[bytes, int] = {}
        rows: list[Tensor] = []
        self._row: dict[tuple[str, int], int] = {}
        for axis in plan.axes:
            if not bool((axis.index < plan.size).any()):
                continue
            # An entry of an axis is a channel of the flat vector; before a PixelShuffle, or in a
            # flattened feature map, the same channel occurs several times along the axis.
            # The sorted entries tell as much as a row does, and are far shorter.
            entries = axis.index.sort().values.numpy().tobytes()
            if entries not in distinct:
                distinct[entries] = len(rows)
                rows.append(torch.bincount(axis.index, minlength=plan.size + 1))
            self._row[axis.tensor, axis.dim] = distinct[entries]
        table = torch.zeros(0, plan.size + 1, dtype=torch.double)
        if rows:
            table = torch.stack(rows).double()
        # The last column counts pinned entries, which are always kept.
        self._occurrences = table[:, :-1]
        self._fixed = torch.cat((table[:, -1], torch.ones(1, dtype=torch.double)))

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self._fixed)

    @property
    def constant_row(self) -> int:
        """The row of the constant 1."""
        return self.size - 1

    @property
    def fixed(self) -> Tensor:
        """Sizes with no prunable channel kept, shape (size,).

        Not 0 where pinned channels share an axis with prunable channels.
        """
        return self._fixed

    def row(self, tensor: str, dim: int) -> int:
        """Return the row of an axis; the constant row if nothing of it can be pruned."""
        return self._row.get((tensor, dim), self.constant_row)

    def prunable_dims(self, tensor: str, dims: Iterable[int]) -> list[int]:
        """Return those of a tensor's axes that have prunable channels."""
        prunable = []
        for dim in dims:
            if (tensor, dim) in self._row:
                prunable.append(dim)
        return prunable

    def of(self, kept: Tensor) -> Tensor:
        """Return the kept sizes, shape (size,), for channels (plan.size,) kept by 0 to 1."""
        return torch.cat((self._occurrences @ kept, self._fixed.new_zeros(1))) + self._fixed

    def group_sizes(
        self, start: int, order: Sequence[int] | Tensor, widths: Sequence[int]
    ) -> Tensor:
        """Return the contribution of a group's best channels to the sizes, without what is fixed.

        Args:
            start: The group's offset in the flat vector.
            order: Its channels, the best first.
            widths: Numbers of channels to keep, from 0.

        Returns:
            (len(widths), size).
        """
        # Sums over the best 0, 1, 2, ... channels; those of the wanted widths are picked from them.
        cumulative = self._occurrences[:, start + torch.as_tensor(order)].cumsum(1).T
        cumulative = torch.cat((torch.zeros_like(cumulative[:1]), cumulative))
        chosen = cumulative[torch.as_tensor(widths)]
        # The row of the constant 1 is fixed: no group adds to it.
        return torch.cat((chosen, chosen.new_zeros(len(widths), 1)), dim=1)

    def repetitions(self, rows: Tensor) -> Tensor:
        """Return how often each of these rows repeats its channels, at least 1.

        The unit is the fewest times that a channel occurs in any of them. Of rows (4 4 4 0 0) and
        (1 1 1 0 0), on either side of a PixelShuffle by 2, the first has 4, the second 1. Where all
        axes hold whole attention heads, each has 1, however many channels a head has.

        Args:
            rows: Rows of the axes to compare, such as those of all layers; repeated ones count
                once.

        Returns:
            Mean over the prunable channels of each row, same shape as `rows`.
        """
        # The row of the constant 1 holds no channel.
        constant = self._occurrences.new_zeros(1, self._occurrences.shape[1])
        occurrences = torch.cat((self._occurrences, constant))[rows]
        fewest = occurrences.where(occurrences > 0, torch.inf).amin(0)
        # A channel that is in none of the rows has fewest = infinity, and counts nothing.
        relative = torch.nan_to_num(occurrences / fewest)
        num_channels = (occurrences > 0).sum(1)
        mean = relative.sum(1) / num_channels.clamp_min(1)
        return mean.where(num_channels > 0, 1.0)

    def mean_over_axes(self, values: Tensor) -> Tensor:
        """Return the mean of values (plan.size,) over the prunable channels of each row.

        The last row has the value 1.
        """
        means = (self._occurrences @ values.double()) / self._occurrences.sum(1)
        return torch.cat((means, self._fixed.new_ones(1)))
