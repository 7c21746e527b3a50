"""Dependency analysis: visit every node of a traced network by its channel rule."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, fx, nn

from dhp_sr.channels.constant_channels import channels_of_constant
from dhp_sr.channels.fused_weights import FusedWeights, bind_as_in_evaluation
from dhp_sr.channels.reshaped_axes import resolve_reshaped_axes
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.operators.analysis_context import AnalysisContext, Sign
from dhp_sr.operators.channel_ids import lay_along, union_all
from dhp_sr.operators.channel_matrices import channels_of_matrices, has_matrix, read_as_matrices
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import pin_ambiguous_calls
from dhp_sr.operators.layer_weights import may_leave_constant, weight_name
from dhp_sr.operators.position_mixing import mixes_positions, record_mixed_positions
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.sizes import arithmetic_channels
from dhp_sr.operators.spec import Activation, OpSpec, Unsupported
from dhp_sr.utils.errors import UserError, nearest


def analyze_channels(
    network: nn.Module,
    traced: TracedNetwork,
    exclude: Sequence[str],
    *,
    prune_residual: bool = True,
    kept_statistics: bool = True,
    evaluation: AnalysisContext | None = None,
) -> AnalysisContext:
    """Return the coupled channels, bound axes and sizes of a network.

    Args:
        network: The network that was traced.
        traced: Its trace.
        exclude: Names or patterns of layers whose output channels are pinned.
        prune_residual: Whether channels coupled by residual additions may be pruned.
        kept_statistics: Whether layers may take their statistics over the kept channels; else
            such channels are pinned.
        evaluation: Analysis of the form for evaluation, where the trace is of that for training.

    Raises:
        UserError: A pattern names no layer.
    """
    analysis = AnalysisContext(network, traced.computed_layers, kept_statistics=kept_statistics)
    ids: dict[fx.Node, Any] = {}
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    fused_weights = FusedWeights(traced, analysis)
    called: dict[fx.Node, nn.Module] = {}
    specs: dict[fx.Node, OpSpec] = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "call_module":
            called[node] = modules[node.target]
        if node.op.startswith("call"):
            specs[node] = spec_for(node, called.get(node))
    analysis.read_as_matrices = read_as_matrices(specs)
    for node in traced.graph_module.graph.nodes:
        if node in fused_weights:
            ids[node] = None
            continue
        module, spec = called.get(node), specs.get(node)
        op = OpContext(node, module, traced.values[node], traced.values, ids, analysis)
        ids[node] = channels_of_node(op, spec)
        if _matches(names_of_call(op, spec), exclude):
            analysis.pin(ids[node], "excluded by name")
        if not prune_residual and spec is not None and spec.is_sum:
            # Scales and shifts are parameters (get_attr); both operands of a residual addition are
            # computed.
            computed = [operand for operand in op.tensor_inputs() if operand.op != "get_attr"]
            if len(computed) > 1:
                analysis.pin(ids[node], f"summed at {op.layer}, and residual channels are kept")
    fused_weights.record_products()
    if evaluation is not None:
        bind_as_in_evaluation(analysis, evaluation)
    couple_by_whole_graph(traced, analysis, ids)
    check_patterns(exclude, traced, analysis)
    return analysis


def couple_by_whole_graph(
    traced: TracedNetwork, analysis: AnalysisContext, ids: dict[fx.Node, Any]
) -> None:
    """Pin and couple channels for reasons that no single node shows."""
    pin_ambiguous_calls(ids, analysis)
    # The trace holds for these numbers alone: branches, loops and int() were decided with them.
    for node in traced.guards:
        analysis.pin(ids[node], f"the forward decides on a number of channels at {node.name}")
    # Only now, since a weight may be bound after the node that reads its values.
    for (tensor, _), channels in analysis.axes.items():
        if tensor in analysis.read_as_values:
            analysis.pin(channels, analysis.read_as_values[tensor])
    pin_unused(analysis)
    resolve_reshaped_axes(analysis, ids)


def channels_of_node(op: OpContext, spec: OpSpec | None) -> Any:
    """Return the channel ids of a node's value.

    Args:
        op: The node.
        spec: The registry entry of a call; None for inputs, constants and outputs.
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
    sign = Sign.ANY
    try:
        channels = united_with_out(op, channels_of_call(op, spec))
        sign = spec.sign_of(op)
    except Unsupported as error:
        channels = pin_call(op, str(error))
    op.analysis.signs[op.node] = sign
    overwritten = op.overwritten()
    for node in overwritten:
        # Some of its entries have the new sign, the others the one that they had.
        op.analysis.signs[node] = min(sign, op.analysis.signs.get(node, Sign.ANY))
    if overwritten:
        record_constants_left(op, overwritten)
    return channels


