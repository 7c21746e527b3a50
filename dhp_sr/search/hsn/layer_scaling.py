"""Layer-wise scaling: how much the loss weighs against the budget in the gradient of each layer's head, learned."""

from typing import Any

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.1, 10.0


class LayerScaling:
    """One factor alpha for each layer, moved by hyper-gradient descent.

    A budget of multiply-adds presses hardest on layers with large feature maps, the early ones. Each head's gradient
    is therefore

        G_l = alpha_l gL_l + gR_l        gL: of the task's loss, gR: of the budget's term, its strength included

    and a step along alpha_l changes the objective by -<gL_l + gR_l, previous gL_l> times the step size, so

        alpha_l <- alpha_l + rate * cosine(gL_l + gR_l, previous gL_l), within [0.1, 10].

    The paper says that there are such factors and that hyper-gradients move them. Where they stand is read from the
    authors' later code; the rule is ours. Its cosine makes one rate fit all layers: plain products differ by orders.

    Args:
        layer: (rows,) the layer of each row of the heads.
        mode: `loss` as above, `flops` with the factor on gR instead, `none` for 1 throughout.
        rate: step of the factors.

    Reference: Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent, ICLR 2018.
    """

    def __init__(self, layer: Tensor, mode: str, rate: float) -> None:
        self._layer, self._mode, self._rate = layer, mode, rate
        self.factors = torch.ones(int(layer.max()) + 1)
        self._before: Tensor | None = None

    def combine(self, task: Tensor, budget: Tensor) -> Tensor:
        """Take one step on the factors and return the gradient for the heads.

        Args:
            task: (rows, n) gradient of the task's loss on each head.
            budget: (rows, n) gradient of the budget's term.
        """
        if self._mode == "none":
            return task + budget
        scaled, other = (task, budget) if self._mode == "loss" else (budget, task)
        if self._before is not None:
            agreement = self._cosine(task + budget, self._before)
            self.factors = (self.factors + self._rate * agreement).clamp(LOWEST, HIGHEST)
        self._before = scaled.clone()
        return self.factors[self._layer][:, None] * scaled + other

    def _cosine(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the cosine of the angle between two gradients, for each layer; 0 where one of them is 0."""
        product, *squares = (
            self._sums(a * b) for a, b in ((first, second), (first, first), (second, second))
        )
        return product / (squares[0] * squares[1]).sqrt().clamp_min(torch.finfo(product.dtype).tiny)

    def _sums(self, entries: Tensor) -> Tensor:
        return torch.zeros_like(self.factors).index_add_(0, self._layer, entries.sum(1))

    def state_dict(self) -> dict[str, Any]:
        """Return the factors and the gradient of the step before."""
        return {"factors": self.factors, "before": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.factors = state["factors"].clone()
        self._before = None if state["before"] is None else state["before"].clone()
