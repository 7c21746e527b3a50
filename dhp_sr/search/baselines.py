"""Baselines: ways to choose the channels that take no account of the loss. A search must beat them.

All meet the same budget as a search. `uniform`, `random` and `prior_widths` fix the masks before
training; `magnitude` prunes once, at the end of the search phase.
"""

from typing import final

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import DHPSettings, Search, SearchSettings
from dhp_sr.search.width_prior import width_prior


@final
class Uniform(Search):
    """The same fraction of every group; its first channels are kept."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        self.finish()

    def scores(self) -> Tensor:
        """Return 1 - rank / width: any common threshold cuts the same fraction of all groups."""
        groups = self.hyper.plan.prunable
        return torch.cat([1 - torch.arange(group.width) / group.width for group in groups])


@final
class Random(Search):
    """Random widths and random channels."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        generator = torch.Generator().manual_seed(settings.seed)
        scores = []
        for group in hyper.plan.prunable:
            # Uniform scores alone would keep about the same fraction of every group. An exponent
            # for each group, log-uniform in [1/4, 4], makes the widths random as well.
            exponent = 4 ** (2 * torch.rand((), generator=generator) - 1)
            scores.append(torch.rand(group.width, generator=generator) ** exponent)
        self._scores = torch.cat(scores)
        self.finish()

    def scores(self) -> Tensor:
        """Return the sampled scores."""
        return self._scores


@final
class Magnitude(Search):
    """One-shot pruning by the L1 norm of the weights, after dense and search phase trained them.

    Reference:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
    """

    def scores(self) -> Tensor:
        """Return `weight_norms` of the network."""
        return weight_norms(self.hyper)


@final
class PriorWidths(Search):
    """Every group at the width that the default search aims for; its first channels are kept.

    Args:
        hyper: The network.
        settings: Budget, and `DHPSettings` as its `method_options`; length and seed have no effect.
    """

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        cost_exponent = DHPSettings(**settings.method_options).cost_exponent
        self._width_prior = width_prior(hyper, settings.budget, cost_exponent)
        self.finish()

    def scores(self) -> Tensor:
        """Return 1 - rank / prior width: all groups reach their prior widths at threshold 0."""
        scores = []
        for group in self.hyper.plan.prunable:
            prior_width = self._width_prior[group.name] * group.width
            scores.append(1 - torch.arange(group.width) / prior_width)
        return torch.cat(scores)


@torch.no_grad()
def weight_norms(hyper: HyperNet) -> Tensor:
    """Return the mean L1 norm of the weights that produce a channel, relative to its layer.

    Args:
        hyper: The network, with its present weights.

    Returns:
        (plan.size,), comparable between groups.
    """
    plan = hyper.plan
    # The last entry collects what belongs to no prunable group.
    sums = torch.zeros(plan.size + 1)
    counts = torch.zeros(plan.size + 1)
    # A fixed kernel is a buffer; it produces channels all the same.
    weights = {**dict(hyper.network.named_buffers()), **hyper.generate()}
    output_axis = {layer.weight: layer.out_dim for layer in plan.layers}
    for axis in plan.axes:
        if output_axis.get(axis.tensor) != axis.dim:
            continue
        weight = weights[axis.tensor].detach().float().cpu().abs()
        norms = weight.transpose(0, axis.dim).flatten(1).mean(1)
        # A layer of zeros, as the last of a branch may begin, tells nothing about its channels.
        if not norms.any():
            continue
        # Layers differ in scale, and several may produce the channels of a group.
        sums.index_add_(0, axis.index, norms / norms.mean())
        counts.index_add_(0, axis.index, torch.ones(len(axis.index)))
    return (sums / counts.clamp_min(1))[: plan.size]
