"""How many entries of every tensor's axes are kept: what all costs are functions of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan


class AxisSizes:
    """Linear map from kept channels to kept entries along the axes; axes that always agree share one row."""

    def __init__(self, plan: ChannelPlan) -> None:
        distinct: dict[tuple[int, ...], int] = {}
        self._row: dict[tuple[str, int], int] = {}
        for axis in plan.axes:
            if bool((axis.index < plan.size).any()):
                held = torch.bincount(axis.index, minlength=plan.size + 1)
                row = distinct.setdefault(tuple(held.tolist()), len(distinct))
                self._row[axis.tensor, axis.dim] = row
        table = torch.tensor(list(distinct), dtype=torch.double).reshape(
            len(distinct), plan.size + 1
        )
        self._channels, self._fixed = (
            table[:, :-1],
            torch.cat((table[:, -1], torch.ones(1, dtype=torch.double))),
        )

    @property
    def size(self) -> int:
        """Number of rows; the last one is always 1, for axes without prunable channels."""
        return len(self._fixed)

    def row(self, tensor: str, dim: int) -> int:
        """Return the row of an axis, or that of the constant 1 where none of its channels can be pruned."""
        return self._row.get((tensor, dim), self.size - 1)

    def prunable_dims(self, tensor: str, rank: int) -> list[int]:
        """Return the axes of a tensor that have prunable channels."""
        return [dim for dim in range(rank) if (tensor, dim) in self._row]

    def of(self, kept: Tensor) -> Tensor:
        """Return the kept entries, shape (size,), for channels (plan.size,) kept by 0 to 1."""
        return torch.cat((self._channels @ kept, self._fixed.new_zeros(1))) + self._fixed

    def group_sizes(
        self, start: int, order: Sequence[int] | Tensor, widths: Sequence[int]
    ) -> Tensor:
        """Return what a group's best channels add to the counts.

        Args:
            start: the group's offset in the flat vector.
            order: its channels, the best first.
            widths: numbers of channels to take.

        Returns:
            (len(widths), size).
        """
        sums = self._channels[:, start + torch.as_tensor(order)].cumsum(1).T
        chosen = sums[torch.as_tensor(widths) - 1]
        return torch.cat((chosen, chosen.new_zeros(len(widths), 1)), dim=1)

    def mean_over_axes(self, values: Tensor) -> Tensor:
        """Return the mean of values (plan.size,) over the prunable channels of each row, 1 for the last row."""
        return torch.cat(
            ((self._channels @ values.double()) / self._channels.sum(1), self._fixed.new_ones(1))
        )

    @property
    def fixed(self) -> Tensor:
        """AxisSizes with no prunable channel kept, shape (size,)."""
        return self._fixed
