"""Which inputs pass through a network, and what comes out; nothing but shapes is computed."""

import torch
from torch import nn

from dhp_sr.deploy.third_party import Origin, origin_of
from dhp_sr.graph.shape_inference import infer_output
from dhp_sr.utils.pixels import round_up

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Multiples that sides are tried for where a network does not say which one it needs."""
LEAST_SIDE = 16
"""An input of this side in pixels passes, where nothing else is said."""


def trial_side(multiple: int) -> int:
    """Return a side of at least `LEAST_SIDE`, an odd number of times `multiple`: no larger one of `MULTIPLES` fits."""
    return multiple * (-(-LEAST_SIDE // multiple) | 1)


def passing_side(network: nn.Module) -> int:
    """Return a side in pixels of inputs that pass: the one meant, of a network that is meant for one size."""
    source = origin_of(network) or network
    smallest = (
        source.smallest_side
        if isinstance(source, Origin)
        else getattr(source, "input_size", LEAST_SIDE)
    )
    return round_up(smallest, source.size_multiple)


def out_channels(network: nn.Module) -> int:
    """Return the channels of a network's output, or the classes that it tells apart; it is left as it was."""
    side = passing_side(network)
    dtype = next(
        (one.dtype for one in network.parameters() if one.is_floating_point()), torch.float32
    )
    return int(infer_output(network, (1, network.in_channels, side, side), dtype).shape[1])
