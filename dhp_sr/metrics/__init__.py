"""What a network is worth and what it costs: PSNR, SSIM, multiply-adds, parameters, time."""

from .complexity import Complexity, complexity
from .latency import Latency, latencies, latency, latency_ratio
from .modes import evaluating
from .psnr_ssim import psnr_db, ssim, to_uint8

__all__ = [
    "Complexity",
    "Latency",
    "complexity",
    "evaluating",
    "latencies",
    "latency",
    "latency_ratio",
    "psnr_db",
    "ssim",
    "to_uint8",
]
