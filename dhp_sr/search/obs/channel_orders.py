"""Orders of the channels within each group, by different scores, behind one interface.

`obs` asks what the layers that read a channel lose once they are re-solved without it; the other
scores look at the network as it is. All of them feed the same database and the same search of the
widths, so that they can be compared with nothing else changed.

References:
    Optimal Brain Surgeon (Hassibi and Stork, 1992); OBC (Frantar and Alistarh, NeurIPS 2022) and
        ZipLM (Kurtic et al., NeurIPS 2023) for whole structures, OSSCAR (Meng et al., ICML 2024).
    Fisher: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018, and
        Liu et al., Group Fisher Pruning, ICML 2021, for channels that are pruned together.
    Taylor: Molchanov et al., ICLR 2017, the mean of |z dL/dz|.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import Group
from dhp_sr.hyper import HyperNet
from dhp_sr.search.baselines import weight_norms
from dhp_sr.search.obs.statistics import LayerStatistics
from dhp_sr.utils.network_io import tensors_of, with_further_inputs


@dataclass(frozen=True)
class OrderInputs:
    """Material that an order may be made of."""

    hyper: HyperNet
    layers: Sequence[LayerStatistics]
    """Statistics of the layers that read prunable channels."""
    batches: Sequence[Tensor]
    """The inputs that these statistics are of."""
    seed: int


ChannelOrder = Callable[[OrderInputs], list[Tensor]]
"""Returns for every prunable group its channels, (width,), the most valuable first."""


def by_elimination(inputs: OrderInputs) -> list[Tensor]:
    """Order by Optimal Brain Surgeon, one channel after the other."""
    plan = inputs.hyper.plan
    return [elimination_order(group, inputs.layers, plan.size) for group in plan.prunable]


def by_fisher(inputs: OrderInputs) -> list[Tensor]:
    """Order by the mean of (z dy/dz)^2, summed over the output y."""
    return _by_scores(inputs.hyper, _output_sensitivity(inputs).square().sum(0))


def by_taylor(inputs: OrderInputs) -> list[Tensor]:
    """Order by the mean of |z dL/dz|, where L weighs all outputs alike."""
    return _by_scores(inputs.hyper, _output_sensitivity(inputs).abs().sum(0))


def by_magnitude(inputs: OrderInputs) -> list[Tensor]:
    """Order by the L1 norm of the weights that produce a channel."""
    return _by_scores(inputs.hyper, weight_norms(inputs.hyper))


def by_chance(inputs: OrderInputs) -> list[Tensor]:
    """Order at random."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return _by_scores(inputs.hyper, torch.rand(inputs.hyper.plan.size, generator=generator))


CHANNEL_ORDERS: dict[str, ChannelOrder] = {
    "obs": by_elimination,
    "fisher": by_fisher,
    "taylor": by_taylor,
    "magnitude": by_magnitude,
    "random": by_chance,
}
"""Name in the option file -> order."""


def _by_scores(hyper: HyperNet, scores: Tensor) -> list[Tensor]:
    orders = []
    for group in hyper.plan.prunable:
        of_group = scores[group.start : group.start + group.width]
        orders.append(of_group.argsort(descending=True, stable=True))
    return orders


def _output_sensitivity(inputs: OrderInputs) -> Tensor:
    """Return r . z dy/dz with random signs r for every batch, (batches, plan.size).

    The dense network is its own target, so the gradient of a distance from it is zero. The signs
    take its place: the mean over them of (r . dy/dz)^2 is the sum of (dy/dz)^2 over all outputs,
    Hutchinson's estimate of the diagonal of the Fisher information of outputs with equal noise.
    """
    generator = torch.Generator().manual_seed(inputs.seed)
    with _dense(inputs.hyper) as latents, torch.enable_grad():
        rows = [_terms(inputs.hyper, latents, batch, generator) for batch in inputs.batches]
    return torch.stack(rows)


@contextmanager
def _dense(hyper: HyperNet) -> Iterator[list[nn.Parameter]]:
    """Unmask a network for a moment; yields its latents, which may be differentiated."""
    latents = [hyper.latents[group.name] for group in hyper.plan.prunable]
    needed_gradient = [latent.requires_grad for latent in latents]
    mask = hyper.mask.clone()
    hyper.mask.fill_(True)
    for latent in latents:
        latent.requires_grad_(True)
    try:
        yield latents
    finally:
        hyper.mask.copy_(mask)
        for latent, needed in zip(latents, needed_gradient, strict=True):
            latent.requires_grad_(needed)


