"""The proximal step that makes latents sparse."""

import torch
from torch import Tensor


def soft_threshold(value: Tensor, threshold: Tensor | float) -> Tensor:
    """Return sign(value) * max(|value| - threshold, 0), the proximal operator of the l1 norm.

    Args:
        value: any shape.
        threshold: not negative, broadcastable to `value`.

    Reference: Parikh and Boyd, Proximal Algorithms, section 6.5.2.
    """
    return value.sign() * (value.abs() - threshold).clamp_min(0)


class AdamMetric:
    """The moments of Adam for one flat vector, and the proximal step that belongs to them.

    Adam minimizes <g, z> + ||z - z_t||^2_D / (2 lr) with D = sqrt(v) + eps. With a penalty lambda * sum_i c_i |z_i|
    added, entry i is soft-thresholded by lr * lambda * c_i / D_i: where the gradient is large, z shrinks slowly.

    Reference: Yun et al., Adaptive Proximal Gradient Methods for Structured Neural Networks, NeurIPS 2021 (ProxGen).

    Args:
        size: length of the vector.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
    """

    def __init__(
        self, size: int, *, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12
    ) -> None:
        self.betas, self.eps = betas, eps
        self.steps = 0
        self.first = torch.zeros(size)
        self.second = torch.zeros(size)

    def observe(self, gradient: Tensor) -> None:
        """Take one gradient into the moments."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - self.betas[0])
        self.second.lerp_(gradient.square(), 1 - self.betas[1])

    @property
    def metric(self) -> Tensor:
        """D, the square root of the second moment, shape of the vector."""
        return (self.second / (1 - self.betas[1] ** max(1, self.steps))).sqrt() + self.eps

    def direction(self) -> Tensor:
        """Return Adam's step for lr 1."""
        return self.first / (1 - self.betas[0] ** max(1, self.steps)) / self.metric

    def threshold(self, cost: Tensor) -> Tensor:
        """Return the soft threshold of every entry for lr * lambda = 1 and penalties `cost`."""
        return cost / self.metric

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the moments and the count of steps."""
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` gave."""
        self.steps, self.first, self.second = (
            int(state["steps"]),
            state["first"].clone(),
            state["second"].clone(),
        )
