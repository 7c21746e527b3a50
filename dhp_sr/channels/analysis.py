"""Dependency analysis: visit every node of a traced network once, by the channel rule of its operator."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.operators.channel_ids import compact, lay_along
from dhp_sr.operators.context import AnalysisContext, OpContext
from dhp_sr.operators.layers import weight_name
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.sizes import VALUE_FREE_ATTRIBUTES, arithmetic_channels
from dhp_sr.operators.spec import Activation, OpSpec, Unsupported
from dhp_sr.utils.errors import UserError, nearest


def analyze_channels(
    network: nn.Module,
    traced: TracedNetwork,
    exclude: Sequence[str],
    *,
    prune_residual: bool = True,
) -> AnalysisContext:
    """Return the coupled channels, bound axes and sizes of a network.

    Args:
        network: the network that was traced.
        traced: its trace.
        exclude: names or patterns of layers whose output channels are pinned.
        prune_residual: whether channels coupled by residual additions may be pruned.

    Raises:
        UserError: a pattern names no layer.
    """
    analysis = AnalysisContext(network)
    ids: dict[fx.Node, Any] = {}
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    for node in traced.graph_module.graph.nodes:
        module = modules[node.target] if node.op == "call_module" else None
        op = OpContext(node, module, traced.values[node], traced.values, ids, analysis)
        spec = _spec_of(op)
        ids[node] = _visit(op, spec)
        if _is_excluded(op, spec, exclude):
            analysis.pin(ids[node], "excluded by name")
        if spec is not None and spec.is_sum and not prune_residual and _adds_features(op):
            analysis.pin(ids[node], f"summed at {op.layer}, and residual channels are kept")
    for node in traced.guards:
        analysis.pin(ids[node], f"the forward decides on a number of channels at {node.name}")
    for (tensor, _), channels in analysis.axes.items():
        if tensor in analysis.read_as_values:
            analysis.pin(channels, analysis.read_as_values[tensor])
    resolve_reshaped_axes(analysis, ids)
    _check_patterns(exclude, _layer_names(traced, analysis))
    return analysis


def _spec_of(op: OpContext) -> OpSpec | None:
    """Return the registry entry of a call; None for inputs, constants and outputs."""
    is_call = op.node.op in ("call_module", "call_function", "call_method")
    return spec_for(op.node, op.module) if is_call else None


def _visit(op: OpContext, spec: OpSpec | None) -> Any:
    """Return the channel ids of a node's value."""
    if op.node.op == "placeholder":
        return _input(op)
    if op.node.op == "get_attr":
        return _constant(op)
    if spec is None:
        for source in op.node.all_input_nodes:
            op.analysis.pin(op.ids.get(source), "output of the network")
        return None
    if spec.activation is Activation.NONLINEARITY and isinstance(op.ids.get(op.source), Tensor):
        op.analysis.union_find.count_activation(op.ids[op.source])
    try:
        result = _apply(op, spec)
    except Unsupported as error:
        return _pin_call(op, str(error))
    op.analysis.signs[op.node] = spec.sign_of(op)
    return result


def _apply(op: OpContext, spec: OpSpec) -> Any:
    if not spec.takes_sizes:
        if not op.tensor_inputs() and isinstance(op.value, (int, float, bool)):
            return arithmetic_channels(op)
        # The operator computes with the number itself: with fewer channels it would compute something else.
        for size in op.channel_sizes():
            reason = f"a number of channels goes into {op.operator} at {op.layer}"
            op.analysis.pin(size, reason)
    if spec.macs is not None:
        calls, weight = spec.macs.count(op), weight_name(op)
        if weight is not None:
            op.analysis.record_macs(weight, calls)
    return spec.channels(op)


def _pin_call(op: OpContext, reason: str) -> Any:
    """Pin every input of a call, and its result; `reason` is shown in the plan."""
    tensors = []
    for node in op.node.all_input_nodes:
        op.analysis.pin(op.ids.get(node), reason)
        if node.op == "get_attr":
            tensors.append(str(node.target))
    if op.module is not None:
        tensors += [f"{op.layer}.{name}" for name, _ in op.module.named_parameters()]
    for tensor in tensors:
        # Another call may have bound, or may yet bind, the axes of this call's weights: whatever it
        # couples with them must keep the width that this call needs.
        op.analysis.read_as_values.setdefault(op.analysis.name(tensor), reason)
    return _new_pinned(op, op.value, reason)


def _new_pinned(op: OpContext, value: Any, reason: str) -> Any:
    """Return a new pinned id for a result, or for each of several."""
    if isinstance(value, (tuple, list)):
        return [_new_pinned(op, item, reason) for item in value]
    if not isinstance(value, Tensor):
        return None
    channel_id = op.analysis.union_find.new_ids(1, op.layer)
    op.analysis.union_find.pin(channel_id, reason)
    return channel_id.reshape([1] * value.dim())


def _input(op: OpContext) -> Tensor | None:
    if not isinstance(op.value, Tensor):
        return None
    has_channels = op.value.dim() > 1
    channels = op.analysis.union_find.new_ids(op.value.shape[1] if has_channels else 1, op.layer)
    op.analysis.union_find.pin(channels, "input of the network")
    return lay_along(channels, op.value.dim(), 1) if has_channels else channels


