"""Dependency analysis: visit every node of a traced network by its channel rule."""

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
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

_CALLS = ("call_module", "call_function", "call_method")


def analyze_channels(
    network: nn.Module,
    traced: TracedNetwork,
    exclude: Sequence[str],
    *,
    prune_residual: bool = True,
    kept_statistics: bool = True,
) -> AnalysisContext:
    """Return the coupled channels, bound axes and sizes of a network.

    Args:
        network: the network that was traced.
        traced: its trace.
        exclude: names or patterns of layers whose output channels are pinned.
        prune_residual: whether channels coupled by residual additions may be pruned.
        kept_statistics: whether normalizations over channels may normalize over the kept ones;
            else such channels are pinned.

    Raises:
        UserError: a pattern names no layer.
    """
    analysis = AnalysisContext(network, kept_statistics=kept_statistics)
    ids: dict[fx.Node, Any] = {}
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    for node in traced.graph_module.graph.nodes:
        module, spec = None, None
        if node.op == "call_module":
            module = modules[node.target]
        if node.op in _CALLS:
            spec = spec_for(node, module)
        op = OpContext(node, module, traced.values[node], traced.values, ids, analysis)
        ids[node] = channels_of_node(op, spec)
        if _matches(names_of_call(op, spec), exclude):
            analysis.pin(ids[node], "excluded by name")
        # Scales and shifts are parameters (get_attr); both operands of a residual addition are
        # computed.
        computed = sum(operand.op != "get_attr" for operand in op.tensor_inputs())
        is_residual = spec is not None and spec.is_sum and computed > 1
        if is_residual and not prune_residual:
            analysis.pin(ids[node], f"summed at {op.layer}, and residual channels are kept")
    # The trace holds for these numbers alone: branches, loops and int() were decided with them.
    for node in traced.guards:
        analysis.pin(ids[node], f"the forward decides on a number of channels at {node.name}")
    # Only now, since a weight may be bound after the node that reads its values.
    for (tensor, _), channels in analysis.axes.items():
        if tensor in analysis.read_as_values:
            analysis.pin(channels, analysis.read_as_values[tensor])
    resolve_reshaped_axes(analysis, ids)
    check_patterns(exclude, traced, analysis)
    return analysis


def channels_of_node(op: OpContext, spec: OpSpec | None) -> Any:
    """Return the channel ids of a node's value.

    Args:
        op: the node.
        spec: the registry entry of a call; None for inputs, constants and outputs.
    """
    if op.node.op == "placeholder":
        return channels_of_input(op)
    if op.node.op == "get_attr":
        return channels_of_constant(op)
    if spec is None:
        for source in op.node.all_input_nodes:
            op.analysis.pin(op.ids.get(source), "output of the network")
        return None
    # Counted before the rule, so that the ids are those that the activation acts on.
    if spec.activation is Activation.NONLINEARITY and isinstance(op.ids.get(op.source), Tensor):
        op.analysis.union_find.count_activation(op.ids[op.source])
    try:
        channels = channels_of_call(op, spec)
    except Unsupported as error:
        return pin_call(op, str(error))
    op.analysis.signs[op.node] = spec.sign_of(op)
    return channels


def channels_of_input(op: OpContext) -> Tensor | None:
    """Return new pinned ids for an input of the network; None for one that is not given."""
    if not isinstance(op.value, Tensor):
        return None
    # The user's images have all of their channels: nothing of an input can be pruned.
    rank = op.value.dim()
    if rank == 0:  # a noise level for all images
        return _new_pinned(op, op.value, op.layer, "input of the network")
    count = 1
    if rank > 1:
        count = op.value.shape[1]
    channels = op.analysis.union_find.new_ids(count, op.layer)
    op.analysis.union_find.pin(channels, "input of the network")
    return lay_along(channels, rank, dim=min(1, rank - 1))


