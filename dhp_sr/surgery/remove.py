"""Removing residual branches: their layers give way to the constant that is left of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.channels.plan import Branch, BranchLayer, ChannelPlan, Leaves
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.example import with_further_inputs
from dhp_sr.utils.modules import evaluating, floating_dtype

MAX_SPREAD = 1e-4
"""Largest difference of a constant between positions, relative to its largest entry: rounding."""


class RemovalError(UserError):
    """A branch is not constant though its own channels are masked."""


def removed_layers(branches: Sequence[Branch]) -> tuple[BranchLayer, ...]:
    """Return the layers of all branches that are removed."""
    return tuple(layer for branch in branches for layer in branch.layers)


@torch.no_grad()
def constants_left(
    network: nn.Module,
    plan: ChannelPlan,
    layers: Sequence[BranchLayer],
    values: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return what the layers of removed branches compute in the masked network.

    Args:
        network: the plain network, unpruned; it is left as it was.
        plan: its plan.
        layers: those that are removed.
        values: full-size parameters of the masked network.

    Returns:
        Layer -> (C,) its output at full width, for the layers that leave a constant.

    Raises:
        RemovalError: an output differs from position to position.
    """
    constants: dict[str, Tensor] = {}
    handles = []
    for layer in layers:
        if layer.leaves is not Leaves.NOTHING:
            hook = partial(_record, constants, layer)
            handles.append(network.get_submodule(layer.name).register_forward_hook(hook))
    parameter = next(network.parameters())
    image = torch.zeros(
        (1, *plan.example_shape[1:]), dtype=floating_dtype(network), device=parameter.device
    )
    example = with_further_inputs(image, plan.further_inputs)
    try:
        with evaluating(network):
            functional_call(network, dict(values), example)
    finally:
        for handle in handles:
            handle.remove()
    return constants


def _record(
    constants: dict[str, Tensor], layer: BranchLayer, module: nn.Module, inputs: Any, output: Tensor
) -> None:
    """Forward hook: keep the constant that a layer computes at every position."""
    dim = -1 - len(layer.strides)
    rows_PC = output.movedim(dim, -1).reshape(-1, output.shape[dim])
    largest = rows_PC.abs().max().clamp_min(1e-12)
    spread = (rows_PC - rows_PC[:1]).abs().max() / largest
    if not spread <= MAX_SPREAD:
        raise RemovalError(
            f"{layer.name}: expected the same output at every position of a removed branch, found "
            f"a difference of {float(spread):.1e} of the largest"
        )
    constants[layer.name] = rows_PC[0].clone()


def replace_layers(
    network: nn.Module, layers: Sequence[BranchLayer], constants: Mapping[str, Tensor]
) -> None:
    """Put constants in the place of the layers of removed branches, in place.

    Args:
        network: a network that has these layers.
        layers: those to replace.
        constants: layer -> (C,), for the layers that leave a constant.
    """
    for layer in layers:
        constant = constants.get(layer.name)
        is_trainable = layer.leaves is Leaves.BIAS
        channels = 0 if constant is None else len(constant)
        device = None if constant is None else constant.device
        left = ConstantMap(channels, layer.strides, trainable=is_trainable, device=device)
        if constant is not None:
            left.to(constant.dtype)
            assert left.bias is not None, "it has channels"
            left.bias.data.copy_(constant)
        replace_module(network, layer.name, left)


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, in the mode of the network."""
    parent_name, _, leaf = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    # Not set_submodule: containers such as nn.Sequential keep the order of their children.
    parent._modules[leaf] = module.train(network.training)
