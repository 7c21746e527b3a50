"""Top-k accuracy of classifiers.

Shape suffixes: N images, K classes.
"""

import torch
from torch import Tensor


def num_correct(scores_NK: Tensor, label_N: Tensor, k: int = 1) -> int:
    """Count the images whose class is among the `k` highest scores.

    Equal scores rank in the order of their classes. An image with a score that is not finite
    counts as wrong.

    Args:
        scores_NK: a score for each image and class.
        label_N: true classes, int64, from 0 to K - 1.
        k: number of classes allowed; where there are fewer, every image with finite scores counts.

    Raises:
        ValueError: shapes do not fit, or a label is out of range.
    """
    if scores_NK.dim() != 2 or label_N.shape != scores_NK.shape[:1] or k < 1:
        shapes = f"{tuple(scores_NK.shape)} and {tuple(label_N.shape)}, k={k}"
        raise ValueError(f"expected scores (N, K), labels (N,) and k of at least 1, got {shapes}")
    num_classes = scores_NK.shape[1]
    if len(label_N):
        lowest = int(label_N.min())
        highest = int(label_N.max())
        if lowest < 0 or highest >= num_classes:
            got = f"{lowest} to {highest}"
            raise ValueError(f"expected labels from 0 to {num_classes - 1}, got {got}")
    # Not torch.topk: its order of equal scores depends on the device.
    score_N1 = scores_NK.gather(1, label_N[:, None])
    class_K = torch.arange(num_classes, device=scores_NK.device)
    is_ahead_NK = (scores_NK == score_N1) & (class_K < label_N[:, None])
    rank_N = ((scores_NK > score_N1) | is_ahead_NK).sum(1)
    is_finite_N = scores_NK.isfinite().all(1)
    return int(((rank_N < k) & is_finite_N).sum())


def error_percent(scores_NK: Tensor, label_N: Tensor, k: int = 1) -> float:
    """Top-k error: 100 minus the percentage of correct predictions, see `num_correct`.

    Raises:
        ValueError: there are no images, or see `num_correct`.
    """
    if not len(label_N):
        raise ValueError("expected at least one image, got none")
    return 100 * (1 - num_correct(scores_NK, label_N, k) / len(label_N))