def channels_of_constant(op: OpContext) -> Tensor | None:
    """Return the channel ids of a tensor that the forward reads itself."""
    if not isinstance(op.value, Tensor):
        return None
    analysis = op.analysis
    name, shape = str(op.node.target), tuple(op.value.shape)
    # Parameters change in training, so only buffers have a sign.
    analysis.signs[op.node] = analysis.sign_of_constant(name)
    if not analysis.is_tensor_of_network(name):
        reason = f"constant {name} of shape {shape}"
        if op.value.numel() > 1:
            reason += " is a plain tensor: register it as a buffer"
        return _new_pinned(op, op.value, name, reason)
    if all(_is_weight_of(user, op.node) for user in op.node.users):
        # Functional layers alone read it, and their rules bind its axes.
        return None
    axis = _axis_of_summand(op, shape)
    if axis is None:
        axis = channel_axis_of_constant(shape)
    if axis is not None:
        channels = analysis.new_out_channels(name, axis, shape[axis], name)
        return lay_along(channels, len(shape), axis)
    if any(_computes_with(user, op.node) for user in op.node.users):
        reason = f"the forward computes with the values of {name}"
        analysis.read_as_values[analysis.name(name)] = reason
    return _new_pinned(op, op.value, name, f"constant {name} of shape {shape}")


def channels_of_call(op: OpContext, spec: OpSpec) -> Any:
    """Apply the channel rule of a call, and count its multiply-adds.

    Raises:
        Unsupported: the rule does not handle this call.
    """
    if not spec.takes_sizes:
        if not op.tensor_inputs() and isinstance(op.value, (int, float, bool)):
            return arithmetic_channels(op)
        # The operator computes with the number itself: with fewer channels it would compute
        # something else.
        for size in op.channel_sizes():
            reason = f"a number of channels goes into {op.operator} at {op.layer}"
            op.analysis.pin(size, reason)
    weight = None
    if spec.macs is not None:
        calls, weight = spec.macs.count(op), weight_name(op)
        if weight is not None:
            op.analysis.record_macs(weight, calls)
    channels = spec.channels(op)
    if spec.macs is not None and weight is None:
        # The forward computes the weight, which has the channels of what it is computed from.
        weight_node = op.argument(1, "weight")
        axes = {}
        for dim in (0, 1):
            if isinstance(op.ids.get(weight_node), Tensor) and op.varies_along(weight_node, dim):
                axes[dim] = op.channels(weight_node, dim)
        op.analysis.record_product(f"{op.node.name}()", op.macs, axes)
    return channels


def pin_call(op: OpContext, reason: str) -> Any:
    """Pin every input of a call, its weights, and its result.

    Args:
        op: the call.
        reason: shown in the plan.
    """
    if isinstance(op.value, (Tensor, tuple, list)) and not _is_counted(op):
        macs = op.macs
        if macs:
            op.analysis.record_product(f"{op.node.name}()", macs, {})
    tensors = []
    for node in op.node.all_input_nodes:
        op.analysis.pin(op.ids.get(node), reason)
        if node.op == "get_attr":
            tensors.append(str(node.target))
    if op.module is not None:
        for name, _ in op.module.named_parameters():
            tensors.append(f"{op.layer}.{name}")
    for tensor in tensors:
        # Another call may have bound, or may yet bind, the axes of this call's weights: whatever it
        # couples with them must keep the width that this call needs.
        op.analysis.read_as_values.setdefault(op.analysis.name(tensor), reason)
    return _new_pinned(op, op.value, op.layer, reason)


def _is_counted(op: OpContext) -> bool:
    """Return whether the multiply-adds of a call were recorded with a weight."""
    try:
        weight = weight_name(op)
    except (AttributeError, TypeError):  # no layer with a weight
        return False
    return weight is not None and op.analysis.name(weight) in op.analysis.layers


def _new_pinned(op: OpContext, value: Any, producer: str, reason: str) -> Any:
    """Return a new pinned id for a result, or for each of a list of results."""
    if isinstance(value, (tuple, list)):
        return [_new_pinned(op, item, producer, reason) for item in value]
    if not isinstance(value, Tensor):
        return None
    # A single id for the whole value: an unknown operator may put any channel anywhere.
    channel_id = op.analysis.union_find.new_ids(1, producer)
    op.analysis.union_find.pin(channel_id, reason)
    return channel_id.reshape([1] * value.dim())


