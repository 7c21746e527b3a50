"""Quality and cost of networks: PSNR, SSIM, classification error; multiply-adds, latency.

Start with `psnr_ssim.py` for scores and `complexity.py` for costs. Costs are counted here
independently of the engine, so that each can be tested against the other.
"""

from dhp_sr.metrics.accuracy import error_percent, num_correct
from dhp_sr.metrics.complexity import Complexity, complexity
from dhp_sr.metrics.latency import Latency, latencies, latency, latency_ratio
from dhp_sr.metrics.psnr_ssim import psnr_db, ssim, to_uint8

__all__ = [
    "Complexity",
    "Latency",
    "complexity",
    "error_percent",
    "latencies",
    "latency",
    "latency_ratio",
    "num_correct",
    "psnr_db",
    "ssim",
    "to_uint8",
]
