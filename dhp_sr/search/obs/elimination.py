"""Order of the channels of a group by Optimal Brain Surgeon (OBS).

The channel is removed first whose loss the others make up for best. Removing its features J from a
layer y = W x, and re-solving W for those that stay, adds

    tr( W_J [H^-1_JJ]^-1 W_J^T )        with H the covariance of x

to the layer's squared error. After each removal W and H^-1 are updated, so that a channel which two
others could replace is cheap only while another of these stays.

References:
    Optimal Brain Surgeon (Hassibi and Stork, 1992); OBC (Frantar and Alistarh, NeurIPS 2022) and
    ZipLM (Kurtic et al., NeurIPS 2023) for whole structures, OSSCAR (Meng et al., ICML 2024).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dhp_sr.channels.plan import Group
from dhp_sr.search.obs.statistics import LayerStatistics


def elimination_order(group: Group, layers: Sequence[LayerStatistics], plan_size: int) -> Tensor:
    """Order the channels of a group.

    Errors of the layers that read the group are summed, each relative to its output's variance.

    Args:
        group: a prunable group.
        layers: statistics of all layers; those that do not read the group are passed over.
        plan_size: length of the flat vector of prunable channels.

    Returns:
        (group.width,) channels of the group, the most valuable first; unchanged order if no layer
        with statistics reads them.
    """
    eliminations = []
    for layer in layers:
        elimination = _LayerElimination(layer, group, plan_size)
        if elimination.reads_group:
            eliminations.append(elimination)
    if not eliminations:
        return torch.arange(group.width)
    # The last channel is never removed: a group of width 0 does not exist.
    left = list(range(group.width))
    removed = []
    while len(left) > 1:
        errors = torch.stack([elimination.errors(left) for elimination in eliminations]).sum(0)
        channel = left.pop(int(errors.argmin()))
        removed.append(channel)
        for elimination in eliminations:
            elimination.remove(channel)
    return torch.tensor([*left, *reversed(removed)])


class _LayerElimination:
    """Weight and inverse covariance of one layer while channels of a group are removed."""

    def __init__(self, layer: LayerStatistics, group: Group, plan_size: int) -> None:
        self._features: list[Tensor] = []
        """For each channel of the group, its features in this layer."""
        for channel in range(group.start, group.start + group.width):
            channels = (layer.channel_index == channel).nonzero().flatten()
            self._features.append(layer.features_of(channels))
        self.reads_group = any(len(features) > 0 for features in self._features)
        if not self.reads_group:
            return
        self._scale = max(layer.output_variance, torch.finfo(torch.float64).tiny)
        # Other groups that the layer reads keep all their features here. Their rows of the inverse
        # never enter an error of this group, so the group's block is all that has to be updated.
        features = torch.cat(self._features)
        # Inverted once: every removal then updates the inverse instead.
        inverse = torch.linalg.inv(layer.covariance_FF)
        self._inverse = inverse[features][:, features]
        self._weight_OF = layer.weight_OF[:, features].clone()
        self._slices: list[slice] = []
        start = 0
        for features in self._features:
            self._slices.append(slice(start, start + len(features)))
            start += len(features)

    def errors(self, channels: Sequence[int]) -> Tensor:
        """Relative errors (channels,) that the layer would gain by losing each of some channels."""
        sizes = {self._slices[channel].stop - self._slices[channel].start for channel in channels}
        if len(sizes) == 1:
            # The usual case, every channel has as many features: a batch of small systems.
            positions = torch.tensor([self._slices[channel].start for channel in channels])
            features_CJ = positions[:, None] + torch.arange(sizes.pop())
            return self._block_errors(features_CJ) / self._scale
        errors = torch.zeros(len(channels), dtype=torch.float64)
        for position, channel in enumerate(channels):
            at = self._slices[channel]
            features_CJ = torch.arange(at.start, at.stop)[None]
            errors[position] = self._block_errors(features_CJ).sum()
        return errors / self._scale

    def _block_errors(self, features_CJ: Tensor) -> Tensor:
        """tr(W_J [H^-1_JJ]^-1 W_J^T) for several sets of features J, shape (C, J) -> (C,)."""
        blocks_CJJ = self._inverse[features_CJ[:, :, None], features_CJ[:, None, :]]
        weights_CJO = self._weight_OF[:, features_CJ].permute(1, 2, 0)
        return (weights_CJO * torch.linalg.solve(blocks_CJJ, weights_CJO)).sum((1, 2))

    def remove(self, channel: int) -> None:
        """Remove a channel and re-solve the layer for what stays."""
        at = self._slices[channel]
        if at.stop == at.start:
            return
        # Rows of the correction: [H^-1_JJ]^-1 H^-1_J:
        correction = torch.linalg.solve(self._inverse[at, at], self._inverse[at])
        self._weight_OF -= self._weight_OF[:, at] @ correction
        self._inverse -= self._inverse[:, at].clone() @ correction
        # What is gone stays gone, and its block stays invertible.
        self._inverse[at] = 0
        self._inverse[:, at] = 0
        size = at.stop - at.start
        self._inverse[at, at] = torch.eye(size, dtype=torch.float64)