def _is_weight_of(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a functional layer takes a constant as its weight or bias."""
    is_layer = user.op == "call_function" and spec_for(user, None).macs is not None
    return is_layer and constant not in _first_arguments(user, 1)


def _computes_with(user: fx.Node, constant: fx.Node) -> bool:
    """Return whether a node computes with a constant's values."""
    # Not where it asks for the shape or type, or takes the constant as the weight of a layer.
    if user.target is getattr:
        return user.args[1] not in VALUE_FREE_ATTRIBUTES
    if user.op in ("call_module", "output"):
        return True
    value_inputs = spec_for(user, None).value_inputs
    return value_inputs is None or constant in _first_arguments(user, value_inputs)


def _first_arguments(node: fx.Node, count: int) -> list[Any]:
    """Return the first arguments of a call; the very first may be given as `input=`."""
    if "input" in node.kwargs:
        return [node.kwargs["input"], *node.args][:count]
    return list(node.args[:count])


def _axis_of_summand(op: OpContext, shape: Sequence[int]) -> int | None:
    """Return the axis of the channels of what a constant (1, ..., L, C) is added to.

    A table of positions of a transformer has the shape of a map (1, C, L), but lies along tokens.
    """
    if len(shape) != 3:
        return None
    for user in op.node.users:
        if user.op not in _CALLS or user.op == "call_module" or not spec_for(user, None).is_sum:
            continue
        for operand in user.all_input_nodes:
            ids = op.ids.get(operand)
            if not isinstance(ids, Tensor) or ids.dim() != len(shape):
                continue
            axes = _long_axes(ids)
            if len(axes) == 1 and ids.shape[axes[0]] == shape[axes[0]]:
                return axes[0]
    return None


def channel_axis_of_constant(shape: Sequence[int]) -> int | None:
    """Return the axis of a constant that holds channels; None where that is not certain."""
    # The only long axis, as in a scale (1, C, 1, 1). Of a map or a depthwise kernel,
    # (1, C, H, W) or (C, 1, H, W), the long axis of the first two.
    size = max(shape, default=1)
    if size == math.prod(shape) > 1:
        return shape.index(size)
    if len(shape) > 2 and min(shape[:2]) == 1 < max(shape[:2]):
        return shape.index(max(shape[:2]))
    return None


def names_of_call(op: OpContext, spec: OpSpec | None) -> list[str]:
    """Return the names of a node, by which it can be excluded.

    A functional layer also has the name of the module whose weight it is given.
    """
    names = [op.layer]
    if op.node.op == "call_function" and spec is not None and spec.macs is not None:
        for node in op.node.all_input_nodes:
            if node.op == "get_attr":
                tensor = str(node.target)
                names.append(tensor.rpartition(".")[0] or tensor)
    return names


def _matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.filter(names, pattern) for pattern in patterns)


def check_patterns(
    patterns: Sequence[str], traced: TracedNetwork, analysis: AnalysisContext
) -> None:
    """Check that every pattern names a layer.

    Raises:
        UserError: a pattern names none.
    """
    names: dict[str, None] = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "call_module":
            names[str(node.target)] = None
    layers = list({**names, **dict.fromkeys(analysis.union_find.producer)})
    for pattern in patterns:
        if not _matches(layers, [pattern]):
            raise UserError(
                f"exclude: {pattern!r} names no layer{nearest(pattern, layers)}; the layers are "
                f"{', '.join(layers[:5])}, ... and patterns such as 'body.*' name several"
            )


def resolve_reshaped_axes(analysis: AnalysisContext, ids: Mapping[fx.Node, Any]) -> None:
    """Unite channels until the channels of every value vary along a single axis.

    `x.view(n, 2, c // 2, h, w)` lays c channels along two axes. A cut value must again be a full
    block, so either the second or the third axis may lose entries, the same ones at each index of
    the other. The axis whose length the forward infers itself is chosen, else the longest.
    """
    waiting: list[tuple[fx.Node, Tensor]] = []
    for node, result in ids.items():
        values = result if isinstance(result, list) else [result]
        for value in values:
            if isinstance(value, Tensor) and len(_long_axes(value)) > 1:
                waiting.append((node, value))
    while waiting:
        roots = analysis.union_find.roots()
        unresolved: list[tuple[fx.Node, Tensor]] = []
        for node, value in waiting:
            classes = compact(roots[value])
            axes = _long_axes(classes)
            if len(axes) < 2:
                continue
            # A union may settle further values (a view and its inverse), so only the first value is
            # resolved before the classes are computed again.
            if not unresolved:
                inferred = analysis.inferred_axes.get(node.name, set())
                kept = max(axes, key=lambda dim: (dim in inferred, classes.shape[dim]))
                # Along the kept axis entries differ as before; along the others they are united.
                rows = value.movedim(kept, 0).flatten(1)
                analysis.union_find.union(rows, rows[:, :1].expand_as(rows))
            unresolved.append((node, value))
        waiting = unresolved


def _long_axes(ids: Tensor) -> list[int]:
    return [dim for dim, size in enumerate(ids.shape) if size > 1]