def _constant(op: OpContext) -> Tensor | None:
    """Return the channel ids of a parameter, buffer or plain tensor that the forward uses itself."""
    if not isinstance(op.value, Tensor):
        return None
    analysis, name, shape = op.analysis, str(op.node.target), tuple(op.value.shape)
    analysis.signs[op.node] = analysis.sign_of_constant(name)
    if not analysis.is_tensor_of_network(name):
        advice = " is a plain tensor: register it as a buffer" if op.value.numel() > 1 else ""
        return _pinned_constant(op, f"constant {name} of shape {shape}{advice}")
    if all(_is_weight_of(user, op.node) for user in op.node.users):
        return None  # its layer binds its axes
    axis = _channel_axis(shape)
    if axis is None:
        if any(_computes_with(user, op.node) for user in op.node.users):
            reason = f"the forward computes with the values of {name}"
            analysis.read_as_values[analysis.name(name)] = reason
        return _pinned_constant(op, f"constant {name} of shape {shape}")
    return lay_along(analysis.new_out_channels(name, axis, shape[axis], name), len(shape), axis)


def _pinned_constant(op: OpContext, reason: str) -> Tensor:
    channel_id = op.analysis.union_find.new_ids(1, str(op.node.target))
    op.analysis.union_find.pin(channel_id, reason)
    return channel_id.reshape([1] * op.value.dim())


def _is_weight_of(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a functional layer takes a constant as its weight or bias."""
    is_layer = user.op == "call_function" and spec_for(user, None).macs is not None
    return is_layer and user.args[:1] != (constant,)


def _computes_with(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a node works with a constant's values, not only with its shape or type, or as a weight."""
    if user.target is getattr:
        return user.args[1] not in VALUE_FREE_ATTRIBUTES
    if user.op == "call_module" or user.op == "output":
        return True
    value_inputs = spec_for(user, None).value_inputs
    return value_inputs is None or constant in user.args[:value_inputs]


def _channel_axis(shape: Sequence[int]) -> int | None:
    """Return the axis of a constant that holds channels: its only long one, or one of the first two beside a 1."""
    long = [dim for dim, size in enumerate(shape) if size > 1]
    if len(long) == 1:
        return long[0]
    if len(shape) > 2 and min(shape[:2]) == 1 < max(shape[:2]):
        return shape.index(max(shape[:2]))
    return None


def _adds_features(op: OpContext) -> bool:
    """Return whether a sum adds tensors that the network computes, not a parameter."""
    return sum(node.op != "get_attr" for node in op.tensor_inputs()) > 1


def _is_excluded(op: OpContext, spec: OpSpec | None, exclude: Sequence[str]) -> bool:
    names = [op.layer]
    if op.node.op == "call_function" and spec is not None and spec.macs is not None:
        # A functional layer is named after the module whose weight it is given.
        for node in op.node.all_input_nodes:
            if node.op == "get_attr":
                names.append(str(node.target).rpartition(".")[0] or str(node.target))
    return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in exclude)


def _layer_names(traced: TracedNetwork, analysis: AnalysisContext) -> list[str]:
    names = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "call_module":
            names[str(node.target)] = None
    return list({**names, **dict.fromkeys(analysis.union_find.producer)})


def _check_patterns(patterns: Sequence[str], layers: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise UserError(
                f"exclude: {pattern!r} names no layer{nearest(pattern, layers)}; the layers are "
                f"{', '.join(layers[:5])}, ... and patterns such as 'body.*' name several"
            )


def resolve_reshaped_axes(analysis: AnalysisContext, ids: Mapping[fx.Node, Any]) -> None:
    """Unite channels until the channels of every value vary along one axis alone.

    `x.view(n, 2, c // 2, h, w)` lays c channels along two axes. A cut value must again be a full block, so either the
    second or the third axis may lose entries, the same ones at each index of the other. The axis whose length the
    forward infers itself is chosen, else the longest.
    """
    waiting: list[tuple[fx.Node, Tensor]] = []
    for node, result in ids.items():
        for value in result if isinstance(result, list) else [result]:
            if isinstance(value, Tensor) and _count_long_axes(value) > 1:
                waiting.append((node, value))
    while waiting:
        # Each union may settle further values (a view and its inverse), so only the first is resolved before
        # the classes are computed again.
        roots = analysis.union_find.roots()
        unresolved = []
        for node, value in waiting:
            classes = compact(roots[value])
            if _count_long_axes(classes) > 1:
                if not unresolved:
                    _resolve(analysis, node, value, classes)
                unresolved.append((node, value))
        waiting = unresolved


def _resolve(analysis: AnalysisContext, node: fx.Node, ids: Tensor, classes: Tensor) -> None:
    inferred = analysis.inferred_axes.get(node.name, set())
    axes = [dim for dim, size in enumerate(classes.shape) if size > 1]
    kept = max(axes, key=lambda dim: (dim in inferred, classes.shape[dim]))
    rows = ids.movedim(kept, 0).flatten(1)
    analysis.union_find.union(rows, rows[:, :1].expand_as(rows))


def _count_long_axes(ids: Tensor) -> int:
    return sum(size > 1 for size in ids.shape)
