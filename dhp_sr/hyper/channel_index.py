"""From one flat vector over all channels to the axes of the parameters."""

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan


class Places(nn.Module):
    """Where in the flat vector the channels of every parameter's axes lie; equal indices are gathered once."""

    def __init__(self, plan: ChannelPlan, device: torch.device) -> None:
        """Look up the places.

        Args:
            plan: names the parameters' axes and their channels.
            device: where the flat vectors will lie.
        """
        super().__init__()
        self._slot: dict[str, dict[int, int]] = {}
        slots: dict[tuple[int, ...], int] = {}
        for axis in plan.axes:
            if axis.tensor in plan.parameters and bool((axis.index < plan.size).any()):
                slot = slots.setdefault(tuple(axis.index.tolist()), len(slots))
                self._slot.setdefault(axis.tensor, {})[axis.dim] = slot
        for index, slot in slots.items():
            self.register_buffer(
                f"index_{slot}", torch.tensor(index, device=device), persistent=False
            )

    def gather(self, flat: Tensor) -> dict[str, dict[int, Tensor]]:
        """Return parameter name -> axis -> the entries of `flat` along it."""
        gathered = [flat[index] for index in self.buffers()]
        return {
            name: {dim: gathered[slot] for dim, slot in dims.items()}
            for name, dims in self._slot.items()
        }
