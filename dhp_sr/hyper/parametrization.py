"""Generated weights: factored (the default), or by the full hypernetwork of the DHP paper.

Shape suffixes: O output channels, I input channels, K kernel entries, M embedding size.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dhp_sr.channels.plan import ChannelPlan

AxisVectors = dict[str, dict[int, Tensor]]
"""Weight name -> axis -> values of the entries along that axis."""


class ChannelIndex(nn.Module):
    """Gathers the values of a flat channel vector along every axis that has prunable channels.

    Many axes have the same index, such as all those along a residual connection; each distinct
    index is stored and gathered once. As buffers, the indices follow the module to its device.

    Args:
        plan: Axes of the weights, and their channels.
        device: Device of the flat vectors.
    """

    def __init__(self, plan: ChannelPlan, device: torch.device) -> None:
        super().__init__()
        self._index_of_axis: dict[str, dict[int, int]] = {}
        """Weight name -> axis -> number of its index among the buffers."""
        numbers: dict[tuple[int, ...], int] = {}
        for axis in plan.axes:
            # Entries of pinned channels point behind the prunable channels, at plan.size.
            has_prunable = bool((axis.index < plan.size).any())
            if not has_prunable or axis.tensor not in plan.parameters:
                continue
            number = numbers.setdefault(tuple(axis.index.tolist()), len(numbers))
            self._index_of_axis.setdefault(axis.tensor, {})[axis.dim] = number
        # Not in the state dict: the plan determines them.
        for index, number in numbers.items():
            tensor = torch.tensor(index, device=device)
            self.register_buffer(f"index_{number}", tensor, persistent=False)

    def gather(self, values: Tensor) -> AxisVectors:
        """Return the values along every axis with prunable channels.

        Args:
            values: (plan.size + 1,) values of the prunable channels, and behind them the value of
                all pinned channels.
        """
        gathered = [values[index] for index in self.buffers()]
        vectors: AxisVectors = {}
        for name, numbers in self._index_of_axis.items():
            vectors[name] = {dim: gathered[number] for dim, number in numbers.items()}
        return vectors


def align_to_axis(vector: Tensor, rank: int, dim: int) -> Tensor:
    """Return a vector as a tensor of `rank` axes that varies along `dim`, to multiply a weight."""
    shape = [1] * rank
    shape[dim] = -1
    return vector.reshape(shape)


class Parametrization(nn.Module):
    """Generates the weights that have prunable channels."""

    closes_channels = False
    """Whether a latent of 0 stands for a mask: normalizations over channels leave it out."""

    @abstractmethod
    def forward(
        self, weights: Mapping[str, Tensor], scales: AxisVectors, masks: AxisVectors
    ) -> dict[str, Tensor]:
        """Return generated weights by name; weights that are left out are only masked.

        Args:
            weights: All parameters of the plain network.
            scales: Latent times mask along each axis with prunable channels.
            masks: The mask alone along the same axes, bool.
        """


class Factored(Parametrization):
    """W = z_out (x) z_in * V, where V is the weight of the plain network.

    DHP's hypernetwork without its biases is exactly of this form, V a product of its two layers: it
    keeps the latents, a tenth of the parameters, and an exact cut.
    """

    def forward(
        self, weights: Mapping[str, Tensor], scales: AxisVectors, masks: AxisVectors
    ) -> dict[str, Tensor]:
        """Return every matrix or kernel with prunable channels, scaled along its axes.

        Biases and norm vectors are masked only, as in DHP.
        """
        generated = {}
        for name, vectors in scales.items():
            weight = weights[name]
            if weight.dim() >= 2:
                # Latents are small beside a kernel: multiplied with each other first, they cost a
                # single pass over the weight and no copy of it.
                generated[name] = weight * outer_product(vectors, weight.dim())
        return generated


def outer_product(vectors: Mapping[int, Tensor], rank: int) -> Tensor:
    """Return the product of vectors along their axes; it broadcasts to a weight of that rank."""
    product: Tensor | None = None
    for dim, vector in vectors.items():
        aligned = align_to_axis(vector, rank, dim)
        product = aligned if product is None else product * aligned
    assert product is not None, "a weight with prunable channels has an axis of them"
    return product


class Full(Parametrization):
    """The hypernetwork of the paper: latent layer, embedding layer and explicit layer of a weight.

    Z = z_out z_in^T + B0;  E = Z * W1 + B1;  W = W2 . E + B2, with an embedding of M numbers for
    each pair of channels. At conversion the three biases are 0 and W2 is chosen such that W equals
    the plain weight at z = 1. Weights that are frozen have no hypernetwork: they are only masked.

    Args:
        network: The plain network; the weights that are generated from now on get frozen.
        plan: Its plan.
        embedding_size: M.

    Reference:
        Li et al., DHP: Differentiable Meta Pruning via HyperNetworks, ECCV 2020, section 3.
    """

    def __init__(self, network: nn.Module, plan: ChannelPlan, embedding_size: int = 8) -> None:
        super().__init__()
        prunable = {axis.tensor for axis in plan.axes if bool((axis.index < plan.size).any())}
        self._names: list[str] = []
        self.layers = nn.ModuleList()
        for name, weight in network.named_parameters():
            if name in prunable and weight.requires_grad and weight.dim() >= 2:
                self._names.append(name)
                self.layers.append(HyperLayer(weight.detach(), embedding_size))
                weight.requires_grad_(False)

    def forward(
        self, weights: Mapping[str, Tensor], scales: AxisVectors, masks: AxisVectors
    ) -> dict[str, Tensor]:
        """Return every matrix or kernel with a hypernetwork, generated by it, 0 where masked.

        The mask is applied once more to the result, for the biases of the hypernetwork would let a
        channel of latent 0 through; in the paper's code that is why a cut changes the output.
        """
        generated = {}
        for name, layer in zip(self._names, self.layers, strict=True):
            weight = weights[name]
            weight_OIK = layer(*_first_two_axes(scales[name], weight))
            # Along all axes, since kernels that are mixed have further ones before their channels.
            mask = outer_product(masks[name], weight.dim()).to(weight.dtype)
            generated[name] = weight_OIK.reshape(weight.shape) * mask
        return generated

    def init_like_paper(self, weights: Mapping[str, Tensor]) -> None:
        """Initialize every hypernetwork as in the paper."""
        for name, layer in zip(self._names, self.layers, strict=True):
            assert isinstance(layer, HyperLayer)
            layer.init_like_paper(fan_in=weights[name][0].numel())


def _first_two_axes(vectors: Mapping[int, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values along axes 0 and 1 of a weight, ones where no channel is prunable."""
    values = []
    for dim in (0, 1):
        if dim in vectors:
            values.append(vectors[dim].to(weight.dtype))
        else:
            values.append(weight.new_ones(weight.shape[dim]))
    return values[0], values[1]


