"""Cheap substitutes for convolutions, for comparing two programs that should compute the same.

A captured graph is compared with its network by their outputs. The outputs need not be the real
ones: if both programs run with the same substitute for each convolution, they still agree only if
both call the same convolutions on the same values. So a substitute may compute anything that
depends on every entry of its arguments, in a fraction of the time.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CheapConvolutions(TorchDispatchMode):
    """Replaces results of convolutions by others of the same shape and about as large.

    A convolution from I to O channels becomes one of a single channel, with the same stride,
    padding and dilation, that is multiplied by a number for every output channel o:

        y_o = factor_o * convolution(sum over i of s_i x_i, sum over o and i of s_oi w_oi) + bias_o

    The s are fixed numbers of either sign, and factor_o is a sum of this kind over the entries of
    w_o. So the result depends on every entry of x and w, and on their order.

    Args:
        after_macs: Multiply-adds that are spent on convolutions as they are, the first ones of the
            forward, before this one would exceed it.
    """

    def __init__(self, after_macs: float = 0) -> None:
        super().__init__()
        self._macs_left = after_macs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator of torch, or what is in its place."""
        kwargs = kwargs or {}
        if func is not torch.ops.aten.convolution.default or kwargs or args[0].is_meta:
            return func(*args, **kwargs)
        self._macs_left -= _macs(*args)
        return func(*args) if self._macs_left >= 0 else _cheap_convolution(*args)


def _macs(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> int:
    stride, padding, dilation, is_transposed = settings[:4]
    # Every entry of the input is spread by a kernel, or every entry of the output read with one.
    positions = x.shape[0]
    for axis, (length, size) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        if not is_transposed:
            length += 2 * padding[axis] - dilation[axis] * (size - 1) - 1
            length = length // stride[axis] + 1
        positions *= length
    return positions * weight.numel()


def _signs(count: int, like: Tensor) -> Tensor:
    """Return (count,) numbers of either sign and a mean square of 1."""
    return math.sqrt(2) * torch.cos(1.7 * torch.arange(count, dtype=torch.double)).to(like)


def _cheap_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    *geometry, groups = settings
    is_transposed = settings[3]
    # Filters of the output channels; a transposed weight (I, O / groups, ...) has one group's.
    filters = weight.transpose(0, 1) if is_transposed else weight
    filters = filters.flatten(1)
    factors = (filters @ _signs(filters.shape[1], filters)).repeat(groups if is_transposed else 1)
    # So that another number of groups gives another result, too.
    factors = factors * (1 + 0.1 * math.cos(groups))
    channel_signs = _signs(x.shape[1], x) / math.sqrt(x.shape[1])
    summed = (channel_signs @ x.flatten(2)).reshape(x.shape[0], 1, *x.shape[2:])
    kernel = _signs(weight.shape[:2].numel(), weight) @ weight.flatten(0, 1).flatten(1)
    # The factors alone make the result as large as the convolution's.
    kernel = kernel / kernel.norm().clamp_min(1e-30)
    kernel = kernel.reshape(1, 1, *weight.shape[2:])
    result = torch.ops.aten.convolution.default(summed, kernel, None, *geometry, 1)
    result = result * factors.reshape(-1, *[1] * (x.dim() - 2))
    if bias is not None:
        result += bias.reshape(-1, *[1] * (x.dim() - 2))
    return result
