"""Training losses."""

from dhp_sr.losses.classes import CLASS_LOSSES, ClassLoss, build_class_loss, softened_distance
from dhp_sr.losses.pixel import LOSSES, PixelLoss, build_loss

__all__ = [
    "CLASS_LOSSES",
    "LOSSES",
    "ClassLoss",
    "PixelLoss",
    "build_class_loss",
    "build_loss",
    "softened_distance",
]
