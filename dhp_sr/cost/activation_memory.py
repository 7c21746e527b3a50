"""How much memory a network's values take while it runs, for each pixel of its input."""

import math

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import TraceError, trace
from dhp_sr.utils.pixels import round_up

_BLOCK = 16
"""Convolutions of the CPU lay their channels out in blocks of this many."""
_SIDE = 48


def peak_activation_bytes(
    network: nn.Module, in_channels: int, size_multiple: int = 1
) -> float | None:
    """Return the most bytes that are held at any time of a forward pass in float32, per pixel of the input.

    None where the forward cannot be followed.

    A value is held until it was last used; a convolution works on copies of its input and result laid out in blocks.
    What an allocator adds is not counted.

    Args:
        network: maps (N, in_channels, H, W) to an image; left as it was.
        in_channels: channels of its input.
        size_multiple: sides of its input must be multiples of it.
    """
    side = math.lcm(size_multiple, _SIDE)
    dtype = next(
        (one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32
    )
    try:
        traced = trace(network, torch.zeros(1, in_channels, side, side, dtype=dtype))
    except TraceError:
        return None
    nodes = list(traced.graph_module.graph.nodes)
    last = {given: place for place, node in enumerate(nodes) for given in node.all_input_nodes}
    held, most = {}, 0.0
    for place, node in enumerate(nodes):
        if node.op in ("get_attr", "output"):
            continue
        held[node] = _values(traced.values[node])
        copies = (
            sum(held.get(one, 0) for one in node.all_input_nodes) + held[node]
            if _is_layer(node)
            else 0
        )
        most = max(most, sum(held.values()) + copies)
        held = {one: size for one, size in held.items() if last.get(one, 0) > place}
    return 4 * most / side**2


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_module" or "conv" in str(node.target)


def _values(value: object) -> int:
    """Return how many numbers a value holds, its channels filled up to whole blocks."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return 0
    batch, channels, height, width = value.shape
    return batch * round_up(channels, _BLOCK) * height * width