def united_with_out(op: OpContext, channels: Any) -> Any:
    """Unite the channels of a result with those of the value `out=` that it is written into.

    Raises:
        Unsupported: There are several of them, or they are not told apart alike.
    """
    out = op.node.kwargs.get("out")
    if out is None:
        return channels
    known = op.ids.get(out) if isinstance(out, fx.Node) else None
    if not isinstance(channels, Tensor) or not isinstance(known, Tensor):
        raise Unsupported(f"{op.operator} at {op.layer} writes into values without channels")
    assert isinstance(out, fx.Node), "it has channels"
    if tuple(op.value.shape) != op.shape(out):
        raise Unsupported(f"{op.operator} at {op.layer} writes into a value of another shape")
    return union_all([channels, known], op.analysis.union_find)


def record_constants_left(op: OpContext, overwritten: Iterable[fx.Node]) -> None:
    """Record which values are other than zeros where they are masked, once one is written into."""
    is_written = may_leave_constant(op, op.node)
    for node in overwritten:
        known = is_written or may_leave_constant(op, node)
        op.analysis.leaves_constant[node] = known


def channels_of_input(op: OpContext) -> Tensor | None:
    """Return new pinned ids for an input of the network; None for one that is not given."""
    if not isinstance(op.value, Tensor):
        return None
    # The user's images have all of their channels: nothing of an input can be pruned.
    rank = op.value.dim()
    if rank == 0:  # a noise level for all images
        return op.analysis.new_pinned(op.value, op.layer, "input of the network")
    count = 1
    if rank > 1:
        count = op.value.shape[1]
    channels = op.analysis.union_find.new_ids(count, op.layer)
    op.analysis.union_find.pin(channels, "input of the network")
    return lay_along(channels, rank, dim=min(1, rank - 1))


def channels_of_call(op: OpContext, spec: OpSpec) -> Any:
    """Apply the channel rule of a call, and count its multiply-adds.

    Raises:
        Unsupported: The rule does not handle this call.
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
        if mixes_positions(op):
            record_mixed_positions(op)
        elif weight is not None:
            op.analysis.record_macs(weight, calls)
            op.analysis.counted_calls.add(op.node)
    channels = channels_of_matrices(op, spec) if has_matrix(op) else spec.channels(op)
    if spec.macs is not None and weight is None:
        record_computed_weight(op)
    return channels


def record_computed_weight(op: OpContext) -> None:
    """Count the multiply-adds of a layer whose weight the forward computes.

    The weight has the channels of what it is computed from.
    """
    weight = op.argument(1, "weight")
    fused = op.analysis.fused_weights.get(weight)
    axes = {}
    for dim in (0, 1):
        if fused is not None:
            axes[dim] = op.analysis.bind_axes(fused.axes[dim])
        elif isinstance(op.ids.get(weight), Tensor) and op.varies_along(weight, dim):
            axes[dim] = op.channels(weight, dim)
    op.analysis.record_product(f"{op.node.name}()", op.macs, axes)


def pin_call(op: OpContext, reason: str) -> Any:
    """Pin every input of a call, its weights, and its result.

    Args:
        op: The call.
        reason: Shown in the plan.
    """
    # Not where they were recorded with a weight before the rule refused the call.
    is_counted = op.node in op.analysis.counted_calls
    if isinstance(op.value, (Tensor, tuple, list)) and not is_counted:
        macs = op.macs
        if macs:
            op.analysis.record_product(f"{op.node.name}()", macs, {})
    tensors: list[str] = []
    for node in op.node.all_input_nodes:
        op.analysis.pin(op.ids.get(node), reason)
        if node in op.analysis.fused_weights:
            for axes in op.analysis.fused_weights[node].axes:
                tensors.extend(name for name, _ in axes)
        if node.op == "get_attr":
            tensors.append(str(node.target))
    if op.module is not None:
        for name, _ in op.module.named_parameters():
            tensors.append(f"{op.layer}.{name}")
    for tensor in tensors:
        # Another call may have bound, or may yet bind, the axes of this call's weights: whatever it
        # couples with them must keep the width that this call needs.
        op.analysis.read_as_values.setdefault(op.analysis.name(tensor), reason)
    return op.analysis.new_pinned(op.value, op.layer, reason)


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


def pin_unused(analysis: AnalysisContext) -> None:
    """Pin the channels of tensors that the forward makes and no layer creates or reads."""
    roots = analysis.union_find.roots()
    bound = {int(root) for ids in analysis.axes.values() for root in roots[ids]}
    for ids, node in analysis.made_channels:
        if bound.isdisjoint(roots[ids].tolist()):
            analysis.pin(ids, f"a tensor that the forward makes at {node}")


def check_patterns(
    patterns: Sequence[str], traced: TracedNetwork, analysis: AnalysisContext
) -> None:
    """Check that every pattern names a layer.

    Raises:
        UserError: A pattern names none.
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
