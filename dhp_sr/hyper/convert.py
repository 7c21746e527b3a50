"""Conversion of a plain network to a hyper network."""

from collections.abc import Sequence

import torch
from torch import nn

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.hyper.hypernet import HyperNet
from dhp_sr.hyper.parametrization import Full, build_parametrization
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.network_io import Example, first_samples


def convert(
    network: nn.Module,
    example_input: Example,
    parametrisation: str = "factored",
    exclude: Sequence[str] = (),
    *,
    prune_residual: bool = True,
    kept_statistics: bool = True,
) -> HyperNet:
    """Convert a network, untrained or trained, to a hyper network.

    With all latents at 1, as after conversion, the result computes what the network does.

    Args:
        network: Any network that can be traced; it is copied and left as it was.
        example_input: An input batch, (N, C, H, W) for images; or, of a network that takes several
            inputs, the tuple of them, the image first. Costs are counted for its size, and a cut is
            checked at it, with random images and the further inputs as they are given here.
        parametrisation: `factored` (W = z_out (x) z_in * V) or `full` (the hypernetwork of the DHP
            paper).
        exclude: Names or patterns of layers whose output channels are all kept.
        prune_residual: Whether channels that are coupled by additions, as along a residual
            connection, may be pruned.
        kept_statistics: Whether normalizations over channels, and layers that standardize their
            weights, take their statistics over the kept channels, masked or cut; else these
            channels are pinned. The plan names the layers.

    Raises:
        TraceError: The network cannot be traced.
        UserError: It has no parameters, a pattern names no layer, or the example is neither a
            tensor nor a tuple of tensors.
        ValueError: Unknown parametrization.

    Reference:
        Li et al., DHP: Differentiable Meta Pruning via HyperNetworks, ECCV 2020.
    """
    if next(network.parameters(), None) is None:
        raise UserError(
            f"{type(network).__name__}: expected a network with parameters to prune, found none; "
            "keep layers as attributes of their module, or in a ModuleList"
        )
    plan = make_plan(
        network,
        example_input,
        exclude,
        prune_residual=prune_residual,
        kept_statistics=kept_statistics,
    )
    copied = deep_copy(network)
    # Collected before the full parametrization freezes the weights that it generates.
    frozen = [name for name, weight in copied.named_parameters() if not weight.requires_grad]
    parametrization = build_parametrization(parametrisation, copied, plan)
    return HyperNet(copied, plan, parametrization, first_samples(example_input), frozen=frozen)


@torch.no_grad()
def init_like_paper(hyper: HyperNet) -> None:
    """Initialize a network as the paper does, whatever it had learned.

    Latents are drawn from N(0, 1), hypernetworks by "hyperfan-in"; biases of convolutions are 0.

    Raises:
        ValueError: The network was not converted with `full`.
    """
    if not isinstance(hyper.parametrization, Full):
        raise ValueError("the paper's initial values need parametrization 'full'")
    for latent in hyper.latents.values():
        latent.normal_()
    weights = dict(hyper.network.named_parameters())
    hyper.parametrization.init_like_paper(weights)
    # The reference code zeroes the biases of convolutions and leaves norms at their defaults.
    for name, weight in weights.items():
        module = hyper.network.get_submodule(name.rpartition(".")[0])
        is_conv_bias = name.endswith("bias") and isinstance(module, nn.Conv2d)
        if is_conv_bias and weight.requires_grad:
            weight.zero_()
