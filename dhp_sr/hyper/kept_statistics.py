"""Normalization over the kept channels alone, in a network whose channels are only masked."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dhp_sr.operators.channel_norms import with_width


class KeptStatistics:
    """Forward of a normalization layer that takes its statistics over the kept channels.

    Put in place of a module's `forward`. Masked channels come out as zeros. It computes what the
    layer computes after a cut: with all channels kept, what it computed before.

    Args:
        module: the layer.
        dim: axis of the channels, counted from the back.
    """

    def __init__(self, module: nn.Module, dim: int) -> None:
        self._module = module
        self._dim = dim
        self.kept: Tensor | None = None
        """Indices of the kept channels; None for all."""

    def __call__(self, features: Tensor) -> Tensor:
        """Normalize features."""
        module = self._module
        if self.kept is None:
            return type(module).forward(module, features)
        if len(self.kept) == 0:  # of a removed branch
            return torch.zeros_like(features)
        kept = self.kept.to(features.device)
        # index_select, not a mask: with the channels gathered, any layer's own forward computes the
        # statistics, whatever they are.
        narrow = with_width(module, kept).forward(features.index_select(self._dim, kept))
        shape = list(features.shape)
        shape[self._dim] = features.shape[self._dim]
        return narrow.new_zeros(shape).index_copy(self._dim, kept, narrow)


def keep_statistics(network: nn.Module, name: str, dim: int) -> KeptStatistics:
    """Let a layer of a network take its statistics over kept channels; returns its forward."""
    module = network.get_submodule(name)
    forward = KeptStatistics(module, dim)
    vars(module)["forward"] = forward
    return forward


def kept_statistics_of(network: nn.Module) -> Iterator[tuple[str, KeptStatistics]]:
    """Yield names and forwards of the layers that take their statistics over kept channels."""
    for name, module in network.named_modules():
        forward = vars(module).get("forward")
        if isinstance(forward, KeptStatistics):
            yield name, forward


def plain_forwards(network: nn.Module) -> nn.Module:
    """Give all layers the forward of their class again, in place."""
    for name, _ in list(kept_statistics_of(network)):
        del vars(network.get_submodule(name))["forward"]
    return network


def set_kept(network: nn.Module, index_of: dict[str, Tensor], padded: Tensor) -> None:
    """Set the kept channels of all such layers of a network.

    Args:
        network: the network.
        index_of: layer -> (C,) flat index of each channel.
        padded: (plan.size + 1,) True for kept channels.
    """
    for name, forward in kept_statistics_of(network):
        kept = padded[index_of[name].to(padded.device)]
        forward.kept = None if bool(torch.all(kept)) else kept.nonzero().flatten()
