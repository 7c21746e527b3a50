"""What a network is worth and what it costs: PSNR, SSIM, error of classes, multiply-adds, parameters, time."""

from dhp_sr.metrics.accuracy import error_percent, hits
from dhp_sr.metrics.complexity import Complexity, complexity
from dhp_sr.metrics.latency import Latency, latencies, latency, latency_ratio
from dhp_sr.metrics.psnr_ssim import psnr_db, ssim, to_uint8

__all__ = [
    "Complexity",
    "Latency",
    "complexity",
    "error_percent",
    "hits",
    "latencies",
    "latency",
    "latency_ratio",
    "psnr_db",
    "ssim",
    "to_uint8",
]
