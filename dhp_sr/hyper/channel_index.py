"""Index from the flat vector over all prunable channels to the axes of the weights."""

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan

AxisVectors = dict[str, dict[int, Tensor]]
"""Weight name -> axis -> values of the entries along that axis."""


class ChannelIndex(nn.Module):
    """Gathers the values of a flat channel vector along every axis that has prunable channels.

    Many axes have the same index, such as all those along a residual connection; each distinct
    index is stored and gathered once. As buffers, the indices follow the module to its device.

    Args:
        plan: Axes of the weights, and their channels.
        device: Device of the flat vectors.
    """

    def __init__(self, plan: ChannelPlan, device: torch.device) -> None:
        super().__init__()
        self._index_of_axis: dict[str, dict[int, int]] = {}
        """Weight name -> axis -> number of its index among the buffers."""
        numbers: dict[tuple[int, ...], int] = {}
        for axis in plan.axes:
            # Entries of pinned channels point behind the prunable channels, at plan.size.
            has_prunable = bool((axis.index < plan.size).any())
            if not has_prunable or axis.tensor not in plan.parameters:
                continue
            number = numbers.setdefault(tuple(axis.index.tolist()), len(numbers))
            self._index_of_axis.setdefault(axis.tensor, {})[axis.dim] = number
        # Not in the state dict: the plan determines them.
        for index, number in numbers.items():
            tensor = torch.tensor(index, device=device)
            self.register_buffer(f"index_{number}", tensor, persistent=False)

    def gather(self, values: Tensor) -> AxisVectors:
        """Return the values along every axis with prunable channels.

        Args:
            values: (plan.size + 1,) values of the prunable channels, and behind them the value of
                all pinned channels.
        """
        gathered = [values[index] for index in self.buffers()]
        vectors: AxisVectors = {}
        for name, numbers in self._index_of_axis.items():
            vectors[name] = {dim: gathered[number] for dim, number in numbers.items()}
        return vectors


def align_to_axis(vector: Tensor, rank: int, dim: int) -> Tensor:
    """Return a vector as a tensor of `rank` axes that varies along `dim`, to multiply a weight."""
    shape = [1] * rank
    shape[dim] = -1
    return vector.reshape(shape)
