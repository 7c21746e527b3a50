"""Training losses."""

from .classes import CLASS_LOSSES, ClassLoss, build_class_loss, softened_distance
from .pixel import LOSSES, PixelLoss, build_loss

__all__ = ["CLASS_LOSSES", "LOSSES", "ClassLoss", "PixelLoss", "build_class_loss", "build_loss", "softened_distance"]
