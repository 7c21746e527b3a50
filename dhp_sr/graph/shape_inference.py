"""Networks without numbers, in which shapes alone are computed."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def to_meta(network: nn.Module) -> nn.Module:
    """Move a network to the meta device in place, tensors that are neither parameters nor buffers included."""
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to("meta"))
    return network.to("meta")


@torch.no_grad()
def infer_output(
    network: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Any:
    """Return what a network makes of an input of a shape, without computing it; the network is left as it was.

    A forward that makes tensors of its own on no device in particular would mix them with those on the meta device, and
    fail: it is run again with them there, too. Not at first, since a forward may read the values of what it makes.

    Args:
        network: in the mode that counts.
        shape: (N, C, H, W) or whatever the network takes.
        dtype: of the input.

    Raises:
        Whatever the network's forward does.
    """
    copied, image = (
        to_meta(copy.deepcopy(network)),
        torch.empty(tuple(shape), dtype=dtype, device="meta"),
    )
    try:
        return copied(image)
    except Exception:  # whatever an operator raises
        with torch.device("meta"):
            return copied(image)
