"""Layers with statistics over the kept channels alone, in a network whose channels are masked."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dhp_sr.channels.kept_channels import KeptChannels
from dhp_sr.graph.computed_weights import arguments_of, call_with
from dhp_sr.graph.tracer import LEAF_FORWARDS
from dhp_sr.hyper.kept_calls import kept_calls_of
from dhp_sr.operators.narrow import narrow


class KeptStatistics:
    """Forward of a layer that takes its statistics over the kept channels.

    Put in place of a module's `forward`. Masked channels come out as zeros. It computes what the
    layer computes after a cut: with all channels kept, what it computed before.

    Args:
        module: The layer.
        channels: Channels of the layer, as the plan has them.
    """

    def __init__(self, module: nn.Module, channels: KeptChannels) -> None:
        self._module = module
        self._dim = channels.dim
        self._width = len(channels.index)
        self.inputs: Mapping[tuple[int | str, int], Tensor] = {}
        """(input, axis) -> indices of the kept entries; see `KeptChannels`."""
        self.tensors: Mapping[tuple[str, int], Tensor] = {}
        """(tensor, axis) -> indices of the kept entries."""
        self.kept: Tensor | None = None
        """Indices of the kept channels of the result; None while all channels are kept."""

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        """Run the layer with the kept channels."""
        module = self._module
        kept = self.kept
        if kept is None:
            return type(module).forward(module, *args, **kwargs)
        if len(kept) == 0:  # of a removed branch
            return torch.zeros_like(type(module).forward(module, *args, **kwargs))
        if any(len(index) == 0 for index in self.inputs.values()):
            # Closed gates can leave a layer nothing to read, while its own channels are kept. Its
            # weight is then zero, and its bias is left; masks alone never get that far.
            return type(module).forward(module, *args, **kwargs)
        inputs = arguments_of(module, args, kwargs)
        for (key, dim), index in self.inputs.items():
            # index_select, not a mask: with the channels gathered, any layer's own forward computes
            # the statistics, whatever they are.
            inputs[key] = inputs[key].index_select(dim, index.to(inputs[key].device))
        narrowed = narrow(module, self.tensors)
        if isinstance(narrowed, (nn.LayerNorm, nn.RMSNorm)) and not self.tensors:
            narrowed.normalized_shape = (len(kept),)
        result = call_with(narrowed.forward, inputs)
        shape = list(result.shape)
        shape[self._dim] = self._width
        return result.new_zeros(shape).index_copy(self._dim, kept.to(result.device), result)


LEAF_FORWARDS.add(KeptStatistics)


def keep_statistics(network: nn.Module, channels: KeptChannels) -> KeptStatistics:
    """Let a layer of a network take its statistics over kept channels; returns its forward."""
    module = network.get_submodule(channels.layer)
    forward = KeptStatistics(module, channels)
    vars(module)["forward"] = forward
    return forward


def kept_statistics_of(network: nn.Module) -> Iterator[tuple[str, KeptStatistics]]:
    """Yield names and forwards of the layers that take their statistics over kept channels."""
    for name, module in network.named_modules():
        forward = vars(module).get("forward")
        if isinstance(forward, KeptStatistics):
            yield name, forward


def plain_forwards(network: nn.Module) -> nn.Module:
    """Give all modules the forward that they had, in place."""
    for name, _ in list(kept_statistics_of(network)):
        del vars(network.get_submodule(name))["forward"]
    for module, forward in list(kept_calls_of(network)):
        del vars(module)["forward"]
        if forward.plain is not None:
            vars(module)["forward"] = forward.plain
    return network


def set_kept(network: nn.Module, layers: Iterable[KeptChannels], padded: Tensor) -> None:
    """Set the kept channels of all such layers of a network, and of calls of functions.

    Args:
        network: The network.
        layers: Those of its plan.
        padded: (plan.size + 1,) True for kept channels.
    """
    for _, calls in kept_calls_of(network):
        calls.set_kept(padded)
    channels_of = {channels.layer: channels for channels in layers}

    def kept_entries(index: Tensor) -> Tensor:
        return padded[index.to(padded.device)].nonzero().flatten()

    for name, forward in kept_statistics_of(network):
        channels = channels_of[name]
        forward.inputs = {axis: kept_entries(index) for axis, index in channels.inputs.items()}
        forward.tensors = {axis: kept_entries(index) for axis, index in channels.tensors.items()}
        forward.kept = kept_entries(channels.index)
        indices = [channels.index, *channels.inputs.values(), *channels.tensors.values()]
        if all(bool(padded[index.to(padded.device)].all()) for index in indices):
            forward.kept = None
