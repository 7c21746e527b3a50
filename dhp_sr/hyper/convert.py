"""From a plain network to one with latents and generated weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import make_plan
from dhp_sr.hyper.hypernet import HyperNet
from dhp_sr.hyper.parametrization import Full, build_parametrization
from dhp_sr.utils.errors import UserError


def convert(
    network: nn.Module,
    example_input: Tensor,
    parametrisation: str = "factored",
    exclude: Sequence[str] = (),
    *,
    prune_residual: bool = True,
) -> HyperNet:
    """Convert a network, fresh or trained; with all latents at 1 the result computes what the network does.

    Args:
        network: any network that torch.fx can trace; it is copied and left as it was.
        example_input: an input batch; costs are counted for it, and the cut is checked at its shape.
        parametrisation: `factored` (W = z_out (x) z_in * V) or `full` (the paper's hypernetwork).
        exclude: names or patterns of layers whose output channels must all stay.
        prune_residual: whether channels that are coupled by additions, as along a residual connection,
            may be pruned.

    Raises:
        TraceError: the network cannot be traced.
        UserError: it has no parameters.
        ValueError: an unknown parametrization.
    """
    if next(network.parameters(), None) is None:
        raise UserError(
            f"{type(network).__name__}: expected a network with parameters to prune, found none; keep layers as "
            "attributes of their module, or in a ModuleList"
        )
    plan = make_plan(network, example_input, exclude, prune_residual=prune_residual)
    copied = copy.deepcopy(network)
    frozen = [name for name, parameter in copied.named_parameters() if not parameter.requires_grad]
    weights = build_parametrization(parametrisation, copied, plan)  # may freeze more
    return HyperNet(copied, plan, weights, example_input[:1], frozen=frozen)


@torch.no_grad()
def draw_faithful(hyper: HyperNet) -> None:
    """Draw the paper's initial values: latents from N(0, 1), hypernetworks by "hyperfan-in", biases 0.

    Raises:
        ValueError: the network was not converted with `full`.
    """
    if not isinstance(hyper.parametrization, Full):
        raise ValueError("the paper's initial values need parametrization 'full'")
    for latent in hyper.latents.values():
        latent.normal_()
    hyper.parametrization.initialize(dict(hyper.network.named_parameters()))
    learned = [
        (name, parameter)
        for name, parameter in hyper.network.named_parameters()
        if parameter.requires_grad
    ]
    for name, parameter in learned:
        if name.endswith("bias") and isinstance(
            hyper.network.get_submodule(name.rpartition(".")[0]), nn.Conv2d
        ):
            parameter.zero_()
