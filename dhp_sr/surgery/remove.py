"""Removing residual branches, and leaving whole blocks out.

The layers of a removed branch give way to the constant that is left of them. With calibration
inputs the constant is then fitted to what the dense branch gave. The result of a block that is left
out is its input:

    features --> block 3 --> block 4 --> ...        of the dense network
    features --------------> block 4 --> ...        with block 3 left out

Its graph stays that of the dense network, so that both can be run side by side.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from dhp_sr.channels.plan import Branch, BranchLayer, ChannelPlan, Leaves
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.surgery.shortcuts import find_shortcut_error
from dhp_sr.surgery.side_by_side import Execution
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import evaluating, floating_dtype
from dhp_sr.utils.network_io import with_further_inputs

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
    kept: Mapping[tuple[str, int], Tensor],
) -> dict[str, Tensor]:
    """Return the outputs of the layers of removed branches in the masked network.

    Args:
        network: The plain network, unpruned; it is left as it was.
        plan: Its plan.
        layers: Those that are removed.
        values: Full-size parameters of the masked network.
        kept: (tensor, axis) -> indices of the kept entries.

    Returns:
        Layer -> (kept channels,) its output, for the layers that leave a constant.

    Raises:
        RemovalError: An output differs from position to position.
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
    for layer in layers:
        # Computed at full width; the channels that it is added to may be pruned.
        axis = layer.channel_axis
        if layer.name in constants and axis is not None and axis in kept:
            constant = constants[layer.name]
            constants[layer.name] = constant[kept[axis].to(constant.device)]
    return constants


def _record(
    constants: dict[str, Tensor],
    layer: BranchLayer,
    module: nn.Module,
    inputs: object,
    output: Tensor,
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
        network: A network that has these layers.
        layers: Those to replace.
        constants: Layer -> (C,), for the layers that leave a constant.
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


@dataclass(frozen=True)
class ConstantFit:
    """The change of a constant that minimizes the squared error, and that error."""

    shift_C: Tensor
    """(kept channels,) to be added, float64."""
    target_square: float
    """Sum of the squared targets."""
    square_before: float
    """Sum of the squared errors without the change."""
    square_after: float
    """Sum of the squared errors with it."""


def fit_constant(
    node: fx.Node, layer: BranchLayer, dense: Execution, masked: Execution, kept: Tensor
) -> ConstantFit:
    """Fit the constant of a removed branch to what the dense branch gives.

    As for other layers, the constant also makes up for what the shortcut beside it has lost. The
    mean over all positions of all calibration inputs is the solution, so there is nothing to hold
    out: thousands of positions stand behind each number.

    Args:
        node: Call of the layer that leaves the constant.
        layer: Its place in the branch.
        dense: Values of the dense network.
        masked: Values of the masked network.
        kept: Kept output channels of the layer.
    """
    dim = -1 - len(layer.strides)
    shortcut_error = find_shortcut_error(node, dense, masked)
    residual_sum_C = torch.zeros(len(kept), dtype=torch.float64)
    target_square = 0.0
    residual_square = 0.0
    rows = 0
    for batch, values in enumerate(masked.values):
        target = dense.values[batch][node]
        if shortcut_error is not None:
            target = target + shortcut_error(batch)
        target_PC = _positions(target, dim, kept)
        residual_PC = target_PC - _positions(values[node], dim, kept)
        residual_sum_C += residual_PC.sum(0)
        target_square += float(target_PC.square().sum())
        residual_square += float(residual_PC.square().sum())
        rows += len(residual_PC)
    shift_C = residual_sum_C / rows
    # The mean takes its own square away from that of the residuals.
    square_after = max(residual_square - rows * float(shift_C.square().sum()), 0.0)
    return ConstantFit(shift_C, target_square, residual_square, square_after)


def _positions(value: Tensor, dim: int, channels: Tensor) -> Tensor:
    """Return some channels of a value, (positions, channels), float64 on the CPU."""
    return value.movedim(dim, -1).flatten(0, -2).double().cpu()[:, channels]


@dataclass(frozen=True)
class Bypass:
    """Nodes that are left out of a graph, and the values that go past them."""

    inside: frozenset[fx.Node]
    """Nodes of the blocks, which are not computed."""
    results: Mapping[fx.Node, tuple[fx.Node, ...]]
    """Input of a block -> results that are the same as it; several where blocks follow each
    other."""


def find_bypass(graph: fx.Graph, blocks: Collection[str]) -> Bypass:
    """Find the nodes of blocks, and what goes past them.

    Args:
        graph: A captured network.
        blocks: Names of modules.

    Raises:
        UserError: A block has several inputs or results, or is not called.
    """
    inside: set[fx.Node] = set()
    # Result of a block -> its input, which those who read the result get instead.
    passed: dict[fx.Node, fx.Node] = {}
    for block in blocks:
        nodes = {node for node in graph.nodes if _is_within(node, block)}
        inputs: set[fx.Node] = set()
        results: list[fx.Node] = []
        for node in nodes:
            inputs.update(value for value in node.all_input_nodes if value not in nodes)
            if any(user not in nodes for user in node.users):
                results.append(node)
        if len(inputs) != 1 or len(results) != 1:
            raise UserError(
                f"{block} cannot be left out: expected a block with one input and one result, "
                f"found {len(inputs)} and {len(results)}"
            )
        inside |= nodes
        passed[results[0]] = inputs.pop()
    copies: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for result in passed:
        source = passed[result]
        # The input of a block may be the result of another that is left out.
        while source in passed:
            source = passed[source]
        copies[source] = (*copies.get(source, ()), result)
    return Bypass(frozenset(inside), copies)


def _is_within(node: fx.Node, block: str) -> bool:
    """Return whether a node was recorded in the forward of a module, or calls it."""
    if node.op == "call_module" and str(node.target) == block:
        return True
    return any(path == block for path, _ in node.meta.get("nn_module_stack", {}).values())
