"""Losses of networks that name images."""

import torch
from torch import nn
from torch.nn import functional

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

CLASS_LOSSES = ("CrossEntropyLoss",)


class ClassLoss(nn.Module):
    """loss_weight times the cross-entropy, the mean over a batch.

    Args:
        loss_weight: Factor on the loss.
        label_smoothing: Part of the truth that is spread evenly over all classes, in [0, 1).

    Reference:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 7.
    """

    def __init__(self, loss_weight: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.loss_weight, self.label_smoothing = loss_weight, label_smoothing

    def forward(self, scores_NK: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of scores before softmax and the numbers of the true classes.

        Raises:
            UserError: the scores are not one row for each label.
        """
        if scores_NK.dim() != 2 or len(scores_NK) != len(label_N):
            raise UserError(
                f"expected scores of shape ({len(label_N)}, classes), found {tuple(scores_NK.shape)}; is the network "
                "one for classification?"
            )
        return self.loss_weight * functional.cross_entropy(
            scores_NK, label_N, label_smoothing=self.label_smoothing
        )


def build_class_loss(
    type: str, loss_weight: float = 1.0, label_smoothing: float = 0.0
) -> ClassLoss:
    """Make the loss called `type`: `CrossEntropyLoss`.

    Raises:
        UserError: the type is unknown.
    """
    if type not in CLASS_LOSSES:
        raise UserError(
            f"loss type {type!r} is unknown{nearest(type, CLASS_LOSSES)}; known: {', '.join(CLASS_LOSSES)}"
        )
    return ClassLoss(loss_weight, label_smoothing)


def softened_distance(
    scores_NK: torch.Tensor, teacher_NK: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return T^2 KL(teacher || network), both softened by the temperature T, the mean over a batch.

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2; the square keeps the gradients'
        size when T changes.
    """
    mine, others = (
        functional.log_softmax(scores / temperature, dim=1) for scores in (scores_NK, teacher_NK)
    )
    return temperature**2 * functional.kl_div(mine, others, reduction="batchmean", log_target=True)
