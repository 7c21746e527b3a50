"""Counts multiply-adds and parameters by watching the layers of a network at work."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one input."""

    macs: int
    """Multiply-adds of convolutions, transposed convolutions and linear layers."""
    params: int
    """Trainable and frozen parameters; a shared one counts once, buffers do not count."""
    activations: int
    """Elements of all convolutions' outputs, the better hint at memory and at speed on a GPU."""
    convs: int
    """Convolutions run; a shared one counts each time."""


def complexity(network: nn.Module, input_shape: Sequence[int] = (1, 3, 128, 128)) -> Complexity:
    """Count what one forward pass costs, without computing it.

    The pass runs in a copy of the network on the meta device: any size is quick, and the network stays as it was.
    Products outside these layers (attention, element-wise ones, normalisation) are not counted.

    Args:
        network: Takes one tensor.
        input_shape: (N, C, H, W); the counts are for the whole batch.

    Returns:
        The counts.
    """
    watched = copy.deepcopy(network).to("meta").eval()
    params = sum(parameter.numel() for parameter in watched.parameters())
    dtype = next((parameter.dtype for parameter in watched.parameters()), torch.float32)
    macs: list[int] = []
    outputs: list[int] = []

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        macs.append(_count(module)(module, inputs[0], output))
        if not isinstance(module, nn.Linear):
            outputs.append(output.numel())

    for module in watched.modules():
        if isinstance(module, tuple(COUNTERS)):
            module.register_forward_hook(hook)
    with torch.no_grad():
        watched(torch.empty(tuple(input_shape), dtype=dtype, device="meta"))
    return Complexity(macs=sum(macs), params=params, activations=sum(outputs), convs=len(outputs))


def _conv_macs(layer: _ConvNd, source: torch.Tensor, result: torch.Tensor) -> int:
    return result.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)


def _transposed_macs(layer: _ConvTransposeNd, source: torch.Tensor, result: torch.Tensor) -> int:
    # Every input element is multiplied with a whole kernel; counting by the output would overstate it by stride^2.
    return source.numel() * layer.out_channels // layer.groups * math.prod(layer.kernel_size)


def _linear_macs(layer: nn.Linear, source: torch.Tensor, result: torch.Tensor) -> int:
    return result.numel() * layer.in_features


Counter = Callable[[Any, torch.Tensor, torch.Tensor], int]

COUNTERS: dict[type[nn.Module], Counter] = {
    nn.Conv1d: _conv_macs,
    nn.Conv2d: _conv_macs,
    nn.Conv3d: _conv_macs,
    nn.ConvTranspose1d: _transposed_macs,
    nn.ConvTranspose2d: _transposed_macs,
    nn.ConvTranspose3d: _transposed_macs,
    nn.Linear: _linear_macs,
}
"""Kind of layer -> its count from (layer, input, output)."""


def _count(module: nn.Module) -> Counter:
    return next(counter for kind, counter in COUNTERS.items() if isinstance(module, kind))