def _terms(
    hyper: HyperNet, latents: list[nn.Parameter], batch: Tensor, generator: torch.Generator
) -> Tensor:
    """Return r . z dy/dz for a batch, (plan.size,), float64, on the CPU."""
    outputs = hyper(*with_further_inputs(batch, hyper.plan.further_inputs))
    projection = torch.zeros(())
    for _, output in tensors_of(outputs):
        if output.requires_grad:
            signs = torch.randint(2, output.shape, generator=generator) * 2.0 - 1.0
            projection = projection + (output * signs.to(output)).sum()
    gradients = torch.autograd.grad(projection, latents, allow_unused=True)
    terms = []
    for latent, gradient in zip(latents, gradients, strict=True):
        # A group that nothing reads has no gradient: nothing is lost with it.
        term = torch.zeros_like(latent) if gradient is None else gradient * latent
        terms.append(term.detach().double().cpu())
    return torch.cat(terms)


def elimination_order(group: Group, layers: Sequence[LayerStatistics], plan_size: int) -> Tensor:
    """Order the channels of a group: first goes the one whose loss the others make up for best.

    Removing its features J from a layer y = W x, and re-solving W for those that stay, adds

        tr( W_J [H^-1_JJ]^-1 W_J^T )        with H the covariance of x

    to the layer's squared error. J are the inputs that the layer reads of a channel, as many as its
    kernel has taps. After each removal

        W <- W - W_J [H^-1_JJ]^-1 H^-1_J:         H^-1 <- H^-1 - H^-1_:J [H^-1_JJ]^-1 H^-1_J:

    re-solve the layer for the inputs that stay, so that of two channels which can replace each
    other only the first is cheap.

    Errors of the layers that read the group are summed, each relative to its output's variance.

    Args:
        group: A prunable group.
        layers: Statistics of all layers; those that do not read the group are passed over.
        plan_size: Length of the flat vector of prunable channels.

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
        # For each channel of the group, its features in this layer; none where it is not read.
        features_of_channel: list[Tensor] = []
        for flat_channel in range(group.start, group.start + group.width):
            in_channels = (layer.channel_index == flat_channel).nonzero().flatten()
            features_of_channel.append(layer.features_of(in_channels))
        self.reads_group = any(len(features) > 0 for features in features_of_channel)
        if not self.reads_group:
            return
        self._scale = max(layer.output_variance, torch.finfo(torch.float64).tiny)
        # Other groups that the layer reads keep all their features here. Their rows of the inverse
        # never enter an error of this group, so the group's block is all that has to be updated.
        features_of_group = torch.cat(features_of_channel)
        # Inverted once, with all groups: every removal then updates the inverse instead.
        inverse = torch.linalg.inv(layer.covariance_FF)
        self._inverse = inverse[features_of_group][:, features_of_group]
        self._weight_OF = layer.weight_OF[:, features_of_group].clone()
        self._slices: list[slice] = []
        """For each channel of the group, its features J within the group's."""
        start = 0
        for features in features_of_channel:
            self._slices.append(slice(start, start + len(features)))
            start += len(features)

    def errors(self, channels: Sequence[int]) -> Tensor:
        """Relative errors (channels,) that the layer would gain by losing each of some channels."""
        slices = [self._slices[channel] for channel in channels]
        sizes = {features.stop - features.start for features in slices}
        if len(sizes) == 1:
            # The usual case, every channel has as many features: a batch of small systems.
            starts = torch.tensor([features.start for features in slices])
            features_CJ = starts[:, None] + torch.arange(sizes.pop())
            return self._block_errors(features_CJ) / self._scale
        errors = torch.zeros(len(channels), dtype=torch.float64)
        for position, features in enumerate(slices):
            features_CJ = torch.arange(features.start, features.stop)[None]
            errors[position] = self._block_errors(features_CJ).sum()
        return errors / self._scale

    def _block_errors(self, features_CJ: Tensor) -> Tensor:
        """tr(W_J [H^-1_JJ]^-1 W_J^T) for several sets of features J, shape (C, J) -> (C,)."""
        blocks_CJJ = self._inverse[features_CJ[:, :, None], features_CJ[:, None, :]]
        weights_CJO = self._weight_OF[:, features_CJ].permute(1, 2, 0)
        return (weights_CJO * torch.linalg.solve(blocks_CJJ, weights_CJO)).sum((1, 2))

    def remove(self, channel: int) -> None:
        """Remove a channel and re-solve the layer for what stays."""
        features = self._slices[channel]  # J
        size = features.stop - features.start
        if size == 0:
            return
        # [H^-1_JJ]^-1 H^-1_J:
        correction = torch.linalg.solve(self._inverse[features, features], self._inverse[features])
        self._weight_OF -= self._weight_OF[:, features] @ correction
        self._inverse -= self._inverse[:, features].clone() @ correction
        # Zero but for rounding already; exactly zero, so that later removals leave them alone. The
        # block itself has to stay invertible.
        self._inverse[features] = 0
        self._inverse[:, features] = 0
        self._inverse[features, features] = torch.eye(size, dtype=torch.float64)
