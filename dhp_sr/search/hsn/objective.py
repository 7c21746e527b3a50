"""Objective of the structure network: the cost regularizer, and its balance with the loss by layer.

The regularizer penalizes the distance of the kept fraction of the cost from its target.
All three of its forms occur in the authors' code; which of them the paper prints is not known. The
default is two-sided: a closed gate gets almost no gradient from the loss, so a search that fell
below its budget would stay there otherwise.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dhp_sr.utils.modules import StateTree

CostRegularizer = Callable[[float, float], tuple[float, float]]
"""(kept fraction, target fraction) -> (value, derivative by the kept fraction)."""


def one_sided(kept: float, target: float) -> tuple[float, float]:
    """Return log(max(kept, target) / target) and its derivative: 0 once the budget is met."""
    if kept > target:
        return math.log(kept / target), 1 / kept
    return 0.0, 0.0


def two_sided(kept: float, target: float) -> tuple[float, float]:
    """Return |log(kept / target)| and its derivative; below the budget it opens gates again."""
    if kept == target:
        return 0.0, 0.0
    return abs(math.log(kept / target)), math.copysign(1 / kept, kept - target)


def distance(kept: float, target: float) -> tuple[float, float]:
    """Return log(1 + |kept - target|) and its derivative, which is 1 near the budget.

    Form of the authors' code that is commented out in favor of the others.
    """
    if kept == target:
        return 0.0, 0.0
    difference = abs(kept - target)
    return math.log1p(difference), math.copysign(1 / (1 + difference), kept - target)


COST_REGULARIZERS: dict[str, CostRegularizer] = {
    "one_sided": one_sided,
    "two_sided": two_sided,
    "distance": distance,
}
"""Value of `compress.hsn.cost_regularizer` -> the function."""


MIN_FACTOR = 0.1
MAX_FACTOR = 10.0


class LayerScaling:
    """One factor alpha per layer, learned by hyper-gradient descent.

    A budget of multiply-adds presses hardest on layers with large feature maps, the early ones. So
    the gradient of the head of layer l is

        G_l = alpha_l * gL_l + gR_l     gL: of the loss; gR: of the weighted cost regularizer

    A step along alpha_l changes the objective by -<gL_l + gR_l, previous gL_l> times the step size
    of the head, which gives the update

        alpha_l <- clip(alpha_l + lr * cosine(gL_l + gR_l, previous gL_l), 0.1, 10)

    The paper says that there are such factors and that hyper-gradients move them. Which gradient
    they multiply is read from the authors' later code; the update is ours. The cosine lets a single
    learning rate suit all layers, whose plain inner products differ by orders of magnitude.

    Args:
        layer_of_row: (rows,) index of the layer of each row of the heads.
        mode: `loss` as above; `cost`: alpha multiplies gR instead; `none`: alpha is always 1.
        lr: Step size of the factors.

    Reference:
        Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent, ICLR 2018.
    """

    def __init__(self, layer_of_row: Tensor, mode: str, lr: float) -> None:
        self._layer_of_row = layer_of_row
        self._mode = mode
        self._lr = lr
        self.factors = torch.ones(int(layer_of_row.max()) + 1)
        """Alpha of each layer."""
        self._previous: Tensor | None = None
        """Gradient of the last step that the factors multiply, before the multiplication."""

    def combine(self, loss_gradient: Tensor, cost_gradient: Tensor) -> Tensor:
        """Update the factors and return the gradient for the heads.

        Args:
            loss_gradient: (rows, n) gradient of the loss on each row of the heads.
            cost_gradient: (rows, n) gradient of the weighted cost regularizer.
        """
        if self._mode == "none":
            return loss_gradient + cost_gradient
        if self._mode == "loss":
            scaled = loss_gradient
            unscaled = cost_gradient
        else:
            scaled = cost_gradient
            unscaled = loss_gradient
        # There is nothing to compare with in the first step; the factors start at 1.
        if self._previous is not None:
            total = loss_gradient + cost_gradient
            product = self._layer_sum(total * self._previous)
            norms = self._layer_norm(total) * self._layer_norm(self._previous)
            # A cosine of 0 if either gradient is 0.
            cosine = product / norms.clamp_min(torch.finfo(product.dtype).tiny)
            agreement = cosine.clamp(-1, 1)
            self.factors = (self.factors + self._lr * agreement).clamp(MIN_FACTOR, MAX_FACTOR)
        # Without the factor: its derivative is what multiplied it.
        self._previous = scaled.clone()
        return self.factors[self._layer_of_row][:, None] * scaled + unscaled

    def _layer_sum(self, values: Tensor) -> Tensor:
        # Over all entries of a head, that is, of the rows of its layer.
        return torch.zeros_like(self.factors).index_add_(0, self._layer_of_row, values.sum(1))

    def _layer_norm(self, values: Tensor) -> Tensor:
        # The root of each sum, not of their product, which is 0 in float32 for gradients of 1e-12.
        return self._layer_sum(values * values).sqrt()

    def state_dict(self) -> StateTree:
        """Return the factors and the gradient of the last step."""
        return {"factors": self.factors, "previous": self._previous}

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self.factors = state["factors"].clone()
        self._previous = None if state["previous"] is None else state["previous"].clone()
