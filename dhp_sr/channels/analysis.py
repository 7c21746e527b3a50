"""From a trace to a filled analysis: every node is visited once, by the rule of its operator."""

import fnmatch
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.reshaped_axes import resolve_reshaped_axes
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.operators import sizes as numbers
from dhp_sr.operators.analysis_context import AnalysisContext
from dhp_sr.operators.channel_ids import lay_along
from dhp_sr.operators.context import OpContext, pinned
from dhp_sr.operators.registry import FUNCTIONAL_LAYERS, alike, is_activation, rule_for, takes_sizes
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


def analyze_channels(
    network: nn.Module,
    traced: TracedNetwork,
    exclude: Sequence[str],
    *,
    prune_residual: bool = True,
) -> AnalysisContext:
    """Return what the rules find out about a network.

    Args:
        network: the network that was traced.
        traced: its trace.
        exclude: names or patterns of layers whose output channels must stay.
        prune_residual: whether channels coupled by residual additions may be pruned.

    Raises:
        UserError: a pattern names no layer.
    """
    analysis, ids = AnalysisContext(network), {}
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    for node in traced.graph_module.graph.nodes:
        module = modules[node.target] if node.op == "call_module" else None
        op = OpContext(node, module, traced.values[node], traced.values, ids, analysis)
        ids[node] = _visit(op)
        if any(fnmatch.fnmatch(name, pattern) for name in _names(op) for pattern in exclude):
            analysis.pin(ids[node], "excluded by name")
        if not prune_residual and _sums(op):
            analysis.pin(ids[node], f"summed at {op.layer}, and residual channels are kept")
    for node in traced.guards:
        analysis.pin(ids[node], f"the forward decides on a number of channels at {node.name}")
    for (tensor, _), channels in analysis.axes.items():
        if tensor in analysis.computed_with:
            analysis.pin(channels, analysis.computed_with[tensor])
    resolve_reshaped_axes(analysis, ids)
    _check_names(exclude, _layer_names(traced, analysis))
    return analysis


def _sums(op: OpContext) -> bool:
    """Return whether a op adds tensors that the network computes, such as a residual to its stream."""
    return op.node.target in SUMS and sum(node.op != "get_attr" for node in op.tensors()) > 1


def _names(op: OpContext) -> list[str]:
    """Return the names of a op: a module's own, or a node's, and of modules whose weights a function is given."""
    if op.node.target not in FUNCTIONAL_LAYERS:
        return [op.layer]
    given = [node.target for node in op.node.all_input_nodes if node.op == "get_attr"]
    return [op.layer, *(str(target).rpartition(".")[0] or str(target) for target in given)]


def _layer_names(traced: TracedNetwork, analysis: AnalysisContext) -> list[str]:
    called = [
        str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"
    ]
    return [
        *called,
        *(name for name in dict.fromkeys(analysis.union_find.producer) if name not in called),
    ]


def _check_names(patterns: Sequence[str], layers: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise UserError(
                f"exclude: {pattern!r} names no layer{nearest(pattern, layers)}; the layers are "
                f"{', '.join(layers[:5])}, ... and patterns such as 'body.*' name several"
            )


def _visit(op: OpContext) -> Any:
    node = op.node
    if node.op == "placeholder":
        return _input(op)
    if node.op == "get_attr":
        return _constant(op)
    if node.op == "output":
        for source in node.all_input_nodes:
            op.analysis.pin(op.ids.get(source), "output of the network")
        return None
    if is_activation(node, op.module) and isinstance(op.ids.get(op.source), Tensor):
        op.analysis.union_find.count_activation(op.ids[op.source])
    rule = rule_for(node, op.module)
    try:
        return _apply(rule, op)
    except (
        AttributeError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        return pinned(
            op,
            f"{op.operator} at {op.layer} is called in a way its rule does not know: {error}",
        )


def _apply(rule: Callable[[OpContext], Any], op: OpContext) -> Any:
    if takes_sizes(rule):
        return rule(op)
    if not op.tensors() and isinstance(op.value, (int, float, bool)):
        return numbers.arithmetic(op)
    for size in op.sizes():
        op.analysis.pin(size, f"a number of channels goes into {op.operator} at {op.layer}")
    return rule(op)


def _input(op: OpContext) -> Any:
    if not isinstance(op.value, Tensor):
        return None
    channels = op.analysis.union_find.new_ids(
        op.value.shape[1] if op.value.dim() > 1 else 1, op.layer
    )
    op.analysis.union_find.pin(channels, "input of the network")
    return lay_along(channels, op.value.dim(), 1) if op.value.dim() > 1 else channels


def _constant(op: OpContext) -> Tensor | None:
    """A bare parameter or buffer: its one long axis carries channels."""
    if not isinstance(op.value, Tensor):
        return None
    shape, name = list(op.value.shape), str(op.node.target)
    if not op.analysis.is_tensor_of_network(name):
        advice = " is a plain tensor: register it as a buffer" if op.value.numel() > 1 else ""
        return _pinned_constant(op, f"constant {name} of shape {tuple(shape)}{advice}")
    if all(
        user.target in FUNCTIONAL_LAYERS and user.args[:1] != (op.node,) for user in op.node.users
    ):
        return None  # the layer names it
    axis = _channel_axis(shape)
    if axis is None:
        if any(_computes(user, op.node) for user in op.node.users):
            op.analysis.computed_with[op.analysis.name(name)] = (
                f"the forward computes with the values of {name}"
            )
        return _pinned_constant(op, f"constant {name} of shape {tuple(shape)}")
    return lay_along(op.analysis.new_out_channels(name, axis, shape[axis], name), len(shape), axis)


def _pinned_constant(op: OpContext, reason: str) -> Tensor:
    channel_id = op.analysis.union_find.new_ids(1, str(op.node.target))
    op.analysis.union_find.pin(channel_id, reason)
    return channel_id.reshape([1] * op.value.dim())


def _computes(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a user works with a constant's values, rather than its shape or type, or as a layer's weight."""
    if user.target is getattr:
        return user.args[1] not in numbers.ABOUT
    if user.target in FUNCTIONAL_LAYERS or rule_for(user, None) is alike:
        return user.args[:1] == (constant,)
    return user.target not in ("size", "dim", "numel")


def _channel_axis(shape: list[int]) -> int | None:
    """Return the axis of a constant that holds channels: its only long one, or one of the first two beside a 1."""
    long = [dim for dim, size in enumerate(shape) if size > 1]
    if len(long) == 1:
        return long[0]
    if len(shape) > 2 and min(shape[:2]) == 1 < max(shape[:2]):
        return shape.index(max(shape[:2]))
    return None
