"""Networks without numbers, in which shapes alone are computed."""

from torch import Tensor, nn


def to_meta(network: nn.Module) -> nn.Module:
    """Move a network to the meta device in place, tensors that are neither parameters nor buffers included."""
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to("meta"))
    return network.to("meta")
