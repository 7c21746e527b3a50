"""Layers whose weight the forward computes from those of others: which channels it has.

Before the analysis, each such weight is followed back to the parameters and buffers that it is
computed from (`weight_functions`). If all of them serve computed weights alone, their axes are
bound, and the analysis passes over what lies between them and the layer.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.channels.weight_functions import (
    LAYER_FUNCTIONS,
    NotFollowed,
    WeightCall,
    WeightValue,
    followed,
    summed_axes,
    value_of_tensor,
)
from dhp_sr.graph.call_macs import count_macs
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.graph.computed_weights import CASTS
from dhp_sr.operators.analysis_context import AnalysisContext, FusedWeight


class FusedWeights:
    """Weights of a network that are computed from those of layers.

    Args:
        traced: The network.
        analysis: Learns of them.
    """

    def __init__(self, traced: TracedNetwork, analysis: AnalysisContext) -> None:
        follower = _Follower(traced, analysis)
        calls = follower.calls()
        self._values = traced.values
        self._known = follower.known
        self._analysis = analysis
        for tensors in calls.values():
            for tensor in tensors:
                value = self._known[tensor]
                axes = tuple(names or () for names in value.axes)
                analysis.fused_weights[tensor] = FusedWeight(axes, value.masked)

    def __contains__(self, node: fx.Node) -> bool:
        """Return whether a node has a part in such a weight, so that it needs no rule."""
        return node in self._known

    def record_products(self) -> None:
        """Couple the channels that products of weights sum over, and count their multiply-adds."""
        for node in self._known:
            if not node.op.startswith("call"):
                continue
            call = WeightCall(node, self._known, self._values)
            axes = {}
            for dim, names in enumerate((*self._known[node].axes[:2], summed_axes(call))):
                if names:
                    axes[dim] = self._analysis.bind_axes(names)
            args = fx.node.map_arg(node.args, self._values.__getitem__)
            kwargs = fx.node.map_arg(dict(node.kwargs), self._values.__getitem__)
            macs = count_macs(node, None, args, kwargs)
            if macs:
                self._analysis.record_product(f"{node.name}()", macs, axes)


def bind_as_in_evaluation(analysis: AnalysisContext, evaluation: AnalysisContext) -> None:
    """Bind the axes that evaluation fuses, in the analysis of the form with several branches.

    A buffer of which only the fused form knows, such as the kernel of an identity, loses the
    channels that the other tensors lose.

    Args:
        analysis: Of the form for training.
        evaluation: Of the form for evaluation.
    """
    for fused in evaluation.fused_weights.values():
        for axes in fused.axes:
            known = [axis for axis in sorted(axes) if axis in analysis.axes]
            if known:
                analysis.bind_axes(axes, analysis.axes[known[0]])
    for fused in evaluation.mixed_by_buffers:
        for axis in fused.axes[1]:
            reason = "evaluation mixes channels by a buffer, which masks do not change"
            analysis.pin(analysis.axes.get(axis), reason)


_FACTORIES = (torch.ones, torch.zeros, torch.full, torch.tensor)


class _Follower:
    """Weights of a graph that are followed to the end.

    Args:
        traced: The network.
        analysis: Knows its tensors.
    """

    def __init__(self, traced: TracedNetwork, analysis: AnalysisContext) -> None:
        self.values = traced.values
        self.known: dict[fx.Node, WeightValue] = {}
        """Nodes that have a part in a followed weight, in the order of the forward."""
        self._analysis = analysis
        self._nodes = list(traced.graph_module.graph.nodes)
        self._reads_input: set[fx.Node] = set()
        for node in self._nodes:
            sources = _sources(node)
            if node.op == "placeholder" or not self._reads_input.isdisjoint(sources):
                self._reads_input.add(node)

    def calls(self) -> dict[fx.Node, list[fx.Node]]:
        """Return the layers whose weights are followed -> their computed weight and bias."""
        calls = {}
        for node in self._nodes:
            tensors = self._computed_tensors(node)
            if tensors:
                calls[node] = tensors
        # One that is refused may have parts that others share; these are refused then, too.
        while True:
            self.known = self._followed(calls)
            accepted = {}
            for call, tensors in calls.items():
                if self._is_known(tensors) and self._is_used_here_alone(tensors, calls):
                    accepted[call] = tensors
            if len(accepted) == len(calls):
                return calls
            calls = accepted

    def _computed_tensors(self, node: fx.Node) -> list[fx.Node]:
        """Return the computed weight, and bias, of a call of a function; none for other nodes."""
        if node.op != "call_function" or node.target not in LAYER_FUNCTIONS:
            return []
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False))
        given.update(node.kwargs)
        weight, bias = given["weight"], given.get("bias")
        if given["input"] not in self._reads_input or not _is_computed(weight):
            return []
        # A weight of a single input channel, a depthwise one, has a channel for each entry.
        shape = self.values[weight].shape
        groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
        if len(shape) < 2 or min(shape[:2]) == 1 or groups != 1:
            return []
        tensors = [weight, bias] if _is_computed(bias) else [weight]
        return [] if any(tensor in self._reads_input for tensor in tensors) else tensors

    def _followed(self, calls: dict[fx.Node, list[fx.Node]]) -> dict[fx.Node, WeightValue]:
        """Return the channels of all nodes that the weights are computed from."""
        needed: set[fx.Node] = set()
        waiting = [tensor for tensors in calls.values() for tensor in tensors]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting.extend(_sources(node))
        known: dict[fx.Node, WeightValue] = {}
        for node in self._nodes:
            if node not in needed:
                continue
            try:
                known[node] = self._value(node, known)
            except (NotFollowed, KeyError):  # of itself, or of what it is computed from
                continue
        return known

    def _value(self, node: fx.Node, known: dict[fx.Node, WeightValue]) -> WeightValue:
        value = self.values[node]
        if node.op == "get_attr" and self._analysis.is_tensor_of_network(str(node.target)):
            name = self._analysis.name(str(node.target))
            return value_of_tensor(name, value, is_parameter=name in self._analysis.shapes)
        if node.op == "get_attr" or not _sources(node):
            # A tensor that the forward makes: a kernel that all channels have.
            if isinstance(value, Tensor) and all(size == 1 for size in value.shape[:2]):
                return WeightValue((None,) * value.dim(), (False,) * value.dim(), is_constant=True)
            raise NotFollowed
        return followed(WeightCall(node, known, self.values))

    def _is_known(self, tensors: Iterable[fx.Node]) -> bool:
        """Return whether the channels of weight and bias are known."""
        for number, tensor in enumerate(tensors):
            value = self.known.get(tensor)
            if value is None or any(axes is None for axes in value.axes[: 1 if number else 2]):
                return False
        return True

    def _is_used_here_alone(
        self, tensors: Iterable[fx.Node], calls: dict[fx.Node, list[fx.Node]]
    ) -> bool:
        """Return whether nothing else reads what the tensors are computed from."""
        waiting = list(tensors)
        while waiting:
            node = waiting.pop()
            for user in node.users:
                is_weight = node in calls.get(user, ())
                if user not in self.known and not is_weight:
                    return False
            waiting.extend(_sources(node))
        return True


def _sources(node: fx.Node) -> list[fx.Node]:
    """Return the inputs whose values count for a node's value."""
    if node.op == "call_function" and node.target in _FACTORIES:
        return []
    # Cast to the type of another value, whatever that is.
    is_cast = node.op == "call_method" and node.target in CASTS
    return node.all_input_nodes[:1] if is_cast else node.all_input_nodes


def _is_computed(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op.startswith("call")
