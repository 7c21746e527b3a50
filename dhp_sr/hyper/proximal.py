"""Proximal steps that make vectors sparse: soft threshold, and Adam as a preconditioner."""

from typing import Any

import torch
from torch import Tensor


def soft_threshold(value: Tensor, threshold: Tensor | float) -> Tensor:
    """Return sign(value) * max(|value| - threshold, 0), the proximal operator of the l1 norm.

    Args:
        value: Any shape.
        threshold: Not negative, broadcastable to `value`.

    Reference:
        Parikh and Boyd, Proximal Algorithms, 2014, section 6.5.2.
    """
    return value.sign() * (value.abs() - threshold).clamp_min(0)


class AdamPreconditioner:
    """The moments of Adam for a vector, and the soft threshold in its metric.

    A step of Adam minimizes <g, z> + ||z - z_t||_D^2 / (2 lr), g the first moment, with the
    diagonal preconditioner D = sqrt(second moment) + eps. With an l1 penalty lambda * sum_i c_i
    |z_i| added, the minimizer is that step, then a soft threshold of lr * lambda * c_i / D_i for
    entry i: where gradients are large, z shrinks slowly.

    Reference:
        Yun et al., Adaptive Proximal Gradient Methods for Structured Neural Networks, NeurIPS 2021
        (ProxGen).

    Args:
        size: Length of the vector.
        betas: Decay of the first and the second moment.
        eps: Added to the square root of the second moment.
    """

    def __init__(
        self, size: int, *, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12
    ) -> None:
        self._betas = betas
        self._eps = eps
        self._num_updates = 0
        self._first_moment = torch.zeros(size)
        self._second_moment = torch.zeros(size)

    def update(self, gradient: Tensor) -> None:
        """Add a gradient, shape (size,), to the moments."""
        self._num_updates += 1
        self._first_moment.lerp_(gradient, 1 - self._betas[0])
        self._second_moment.lerp_(gradient.square(), 1 - self._betas[1])

    @property
    def diagonal(self) -> Tensor:
        """D, shape (size,)."""
        # Moments start at 0, which the correction makes up for. max: before the first update.
        correction = 1 - self._betas[1] ** max(1, self._num_updates)
        return (self._second_moment / correction).sqrt() + self._eps

    def direction(self) -> Tensor:
        """Return the step of Adam for lr = 1, to be subtracted, shape (size,)."""
        correction = 1 - self._betas[0] ** max(1, self._num_updates)
        return self._first_moment / correction / self.diagonal

    def threshold(self, cost: Tensor) -> Tensor:
        """Return the soft threshold of each entry for lr * lambda = 1.

        Args:
            cost: (size,) weights c_i of the l1 penalty.
        """
        return cost / self.diagonal

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the number of updates."""
        return {
            "num_updates": self._num_updates,
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._num_updates = int(state["num_updates"])
        self._first_moment = state["first_moment"].clone()
        self._second_moment = state["second_moment"].clone()
