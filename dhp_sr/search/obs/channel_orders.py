"""Orders of the channels within each group, by different scores, behind one interface.

`obs` asks what the layers that read a channel lose once they are re-solved without it; the other
scores look at the network as it is. All of them feed the same database and the same search of the
widths, so that they can be compared with nothing else changed.

References:
    Optimal Brain Surgeon: see `elimination`.
    Fisher: Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018, and
        Liu et al., Group Fisher Pruning, ICML 2021, for channels that are pruned together.
    Taylor: Molchanov et al., ICLR 2017, the mean of |z dL/dz|.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dhp_sr.hyper import HyperNet
from dhp_sr.search.baselines import weight_norms
from dhp_sr.search.obs.elimination import elimination_order
from dhp_sr.search.obs.statistics import LayerStatistics


@dataclass(frozen=True)
class OrderInputs:
    """What an order may be made of."""

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
    output = hyper(batch)
    signs = torch.randint(2, output.shape, generator=generator) * 2.0 - 1.0
    projection = (output * signs.to(output)).sum()
    gradients = torch.autograd.grad(projection, latents, allow_unused=True)
    terms = []
    for latent, gradient in zip(latents, gradients, strict=True):
        # A group that nothing reads has no gradient: nothing is lost with it.
        term = torch.zeros_like(latent) if gradient is None else gradient * latent
        terms.append(term.detach().double().cpu())
    return torch.cat(terms)
