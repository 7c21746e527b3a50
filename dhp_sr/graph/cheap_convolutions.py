"""Convolutions in a fraction of their time, where any function of the same arguments does.

Whether two programs apply the same operators to the same values, their results say whatever these
operators compute, as long as it is the same for both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CheapConvolutions(TorchDispatchMode):
    """Puts something else in place of every convolution, of the same shape and about as large.

    It depends on all entries of the input, the weight and the bias, and on their order, and on the
    settings: sum_c(x) is interpolated, and multiplied for every output channel by a number.
    """

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
        return _cheap_convolution(*args)


def _signs(count: int, like: Tensor) -> Tensor:
    """Return (count,) numbers of either sign and a mean square of 1."""
    return math.sqrt(2) * torch.cos(1.7 * torch.arange(count, dtype=torch.double)).to(like)


def _cheap_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    shapes = [tensor if tensor is None else tensor.to("meta") for tensor in (x, weight, bias)]
    expected = torch.ops.aten.convolution.default(*shapes, *settings)
    is_transposed, groups = settings[3], settings[5]
    rows = weight.transpose(0, 1) if is_transposed else weight
    rows = rows.flatten(1)
    factors = (rows @ _signs(rows.shape[1], rows)).repeat(groups if is_transposed else 1)
    # A number for each combination of settings, near 1.
    factors = factors * (1 + 0.1 * math.cos(_number(settings)))
    channels = _signs(x.shape[1], x) / math.sqrt(x.shape[1])
    summed = (channels @ x.flatten(2)).reshape(x.shape[0], 1, *x.shape[2:])
    summed = F.interpolate(summed, size=expected.shape[2:], mode="nearest")
    result = summed * factors.reshape(-1, *[1] * (x.dim() - 2))
    if bias is not None:
        result += bias.reshape(-1, *[1] * (x.dim() - 2))
    return result


def _number(settings: Sequence[Any]) -> float:
    total = 0.0
    for position, setting in enumerate(settings, start=1):
        for entry in setting if isinstance(setting, (list, tuple)) else (setting,):
            total = 1.3 * total + position * float(entry)
    return total
