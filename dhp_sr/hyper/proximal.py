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


class ProximalAdam:
    """Adam on one flat vector, followed by the soft threshold in Adam's own metric.

    A step minimises <g, z> + ||z - z_t||^2_D / (2 lr) + lambda * sum_i c_i |z_i| with D = sqrt(v) + eps, so the
    threshold of entry i is lr * lambda * c_i / D_i: entries whose gradient is large shrink slowly.

    Reference: Yun et al., Adaptive Proximal Gradient Methods for Structured Neural Networks, NeurIPS 2021 (ProxGen).
    """

    def __init__(self, size: int, *, lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
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

    def step(self, value: Tensor, penalty: Tensor) -> Tensor:
        """Return the vector after one step; `penalty` is lambda * c, entry by entry."""
        return soft_threshold(value - self.lr * self.direction(), self.lr * penalty / self.metric)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the moments and the count of steps."""
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` gave."""
        self.steps, self.first, self.second = int(state["steps"]), state["first"].clone(), state["second"].clone()
