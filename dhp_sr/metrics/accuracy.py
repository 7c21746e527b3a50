"""How often a classifier is right: top-1, top-5."""

import torch
from torch import Tensor


def hits(scores_NK: Tensor, label_N: Tensor, k: int = 1) -> int:
    """Return how many images have their class among the `k` highest scores.

    Equal scores rank in the order of their classes. An image whose scores are not all finite is no hit.

    Args:
        scores_NK: One score for each image and class.
        label_N: The true classes, int64, from 0 to K - 1.
        k: How many classes are allowed; with fewer classes than `k`, every image with finite scores is a hit.

    Raises:
        ValueError: shapes do not fit, or a label is out of range.
    """
    if scores_NK.dim() != 2 or label_N.shape != scores_NK.shape[:1] or k < 1:
        shapes = f"{tuple(scores_NK.shape)} and {tuple(label_N.shape)}, k={k}"
        raise ValueError(f"expected scores (N, K), labels (N,) and k of at least 1, found {shapes}")
    if len(label_N) and not 0 <= int(label_N.min()) <= int(label_N.max()) < scores_NK.shape[1]:
        found = f"{int(label_N.min())} to {int(label_N.max())}"
        raise ValueError(f"expected labels from 0 to {scores_NK.shape[1] - 1}, found {found}")
    own = scores_NK.gather(1, label_N[:, None])
    place = torch.arange(scores_NK.shape[1], device=scores_NK.device)
    ahead = (scores_NK > own) | ((scores_NK == own) & (place < label_N[:, None]))
    return int(((ahead.sum(1) < k) & scores_NK.isfinite().all(1)).sum())


def error_percent(scores_NK: Tensor, label_N: Tensor, k: int = 1) -> float:
    """Return the top-k error: 100 minus the percentage of hits; see `hits`."""
    if not len(label_N):
        raise ValueError("expected at least one image, found none")
    return 100 * (1 - hits(scores_NK, label_N, k) / len(label_N))
