"""What a network is worth and what it costs: PSNR, SSIM, error of classes, multiply-adds, parameters, time."""

from .accuracy import error_percent, hits
from .complexity import Complexity, complexity
from .latency import Latency, latencies, latency, latency_ratio
from .modes import evaluating
from .psnr_ssim import psnr_db, ssim, to_uint8

__all__ = [
    "Complexity",
    "Latency",
    "complexity",
    "error_percent",
    "evaluating",
    "hits",
    "latencies",
    "latency",
    "latency_ratio",
    "psnr_db",
    "ssim",
    "to_uint8",
]
