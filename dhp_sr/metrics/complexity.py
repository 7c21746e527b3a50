"""Counts multiply-adds and parameters by watching a network at work, its layers and what it calls as functions."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one input."""

    macs: int
    """Multiply-adds of convolutions, transposed convolutions and linear layers, called as modules or as functions."""
    params: int
    """Trainable and frozen parameters; a shared one counts once, buffers do not count."""
    activations: int
    """Elements of all convolutions' outputs, the better hint at memory and at speed on a GPU."""
    convs: int
    """Convolutions run; a shared one counts each time."""


def complexity(network: nn.Module, input_shape: Sequence[int] = (1, 3, 128, 128)) -> Complexity:
    """Count what one forward pass costs, without computing it.

    The pass runs in a copy of the network on the meta device: any size is quick, and the network stays as it was.
    Products outside these layers (attention, element-wise ones, normalization) are not counted.

    Args:
        network: Takes one tensor.
        input_shape: (N, C, H, W); the counts are for the whole batch.

    Returns:
        The counts.
    """
    watched = copy.deepcopy(network).to("meta").eval()
    params = sum(parameter.numel() for parameter in watched.parameters())
    dtype = next((parameter.dtype for parameter in watched.parameters()), torch.float32)
    image = torch.empty(tuple(input_shape), dtype=dtype, device="meta")
    try:
        seen = _watch(watched, image)
    except (
        Exception
    ):  # whatever an operator raises where it meets tensors that the forward makes on the CPU
        with torch.device("meta"):
            seen = _watch(watched, image)
    return Complexity(
        macs=sum(seen.macs), params=params, activations=sum(seen.outputs), convs=len(seen.outputs)
    )


@torch.no_grad()
def _watch(network: nn.Module, image: Tensor) -> "_Watch":
    with _Watch() as watch:
        network(image)
    return watch


class _Watch(TorchFunctionMode):
    """Notes the multiply-adds, and the elements that convolutions put out, of what is called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: list[int] = []
        self.outputs: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COUNTERS:
            given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            self.macs.append(COUNTERS[func](given["input"], given["weight"], result))
            if func is not functional.linear:
                self.outputs.append(result.numel())
        return result


def _conv_macs(source: Tensor, weight: Tensor, result: Tensor) -> int:
    return result.numel() * math.prod(weight.shape[1:])


def _transposed_macs(source: Tensor, weight: Tensor, result: Tensor) -> int:
    # Every input element is multiplied with a whole kernel; counting by the output would overstate it by stride^2.
    return source.numel() * math.prod(weight.shape[1:])


COUNTERS: dict[Any, Callable[[Tensor, Tensor, Tensor], int]] = {
    functional.conv1d: _conv_macs,
    functional.conv2d: _conv_macs,
    functional.conv3d: _conv_macs,
    functional.conv_transpose1d: _transposed_macs,
    functional.conv_transpose2d: _transposed_macs,
    functional.conv_transpose3d: _transposed_macs,
    functional.linear: _conv_macs,
}
"""Function -> its count from (input, weight, output); the layers of these names call them."""
