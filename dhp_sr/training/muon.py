"""Muon: steps that turn a weight in all its directions alike."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 4
"""A weight with fewer channels on either side is no matrix to speak of, and takes AdamW's steps."""

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of the iteration x -> a x + b x^3 + c x^5, which draws singular values in (0, 1] to about 1."""

ROUNDS = 5
SIZE = 0.2
"""Root mean square of a step at learning rate 1, as AdamW's steps have it in practice."""


class Muon(torch.optim.AdamW):
    """Orthogonal steps for weights of convolutions and linear layers, AdamW for all else.

    The momentum of a weight, as a matrix of outputs x (inputs times taps), is brought near to the closest orthogonal
    one, so that its rare directions are learned as fast as its loud ones. Steps have the size of AdamW's, and take
    its learning rates. Weight decay is decoupled for all.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, for step and coefficients.
        Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2, for the size of a step.

    Args:
        params: of one network; matrices are those with at least `LEAST` x `LEAST` channels.
        lr: learning rate.
        momentum: of the matrices, in Nesterov's form.
        betas: of AdamW, for the rest.
        weight_decay: factor on lr.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        self.defaults["momentum"] = momentum
        for group in self.param_groups:
            group.setdefault("momentum", momentum)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step on all parameters that have a gradient; closures are not called."""
        held = []
        for group in self.param_groups:
            matrices = [one for one in group["params"] if one.grad is not None and is_matrix(one)]
            held += [(one, one.grad) for one in matrices]
            self._turn(matrices, group)
        for one, _ in held:
            one.grad = None  # AdamW passes it by
        super().step()
        for one, gradient in held:
            one.grad = gradient

    def _turn(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        alike: dict[tuple, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight in matrices:
            state = self.state[weight]
            if not state:
                state |= {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros_like(weight)}
            state["step"] += 1  # AdamW looks for it in every state that it loads
            moment = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
            step = weight.grad.add(moment, alpha=group["momentum"]).flatten(1)
            alike[step.shape, step.device].append((weight, step))
        for (shape, _), members in alike.items():
            turned = orthogonal(torch.stack([step for _, step in members]))
            size = SIZE * max(shape) ** 0.5
            for (weight, _), step in zip(members, turned, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step.view(weight.shape), alpha=-group["lr"] * size)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight has channels enough on both sides to have directions."""
    return weight.dim() >= 2 and min(weight.shape[:2]) >= LEAST


def orthogonal(matrices: Tensor) -> Tensor:
    """Return the nearest orthogonal matrices, roughly: singular values come to lie between 0.7 and 1.2.

    Args:
        matrices: (number, rows, columns), floating point; rows and columns of zeros stay zero.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
