"""Shape inference: run networks on the meta device, where only shapes are computed."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn


def to_meta(network: nn.Module) -> nn.Module:
    """Move a network to the meta device in place."""
    # Plain tensors that are attributes (`self.mean = torch.tensor(...)`) are not moved by `to`.
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to("meta"))
    return network.to("meta")


@torch.no_grad()
def infer_output(
    network: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Any:
    """Return a network's output for an input of a given shape, on the meta device.

    Args:
        network: in the mode that counts; it is left as it was.
        shape: (N, C, H, W) or whatever the network takes.
        dtype: of the input.

    Raises:
        Exception: whatever the network's forward raises.
    """
    copied = to_meta(copy.deepcopy(network))
    image = torch.empty(tuple(shape), dtype=dtype, device="meta")
    try:
        return copied(image)
    except Exception:
        # A forward that creates tensors on no device in particular mixes them with those on the
        # meta device. It is run again with them there, too; not at first, since a forward may read
        # the values of what it creates.
        with torch.device("meta"):
            return copied(image)


class ValueRecorder(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and keep its value."""
        self.values[n] = result = super().run_node(n)
        return result
