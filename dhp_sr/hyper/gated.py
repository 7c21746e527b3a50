"""Weights that stay as they are, and gates on the channels that go into them."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.hyper.hypernet import HyperNet
from dhp_sr.hyper.parametrization import Factored, Parametrization, Scales
from dhp_sr.surgery.cut import relative_difference


class Gated(Parametrization):
    """W = V * z_in: a channel's latent gates it where it is read, and nowhere else.

    Reading is the one place where a gate of 0 still hears the loss: behind a norm and a ReLU, a channel that was zeroed
    where it is made has no slope, and one that is scaled in both places has the slope of z squared, 0 at z = 0. Norms
    and depthwise layers in between work on the open channel; what they make of it is gated where it is read. Masks act
    everywhere, as in the other parametrizations. At z = 1 this is the plain network; with 0/1 latents it is the network
    that is masked by them.

    Args:
        plan: the groups.
        everywhere: (plan.size,) channels whose latents gate all places that masks act on; for those that something else
            than a weight reads.
    """

    def __init__(self, plan: ChannelPlan, everywhere: Tensor | None = None) -> None:
        super().__init__()
        owned = {(axis.tensor, axis.dim) for axis in plan.axes}
        reading = {"transposed conv": 0}
        self._read = {(layer.weight, reading.get(layer.kind, 1)) for layer in plan.layers}
        # a depthwise transposed convolution hands its channels on: it has no axis of channels that it makes
        self._read -= {
            (layer.weight, 0)
            for layer in plan.layers
            if layer.kind == "transposed conv" and (layer.weight, 1) not in owned
        }
        self._everywhere: dict[tuple[str, int], Tensor] = {}
        if everywhere is not None and everywhere.any():
            padded = torch.cat((everywhere, everywhere.new_zeros(1)))
            self._everywhere = {(axis.tensor, axis.dim): padded[axis.index] for axis in plan.axes}

    def forward(
        self, own: Mapping[str, Tensor], scales: Scales, gates: Scales
    ) -> dict[str, Tensor]:
        """Return every parameter with prunable channels, gated along the axes that read, masked along all."""
        generated = {}
        for name, dims in scales.items():
            vectors = [
                self._along(name, dim, scale, gates[name][dim], own[name])
                for dim, scale in dims.items()
            ]
            generated[name] = own[name] * reduce(torch.mul, vectors)
        return generated

    def _along(self, name: str, dim: int, scale: Tensor, mask: Tensor, parameter: Tensor) -> Tensor:
        mask = mask.to(parameter.dtype)
        vector = scale if (name, dim) in self._read else mask
        if (name, dim) in self._everywhere:
            vector = torch.where(self._everywhere[name, dim].to(mask.device), scale, vector)
        return vector.reshape([-1 if axis == dim else 1 for axis in range(parameter.dim())])


@torch.no_grad()
def gate(hyper: HyperNet) -> tuple[str, ...]:
    """Let the latents of a factored network be gates; return the groups that are gated everywhere.

    Each group is tried: with every other channel closed by its latents, the network has to compute what it does with
    these channels masked. Where it does not, because something else than a weight reads the group, its latents gate all
    places that its mask acts on.

    Args:
        hyper: with all latents at 1.

    Raises:
        ValueError: the network was not converted with `factored`.
    """
    if not isinstance(hyper.parametrization, Factored):
        raise ValueError("gates need parametrization 'factored'")
    plan, was_training = hyper.plan, hyper.training
    hyper.eval()
    hyper.parametrization = Gated(plan)
    found: tuple[str, ...] = ()
    if not _agrees(hyper, [group.name for group in plan.prunable]):
        found = tuple(group.name for group in plan.prunable if not _agrees(hyper, [group.name]))
        everywhere = torch.zeros(plan.size, dtype=torch.bool)
        for group in plan.prunable:
            everywhere[group.span] = group.name in found
        hyper.parametrization = Gated(plan, everywhere)
    hyper.train(was_training)
    return found


def _agrees(hyper: HyperNet, groups: list[str]) -> bool:
    """Return whether closing every other channel of some groups by gates equals masking them."""
    x, before = hyper.random_input(), hyper.mask.clone()
    closed = {
        name: torch.arange(hyper.latents[name].numel(), device=x.device) % 2 == 0 for name in groups
    }
    for name, keep in closed.items():
        hyper.latents[name].copy_(keep)
    gated = hyper(x)
    for name in groups:
        hyper.latents[name].fill_(1)
    hyper.set_masks(closed)
    masked = hyper(x)
    hyper.mask.copy_(before)
    return relative_difference(masked, gated) <= 1e-3
