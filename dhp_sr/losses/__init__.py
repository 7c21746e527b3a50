"""Training losses."""

from .pixel import LOSSES, PixelLoss, build_loss

__all__ = ["LOSSES", "PixelLoss", "build_loss"]
