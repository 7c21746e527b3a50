"""Losses that compare two images pixel by pixel."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

CHARBONNIER_EPSILON = 1e-12  # BasicSR's; added under the root


def charbonnier(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of sqrt(difference^2 + 1e-12), an L1 distance that is smooth at zero.

    Reference:
        Lai et al., Deep Laplacian Pyramid Networks for Fast and Accurate Super-Resolution, CVPR 2017, equation 2.
    """
    return torch.sqrt((prediction - target).square() + CHARBONNIER_EPSILON).mean()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "L1Loss": functional.l1_loss,
    "MSELoss": functional.mse_loss,
    "CharbonnierLoss": charbonnier,
}
"""Name in option files -> mean distance of two tensors of the same shape."""


class PixelLoss(nn.Module):
    """loss_weight times a mean distance over all pixels, channels and images."""

    def __init__(
        self, distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], loss_weight: float
    ) -> None:
        super().__init__()
        self.distance = distance
        self.loss_weight = loss_weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of two tensors of the same shape.

        Raises:
            UserError: the shapes differ (they would be broadcast, and the loss would mean nothing).
        """
        if prediction.shape != target.shape:
            raise UserError(
                f"expected a prediction of the target's shape {tuple(target.shape)}, found {tuple(prediction.shape)}; "
                "check the scale of network and data"
            )
        return self.loss_weight * self.distance(prediction, target)


def build_loss(type: str, loss_weight: float = 1.0) -> PixelLoss:
    """Make the loss called `type`.

    Args:
        type: `L1Loss`, `MSELoss` or `CharbonnierLoss`.
        loss_weight: Factor on the loss.

    Returns:
        A module that maps (prediction, target) to a scalar.

    Raises:
        UserError: the type is unknown.
    """
    if type not in LOSSES:
        raise UserError(
            f"loss type {type!r} is unknown{nearest(type, LOSSES)}; known: {', '.join(LOSSES)}"
        )
    return PixelLoss(LOSSES[type], loss_weight)
