"""How a weight follows from its latents: factored (the default) or through the full hypernetwork of the paper.

Shape suffixes: O output channels, I input channels, K kernel entries, M embedding.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan

Scales = Mapping[str, Mapping[int, Tensor]]
"""Parameter name -> axis -> masked latent entries along it."""


class Parametrization(nn.Module):
    """Generates the weights that have prunable channels."""

    @abstractmethod
    def forward(
        self, own: Mapping[str, Tensor], scales: Scales, gates: Scales
    ) -> dict[str, Tensor]:
        """Return the generated weights.

        Args:
            own: the plain network's parameters.
            scales: for each axis with prunable channels, latent times mask of every entry.
            gates: likewise, the mask alone.
        """


class Factored(Parametrization):
    """W = z_out (x) z_in * V, where V is the plain network's own weight."""

    def forward(
        self, own: Mapping[str, Tensor], scales: Scales, gates: Scales
    ) -> dict[str, Tensor]:
        """Return every matrix or kernel with prunable channels, scaled along its axes."""
        return {
            name: _scaled(own[name], dims) for name, dims in scales.items() if own[name].dim() >= 2
        }


def _scaled(weight: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """Return the weight times z_out (x) z_in.

    The latents are small beside the kernel: multiplied with each other first, they cost one pass over the weight and
    no copy of it; one after the other they cost two of both.
    """
    rank = weight.dim()
    vectors = [
        scale.reshape([-1 if axis == dim else 1 for axis in range(rank)])
        for dim, scale in dims.items()
    ]
    return weight * reduce(torch.mul, vectors)


class Full(Parametrization):
    """The hypernetwork of the paper: latent, embedding and explicit layer for every weight.

    Z = z_out z_in^T + B0;  E = Z * W1 + B1;  W = W2 . E + B2, with an embedding of M numbers for each pair of
    channels. At conversion the three biases are 0 and W2 is chosen so that W equals the plain weight at z = 1. Weights
    that are frozen have none: they are masked, and otherwise stay as they are.

    Reference: Li et al., DHP: Differentiable Meta Pruning via HyperNetworks, ECCV 2020, section 3.
    """

    def __init__(self, network: nn.Module, plan: ChannelPlan, embedding: int = 8) -> None:
        super().__init__()
        prunable = {axis.tensor for axis in plan.axes if bool((axis.index < plan.size).any())}
        parameters = dict(network.named_parameters())
        learned = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self._names = [name for name in learned if name in prunable and parameters[name].dim() >= 2]
        self.layers = nn.ModuleList(
            HyperLayer(parameters[name].detach(), embedding) for name in self._names
        )
        for name in self._names:
            parameters[name].requires_grad_(False)

    def forward(
        self, own: Mapping[str, Tensor], scales: Scales, gates: Scales
    ) -> dict[str, Tensor]:
        """Return every matrix or kernel with prunable channels, from its hypernetwork, zero where masked."""
        generated = {}
        for name, layer in zip(self._names, self.layers, strict=True):
            weight = (
                layer(*_pair(scales[name], own[name]))
                * torch.outer(*_pair(gates[name], own[name]))[..., None]
            )
            generated[name] = weight.reshape(own[name].shape)
        return generated

    def initialize(self, parameters: Mapping[str, Tensor]) -> None:
        """Draw the paper's initial values for every hypernetwork."""
        for name, layer in zip(self._names, self.layers, strict=True):
            assert isinstance(layer, HyperLayer)
            layer.initialize(parameters[name][0].numel())


def _pair(dims: Mapping[int, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Entries along the first two axes, 1 where an axis has no prunable channels."""
    first, second = (
        dims[dim].to(weight.dtype) if dim in dims else weight.new_ones(weight.shape[dim])
        for dim in (0, 1)
    )
    return first, second


class HyperLayer(nn.Module):
    """The hypernetwork of one weight.

    Args:
        weight: (O, I, ...) the weight to reproduce at z = 1.
        embedding: M.
    """

    def __init__(self, weight: Tensor, embedding: int) -> None:
        super().__init__()
        target_OIK = weight.flatten(2) if weight.dim() > 2 else weight[..., None]
        out_size, in_size, kernel = target_OIK.shape
        first_OIM = torch.empty(
            out_size, in_size, embedding, dtype=weight.dtype, device=weight.device
        )
        first_OIM.uniform_(-math.sqrt(3), math.sqrt(3))
        second_OIKM = (
            target_OIK[..., None]
            * (first_OIM / first_OIM.square().sum(-1, keepdim=True))[:, :, None, :]
        )
        self.latent_bias = nn.Parameter(weight.new_zeros(out_size, in_size))
        self.embedding_weight = nn.Parameter(first_OIM)
        self.embedding_bias = nn.Parameter(torch.zeros_like(first_OIM))
        self.explicit_weight = nn.Parameter(second_OIKM)
        self.explicit_bias = nn.Parameter(weight.new_zeros(out_size, in_size, kernel))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weight, shape (O, I, K), of the latents (O,) and (I,)."""
        latent_OI = torch.outer(first, second) + self.latent_bias
        embedded_OIM = latent_OI[..., None] * self.embedding_weight + self.embedding_bias
        return (
            torch.einsum("oikm,oim->oik", self.explicit_weight, embedded_OIM) + self.explicit_bias
        )

    @torch.no_grad()
    def initialize(self, fan_in: int) -> None:
        """Draw the paper's initial values ("hyperfan-in": variance 1 / fan-in of the generated weight)."""
        self.embedding_weight.uniform_(-math.sqrt(3), math.sqrt(3))
        bound = math.sqrt(3 / (self.embedding_weight.shape[-1] * fan_in))
        self.explicit_weight.uniform_(-bound, bound)
        for bias in (self.latent_bias, self.embedding_bias, self.explicit_bias):
            bias.zero_()


PARAMETRIZATIONS = ("factored", "full")
"""Names that `convert` takes."""


def build_parametrization(name: str, network: nn.Module, plan: ChannelPlan) -> Parametrization:
    """Return a parametrization by name.

    Raises:
        ValueError: the name is not one of PARAMETRIZATIONS.
    """
    if name == "factored":
        return Factored()
    if name == "full":
        return Full(network, plan)
    raise ValueError(
        f"parametrization must be one of {', '.join(PARAMETRIZATIONS)}, found {name!r}"
    )
