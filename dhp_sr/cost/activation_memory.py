"""Peak memory of a network's activations, per pixel of its input."""

import math

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import trace
from dhp_sr.graph.trace_errors import TraceError
from dhp_sr.operators.registry import spec_for
from dhp_sr.utils.modules import floating_dtype
from dhp_sr.utils.pixels import round_up

CHANNEL_BLOCK = 16
"""Convolutions of the CPU lay their channels out in blocks of this many."""

EXAMPLE_SIDE = 48
"""Sides of the example are multiples of this, so that they can be halved and divided by 3."""

FLOAT32_BYTES = 4


def peak_activation_bytes(
    network: nn.Module, in_channels: int, size_multiple: int = 1
) -> float | None:
    """Return the peak memory of a forward pass in float32, in bytes per pixel of the input.

    A value is held until its last use; a convolution works on copies of its inputs and its output
    in a blocked layout. The overhead of an allocator is not counted.

    Args:
        network: Maps (N, in_channels, H, W) to an image; left as it was.
        in_channels: Channels of its input.
        size_multiple: Sides of its input must be multiples of it.

    Returns:
        Bytes per pixel; None where the forward cannot be traced.
    """
    side = math.lcm(size_multiple, EXAMPLE_SIDE)
    example = torch.zeros(1, in_channels, side, side, dtype=floating_dtype(network))
    try:
        traced = trace(network, example)
    except TraceError:
        return None
    # Liveness: step after which each value is no longer needed.
    nodes = list(traced.graph_module.graph.nodes)
    last_use: dict[fx.Node, int] = {}
    for step, node in enumerate(nodes):
        for source in node.all_input_nodes:
            last_use[source] = step
    held: dict[fx.Node, int] = {}
    peak = 0
    for step, node in enumerate(nodes):
        if node.op in ("get_attr", "output"):
            continue
        held[node] = _blocked_elements(traced.values[node])
        current = sum(held.values())
        # Any module counts, to be on the safe side: those between convolutions (activations, norms,
        # shuffles) may be computed in the blocked layout, too.
        is_layer = node.op.startswith("call") and spec_for(node, None).macs is not None
        if node.op == "call_module" or is_layer:
            # Copies in the blocked layout, while the values themselves are still held.
            current += held[node]
            for source in node.all_input_nodes:
                current += held.get(source, 0)
        peak = max(peak, current)
        # list(): entries are deleted on the way.
        for source in list(held):
            if last_use.get(source, 0) <= step:
                del held[source]
    return FLOAT32_BYTES * peak / side**2


def _blocked_elements(value: object) -> int:
    """Return the elements of an image in the blocked layout; 0 for anything else."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return 0
    batch, channels, height, width = value.shape
    return batch * round_up(channels, CHANNEL_BLOCK) * height * width
