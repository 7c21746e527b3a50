"""Order of the channels of a group by OBS: the channel goes first whose loss the others make up for best.

Removing the features J of a channel from a layer y = W x, and re-solving W for those that stay, adds

    tr( W_J [H^-1_JJ]^-1 W_J^T )        with H the covariance of x

to the layer's squared error. After each removal W and H^-1 are updated, so that a channel which two
others could replace is cheap only as long as one of these stays.

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
        # Only the group's own features are ever removed, so only their block has to be updated: a
        # Schur complement of the inverse covariance is the inverse's own block.
        own = torch.cat(self._features)
        inverse = torch.linalg.inv(layer.covariance_FF)
        self._inverse = inverse[own][:, own]
        self._weight_OF = layer.weight_OF[:, own].clone()
        starts = torch.tensor([0, *(len(features) for features in self._features)]).cumsum(0)
        self._slices = [slice(int(a), int(b)) for a, b in zip(starts, starts[1:], strict=False)]

    def errors(self, channels: Sequence[int]) -> Tensor:
        """Relative errors (channels,) that the layer would gain by losing each of some channels."""
        errors = []
        for channel in channels:
            at = self._slices[channel]
            block, weight = self._inverse[at, at], self._weight_OF[:, at]
            if weight.shape[1] == 0:
                errors.append(torch.zeros((), dtype=torch.float64))
                continue
            errors.append((weight * torch.linalg.solve(block, weight.T).T).sum())
        return torch.stack(errors) / self._scale

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
