"""The same arithmetic for small and for large images, so that a tile gives what the whole image gives."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LAYERS = (torch.conv2d, torch.conv_transpose2d, functional.conv2d, functional.conv_transpose2d)
_SMALL = 20480
"""Numbers in one image up to which torch takes another kernel on the CPU, which adds in another order."""


class SteadyConvolutions(TorchFunctionMode):
    """Computes small images two at a time, and returns one: torch takes the kernels of large images for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _LAYERS or not args or not _is_small(args[0]):
            return func(*args, **(kwargs or {}))
        return func(torch.cat((args[0], args[0])), *args[1:], **(kwargs or {}))[:1]


def _is_small(image: Tensor) -> bool:
    return image.device.type == "cpu" and len(image) == 1 and image.numel() <= _SMALL
