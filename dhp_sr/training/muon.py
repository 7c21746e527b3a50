"""Muon: momentum steps orthogonalized by a Newton-Schulz iteration."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MIN_CHANNELS = 4
"""A weight with fewer output or input channels is no matrix worth orthogonalizing."""

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the iteration x -> a x + b x^3 + c x^5, which moves singular values in (0, 1] to
about 1 (Jordan et al., 2024)."""
NEWTON_SCHULZ_STEPS = 5

STEP_RMS = 0.2
"""Root mean square of a step at learning rate 1, that of AdamW in practice (Liu et al., 2025)."""


class Muon(torch.optim.AdamW):
    """Orthogonalized momentum for weights of convolutions and linear layers, AdamW for the rest.

    The momentum of a weight, as a matrix of outputs x (inputs times kernel size), is replaced by
    about the closest orthogonal matrix, so that directions with small gradients are learned as
    fast as those with large ones. Steps have the size of AdamW's and take its learning rates.
    Weight decay is decoupled for all parameters.

    References:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024: step and
        coefficients.
        Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2: size of a step.

    Args:
        params: Of one network; matrices have at least `MIN_CHANNELS` x `MIN_CHANNELS` channels.
        lr: Learning rate.
        momentum: Of the matrices, in Nesterov's form.
        betas: Of AdamW, for the rest.
        weight_decay: Factor on lr.
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
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; closures are not called."""
        gradients: list[tuple[nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            matrices = []
            for parameter in group["params"]:
                if parameter.grad is not None and is_matrix(parameter):
                    matrices.append(parameter)
                    gradients.append((parameter, parameter.grad))
            self._step_matrices(matrices, group)
        # AdamW skips parameters without a gradient, so those of the matrices are put aside.
        for parameter, _ in gradients:
            parameter.grad = None
        super().step()
        for parameter, gradient in gradients:
            parameter.grad = gradient

    def _step_matrices(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        # Matrices of one shape are orthogonalized in one batch: small networks have many of them.
        batches: dict[tuple[Any, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for weight in matrices:
            assert weight.grad is not None
            state = self.state[weight]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["momentum_buffer"] = torch.zeros_like(weight)
            # Muon does not use the count, but AdamW looks for one in every state that it loads.
            state["step"] += 1
            momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
            direction = weight.grad.add(momentum, alpha=group["momentum"]).flatten(1)
            batches[direction.shape, direction.device].append((weight, direction))

        for (shape, _), members in batches.items():
            stacked = torch.stack([direction for _, direction in members])
            scale = STEP_RMS * max(shape) ** 0.5
            for (weight, _), direction in zip(members, orthogonalize(stacked), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.view(weight.shape), alpha=-group["lr"] * scale)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight has enough input and output channels to be orthogonalized."""
    return weight.dim() >= 2 and min(weight.shape[:2]) >= MIN_CHANNELS


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate the closest orthogonal matrices; singular values end between 0.7 and 1.2.

    Args:
        matrices: (number, rows, columns), floating point; rows and columns of zeros stay zero.

    Reference: Jordan et al., 2024, the quintic Newton-Schulz iteration.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # The iteration multiplies by x x^T, which is cheaper for the short side.
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