class HyperLayer(nn.Module):
    """The hypernetwork of a single weight.

    Args:
        weight: (O, I, ...) the weight to generate at z = 1. Of a transposed convolution it is
            (I, O, ...), which makes no difference here.
        embedding_size: M.
    """

    def __init__(self, weight: Tensor, embedding_size: int) -> None:
        super().__init__()
        target_OIK = weight.flatten(2) if weight.dim() > 2 else weight[..., None]
        num_out, num_in, kernel_size = target_OIK.shape
        embedding_OIM = weight.new_empty(num_out, num_in, embedding_size)
        embedding_OIM.uniform_(-math.sqrt(3), math.sqrt(3))
        # Least-norm solution of W2 . E = W with E = W1, which holds for z = 1 and biases of 0. So
        # conversion keeps what a trained network has learned; the paper starts from random values.
        inverse_OIM = embedding_OIM / embedding_OIM.square().sum(-1, keepdim=True)
        explicit_OIKM = target_OIK[..., None] * inverse_OIM[:, :, None, :]
        self.latent_bias = nn.Parameter(weight.new_zeros(num_out, num_in))
        self.embedding_weight = nn.Parameter(embedding_OIM)
        self.embedding_bias = nn.Parameter(torch.zeros_like(embedding_OIM))
        self.explicit_weight = nn.Parameter(explicit_OIKM)
        self.explicit_bias = nn.Parameter(weight.new_zeros(num_out, num_in, kernel_size))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weight, shape (O, I, K), for latents of shape (O,) and (I,)."""
        latent_OI = torch.outer(first, second) + self.latent_bias
        embedded_OIM = latent_OI[..., None] * self.embedding_weight + self.embedding_bias
        weight_OIK = torch.einsum("oikm,oim->oik", self.explicit_weight, embedded_OIM)
        return weight_OIK + self.explicit_bias

    @torch.no_grad()
    def init_like_paper(self, fan_in: int) -> None:
        """Initialize by "hyperfan-in": a variance of 1 / fan-in for the generated weight.

        Reference:
            Chang et al., Principled Weight Initialization for Hypernetworks, ICLR 2020.
        """
        # Uniform in (-sqrt(3), sqrt(3)) has variance 1, so an embedding at z = 1 has it too.
        self.embedding_weight.uniform_(-math.sqrt(3), math.sqrt(3))
        embedding_size = self.embedding_weight.shape[-1]
        bound = math.sqrt(3 / (embedding_size * fan_in))
        self.explicit_weight.uniform_(-bound, bound)
        for bias in (self.latent_bias, self.embedding_bias, self.explicit_bias):
            bias.zero_()


PARAMETRIZATIONS = ("factored", "full")
"""Names that `convert` accepts."""


def build_parametrization(name: str, network: nn.Module, plan: ChannelPlan) -> Parametrization:
    """Return a parametrization by name.

    Raises:
        ValueError: The name is not in `PARAMETRIZATIONS`.
    """
    if name == "factored":
        return Factored()
    if name == "full":
        return Full(network, plan)
    raise ValueError(f"expected a parametrization of {', '.join(PARAMETRIZATIONS)}, found {name!r}")
