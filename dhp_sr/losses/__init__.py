"""Losses for images and for class scores, by their names in option files.

Shape suffixes: N images, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dhp_sr.utils.errors import UserError, unknown_name

CHARBONNIER_EPSILON = 1e-12
"""Added under the root; BasicSR's value."""


def charbonnier(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(difference^2 + 1e-12), an L1 distance that is smooth at zero.

    Reference:
        Lai et al., Deep Laplacian Pyramid Networks for Fast and Accurate Super-Resolution, CVPR
        2017, equation 2.
    """
    # The root of zero has an infinite gradient.
    return torch.sqrt((prediction - target).square() + CHARBONNIER_EPSILON).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "L1Loss": functional.l1_loss,
    "MSELoss": functional.mse_loss,
    "CharbonnierLoss": charbonnier,
}
"""`train.pixel_opt.type` -> mean distance of two tensors of the same shape."""

CLASS_LOSSES = ("CrossEntropyLoss",)
"""Values of `train.cls_opt.type`."""


class PixelLoss(nn.Module):
    """Weighted mean distance over all pixels, channels and images.

    Args:
        distance: Mean distance of two tensors of the same shape.
        loss_weight: Factor on it.
    """

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], loss_weight: float) -> None:
        super().__init__()
        self.distance = distance  # a function: the loss has no state to save
        self.loss_weight = loss_weight

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar, of two tensors of the same shape.

        Raises:
            UserError: The shapes differ.
        """
        # They would be broadcast, and the loss would mean nothing.
        if prediction.shape != target.shape:
            raise UserError(
                f"expected a prediction of the target's shape {tuple(target.shape)}, "
                f"got {tuple(prediction.shape)}; check the scale of network and data"
            )
        return self.loss_weight * self.distance(prediction, target)


class ClassLoss(nn.Module):
    """Weighted cross-entropy, mean over a batch.

    Args:
        loss_weight: Factor on the loss.
        label_smoothing: Probability that is spread evenly over all classes, in [0, 1).

    Reference:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016,
        section 7.
    """

    def __init__(self, loss_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.label_smoothing = label_smoothing

    def forward(self, scores_NK: Tensor, label_N: Tensor) -> Tensor:
        """Loss, a scalar, of scores before softmax and the true classes.

        Raises:
            UserError: There is not a row of scores for each label.
        """
        if scores_NK.dim() != 2 or len(scores_NK) != len(label_N):
            raise UserError(
                f"expected scores of shape ({len(label_N)}, classes), "
                f"got {tuple(scores_NK.shape)}; is the network a classifier?"
            )
        # Checked above, since scores of images would be taken for many classes per pixel.
        loss = functional.cross_entropy(scores_NK, label_N, label_smoothing=self.label_smoothing)
        return self.loss_weight * loss


def build_loss(type: str, loss_weight: float = 1.0) -> PixelLoss:
    """Construct the loss of images called `type`.

    Args:
        type: Key of `LOSSES`.
        loss_weight: Factor on the loss.

    Returns:
        Module that maps (prediction, target) to a scalar.

    Raises:
        UserError: The type is unknown.
    """
    # Option files are checked before, BasicSR's own registry calls this directly.
    if type not in LOSSES:
        raise UserError(unknown_name("loss type", type, LOSSES))
    return PixelLoss(LOSSES[type], loss_weight)


def build_class_loss(
    type: str, loss_weight: float = 1.0, label_smoothing: float = 0.0
) -> ClassLoss:
    """Construct the loss of class scores called `type`, of `CLASS_LOSSES`.

    Raises:
        UserError: The type is unknown.
    """
    if type not in CLASS_LOSSES:
        raise UserError(unknown_name("loss type", type, CLASS_LOSSES))
    return ClassLoss(loss_weight, label_smoothing)


def kd_loss(scores_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """Knowledge distillation: T^2 KL(teacher || network) at temperature T, mean over a batch.

    Args:
        scores_NK: Scores of the network before softmax.
        teacher_NK: Scores of the teacher before softmax.
        temperature: T, above 0; scores are divided by it.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2. The factor
        T^2 keeps the size of the gradients when T changes.
    """
    # Log-probabilities of both, which is stable where a probability is nearly 0.
    log_probs_NK = functional.log_softmax(scores_NK / temperature, dim=1)
    teacher_log_probs_NK = functional.log_softmax(teacher_NK / temperature, dim=1)
    divergence = functional.kl_div(
        log_probs_NK, teacher_log_probs_NK, reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence
