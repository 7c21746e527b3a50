"""Gates on the channels that a weight reads: the parametrization of HSN."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.hyper.hypernet import HyperNet
from dhp_sr.hyper.parametrization import AxisVectors, Factored, Parametrization, outer_product
from dhp_sr.surgery.cut import MAX_DIFFERENCE, MAX_DIFFERENCE_FLOAT64
from dhp_sr.utils.network_io import relative_difference


class Gated(Parametrization):
    """W = V * z_in: a channel's latent acts where a weight reads the channel, and nowhere else.

    Only there does a gate of 0 still get a gradient. Behind a norm and a ReLU, a channel that is
    zeroed where it is produced has no gradient; scaled at both ends, it has the gradient of z
    squared, which is 0 at z = 0. Norms and depthwise layers in between work on the open channel,
    and their result is gated where it is read.

    A normalization over channels takes its statistics over the open ones and returns zeros for the
    others: of their gates, it lets no gradient through.

    Masks act along all axes, as in the other parametrizations. At z = 1 this is the plain network;
    with 0/1 latents it is the network masked by them.

    Args:
        plan: Groups and layers.
        gate_all_axes: Names of the groups whose latents act along every axis that masks act on;
            those that something other than a weight reads.
    """

    closes_channels = True

    def __init__(self, plan: ChannelPlan, gate_all_axes: Collection[str] = ()) -> None:
        super().__init__()
        # Input channels lie along the other of a weight's first two axes. In a depthwise layer that
        # axis has no channels, so it gates nothing: the layer after it reads the channel.
        self._reading_axes = {(layer.weight, 1 - layer.out_dim) for layer in plan.layers}
        self._fully_gated: dict[tuple[str, int], Tensor] = {}
        """(parameter, axis) -> entries along it whose latents act there as well, bool."""
        if gate_all_axes:
            # The last entry stands for all pinned channels, which are never gated.
            is_fully_gated = torch.zeros(plan.size + 1, dtype=torch.bool)
            for group in plan.prunable:
                is_fully_gated[group.span] = group.name in gate_all_axes
            for axis in plan.axes:
                self._fully_gated[axis.tensor, axis.dim] = is_fully_gated[axis.index]

    def forward(
        self, weights: Mapping[str, Tensor], scales: AxisVectors, masks: AxisVectors
    ) -> dict[str, Tensor]:
        """Return every parameter with prunable channels, gated along its input axis and masked.

        Unlike in the factored form these include biases and norm vectors, as a group that is gated
        along all axes needs them.
        """
        generated = {}
        for name, vectors in scales.items():
            weight = weights[name]
            factors = {}
            for dim, scale in vectors.items():
                reads = (name, dim) in self._reading_axes
                factors[dim] = scale if reads else masks[name][dim].to(weight.dtype)
                # An axis may hold channels of several groups, after a concatenation.
                if (name, dim) in self._fully_gated:
                    is_fully_gated = self._fully_gated[name, dim].to(scale.device)
                    factors[dim] = torch.where(is_fully_gated, scale, factors[dim])
            generated[name] = weight * outer_product(factors, weight.dim())
        return generated


@torch.no_grad()
def use_gates(hyper: HyperNet) -> tuple[str, ...]:
    """Replace the factored parametrization of a network by `Gated`.

    The plan does not tell whether something other than a weight reads a channel, such as a bare
    parameter or a product of two tensors. So each group is tried: gating every other channel must
    give the output that masking them gives. Groups for which it does not get gates along all axes.

    Args:
        hyper: All its latents are 1.

    Returns:
        Names of the groups that are gated along all axes.

    Raises:
        ValueError: The network was not converted with `factored`.
    """
    if not isinstance(hyper.parametrization, Factored):
        raise ValueError("gates need parametrization 'factored'")
    # In training mode, dropout would differ between two forwards, and running statistics change.
    was_training = hyper.training
    hyper.eval()
    hyper.parametrization = Gated(hyper.plan)
    dtype = hyper.random_inputs()[0].dtype
    try:
        # Queries and keys may change an output by less than the rounding of single precision.
        gate_all_axes = _groups_that_gates_miss(hyper.double())
    except RuntimeError:  # a forward that takes its own precision alone
        gate_all_axes = _groups_that_gates_miss(hyper.to(dtype))
    finally:
        hyper.to(dtype)
    if gate_all_axes:
        hyper.parametrization = Gated(hyper.plan, gate_all_axes)
    hyper.train(was_training)
    return gate_all_axes


def _groups_that_gates_miss(hyper: HyperNet) -> tuple[str, ...]:
    """Return the groups for which gates where weights read do something else than masks."""
    names = [group.name for group in hyper.plan.prunable]
    # All groups together first: each comparison takes two forwards, and nearly always they agree.
    if _agree(hyper, names):
        return ()
    return tuple(name for name in names if not _agree(hyper, [name]))


def _agree(hyper: HyperNet, groups: list[str]) -> bool:
    """Return whether closing either half of some groups by gates equals masking it."""
    # The channels of one half may all be zeros for the image, behind a ReLU.
    return all(_gating_equals_masking(hyper, groups, kept) for kept in (0, 1))


def _gating_equals_masking(hyper: HyperNet, groups: list[str], kept: int) -> bool:
    """Return whether closing every other channel of some groups by gates equals masking them.

    Args:
        hyper: The network.
        groups: Their names.
        kept: The first channel that stays open, 0 or 1.
    """
    inputs = hyper.random_inputs()
    image = inputs[0]
    mask_before = hyper.mask.clone()
    keep = {}
    for name in groups:
        # Every other channel, not all: a network of zeros agrees with itself in any case.
        indices = torch.arange(hyper.latents[name].numel(), device=image.device)
        keep[name] = (indices % 2 == kept) | (len(indices) == 1)
        hyper.latents[name].copy_(keep[name])
    gated = hyper(*inputs)
    for name in groups:
        hyper.latents[name].fill_(1)
    hyper.set_masks(keep)
    masked = hyper(*inputs)
    hyper.mask.copy_(mask_before)
    limit = MAX_DIFFERENCE_FLOAT64 if image.dtype == torch.float64 else MAX_DIFFERENCE
    return relative_difference(masked, gated) <= limit
