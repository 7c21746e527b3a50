"""Training losses, see `losses.py`."""

from dhp_sr.losses.losses import (
    CLASS_LOSSES,
    LOSSES,
    ClassLoss,
    PixelLoss,
    build_class_loss,
    build_loss,
    kd_loss,
)

__all__ = [
    "CLASS_LOSSES",
    "LOSSES",
    "ClassLoss",
    "PixelLoss",
    "build_class_loss",
    "build_loss",
    "kd_loss",
]
