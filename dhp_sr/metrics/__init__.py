"""Quality and cost of networks: PSNR, SSIM, correct classes; multiply-adds, latency.

Start with `scores.py` for scores and `complexity.py` for costs. Costs are counted here
independently of the engine, so that each can be tested against the other.
"""

from dhp_sr.metrics.complexity import Complexity, complexity
from dhp_sr.metrics.latency import Latency, latencies
from dhp_sr.metrics.scores import num_correct, psnr_db, ssim, to_uint8

__all__ = [
    "Complexity",
    "Latency",
    "complexity",
    "latencies",
    "num_correct",
    "psnr_db",
    "ssim",
    "to_uint8",
]
