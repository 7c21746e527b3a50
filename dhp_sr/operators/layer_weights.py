"""Weights of convolutions and linear layers, and the channels that are bound to their axes."""

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _NormBase

from dhp_sr.operators.analysis_context import FusedWeight
from dhp_sr.operators.context import NodeContext, OpContext
from dhp_sr.operators.spec import Unsupported


class LayerWeights:
    """Weight and bias of a layer: a module's, or those that a functional call is given."""

    def __init__(self, op: OpContext) -> None:
        self._op = op
        self.weight: Any = self._tensor("weight", 1)
        """Name of the weight, or the node that computes it."""
        self.bias = self._tensor("bias", 2)

    def _tensor(self, name: str, index: int) -> Any:
        """Return a tensor's name, or the node that computes it; None where there is none."""
        op = self._op
        if op.module is not None:
            if getattr(op.module, name) is None:
                return None
            return f"{op.layer}.{name}"
        node = op.argument(index, name)
        is_constant = isinstance(node, fx.Node) and node.op == "get_attr"
        if is_constant and op.analysis.is_tensor_of_network(str(node.target)):
            return str(node.target)
        return node

    @property
    def layer(self) -> str:
        """Name of the layer, for groups and messages."""
        if self._op.module is None and isinstance(self.weight, str):
            return self.weight.rpartition(".")[0] or self.weight
        return self._op.layer

    def bind_axis(self, dim: int, ids: Tensor) -> Tensor:
        """Couple the entries along axis `dim` of the weight with channels; returns their ids."""
        if isinstance(self.weight, str):
            return self._op.analysis.bind_axis(self.weight, dim, ids)
        if self._fused is not None:
            return self._op.analysis.bind_axes(self._fused.axes[dim], ids)
        self._pin_if_unknown(dim, ids)
        self._op.analysis.union_find.union(self._op.channels(self.weight, dim), ids)
        return ids

    def new_out_channels(self, dim: int, count: int) -> Tensor:
        """Return (count,) ids of the channels that axis `dim` of the weight creates."""
        if isinstance(self.weight, str):
            return self._op.analysis.new_out_channels(self.weight, dim, count, self.layer)
        if self._fused is not None:
            return self._op.analysis.bind_axes(self._fused.axes[dim])
        self._pin_if_unknown(dim, self._op.channels(self.weight, dim))
        return self._op.channels(self.weight, dim)

    @property
    def _fused(self) -> FusedWeight | None:
        """Channels of a weight that is computed from those of layers."""
        return self._op.analysis.fused_weights.get(self.weight)

    def _pin_if_unknown(self, dim: int, ids: Tensor) -> None:
        """Pin channels along an axis of a computed weight whose entries cannot be distinguished."""
        op = self._op
        if self.weight.op == "get_attr" or op.shape(self.weight)[dim] == 1:
            return
        if not op.varies_along(self.weight, dim):
            reason = f"the forward computes the weight of {op.operator} at {op.layer}"
            origin = self._origin()
            if origin is not None:
                reason = f"the forward computes with the values of {origin}"
            op.analysis.pin(ids, f"{reason}, and no rule follows its channels")

    def record_groups(self, dim: int, groups: int) -> None:
        """Record that axis `dim` holds the channels of a single one of equal groups."""
        if isinstance(self.weight, str):
            self._op.analysis.record_groups(self.weight, dim, groups)

    def pin_if_fixed(self, incoming: Tensor) -> None:
        """Pin the input channels of a weight that is a buffer."""
        # Masks act on parameters alone. Through a buffer that mixes channels, whatever constant is
        # left in a masked one (the shift of a normalization before it) would reach the others,
        # while the cut network has no such channel.
        if self._fused is not None:
            op = self._op
            if not self._fused.masked[1] and may_leave_constant(op, op.source):
                reason = f"a buffer is part of the weight at {op.layer}, which masks do not change"
                op.analysis.pin(incoming, reason)
                op.analysis.mixed_by_buffers.append(self._fused)
            return
        name = self._origin()
        if name is not None and self._op.analysis.is_buffer(name):
            reason = f"mixed by the buffer {name} at {self._op.layer}, which masks do not change"
            self._op.analysis.pin(incoming, f"{reason}; as a parameter it could lose channels")

    def _origin(self) -> str | None:
        """Return the name of the weight, also where it is cast or moved before its use."""
        node = self.weight
        while isinstance(node, fx.Node):
            if node.op == "get_attr":
                return str(node.target)
            node = next(iter(node.all_input_nodes), None)
        return node

    def result(self, channels: Tensor, dim: int = 1) -> Tensor:
        """Return the ids of the layer's result; the bias is coupled with them."""
        if isinstance(self.bias, str):
            self._op.analysis.bind_axis(self.bias, 0, channels)
        elif self.bias is None:
            self._bind_unused_bias(channels)
        elif self.bias in self._op.analysis.fused_weights:
            axes = self._op.analysis.fused_weights[self.bias].axes
            self._op.analysis.bind_axes(axes[0], channels)
        else:
            self._op.analysis.union_find.union(self._op.channels(self.bias, 0), channels)
        tensors = [self._op.analysis.fused_weights.get(part) for part in (self.weight, self.bias)]
        if any(tensor is not None and not tensor.masked[0] for tensor in tensors):
            self._op.analysis.leaves_constant[self._op.node] = True
        return self._op.broadcast_along(channels, dim)

    def _bind_unused_bias(self, channels: Tensor) -> None:
        """Bind the bias of a module whose weight alone is given to a function.

        No call reads it, but the module that holds both must still have matching shapes.
        """
        if self._op.module is None and isinstance(self.weight, str):
            bias = f"{self.weight.rpartition('.')[0]}.bias"
            analysis = self._op.analysis
            if analysis.shapes.get(bias) == tuple(channels.shape):
                analysis.bind_axis(bias, 0, channels)


@torch.no_grad()
def may_leave_constant(op: OpContext, node: fx.Node) -> bool:
    """Return whether pruned channels of a value may be other than zeros while they are masked.

    Layers and norms with masked parameters give zeros; `sigmoid(x)` and `elu(x) + 1` do not.

    Args:
        op: Any later node.
        node: The node whose value is asked for.
    """
    known = op.analysis.leaves_constant
    if node in known:
        return known[node]
    name = str(node.target)
    if not node.op.startswith("call"):
        return node.op == "get_attr" and op.analysis.is_buffer(name)
    network = node.graph.owning_module
    assert network is not None, "the graph of a network"
    function: Any = node.target
    if node.op == "call_module":
        function = network.get_submodule(name)
        if next(function.parameters(), None) is not None:
            return False
        if isinstance(function, _NormBase):
            return True  # the running mean is subtracted
    elif getattr(function, "__name__", "").startswith(("conv", "linear")):
        return False
    elif function is operator.setitem:
        value = node.args[2]
        return may_leave_constant(op, value) if isinstance(value, fx.Node) else bool(value != 0)
    elif getattr(function, "__name__", name).startswith("masked_fill"):
        value = op.evaluate(node.args[-1] if len(node.args) > 2 else node.kwargs.get("value"))
        filled: Any = node.args[0]
        return bool(value != 0) or may_leave_constant(op, filled)
    # What the operator makes of single entries in place of the tensors, zeros where they are.
    entries: dict[fx.Node, Any] = {}
    for source in node.all_input_nodes:
        entries[source] = op.values[source]
        if isinstance(entries[source], (Tensor, tuple)):
            if source not in known:
                known[source] = may_leave_constant(op, source)
            entries[source] = torch.full((1,), 0.5 * known[source])
    args: Any = fx.node.map_arg(node.args, entries.__getitem__)
    kwargs: Any = fx.node.map_arg(dict(node.kwargs), entries.__getitem__)
    try:
        if node.op == "call_method":
            function = getattr(args[0], name)
            args = args[1:]
        result = function(*args, **kwargs)
        return isinstance(result, Tensor) and bool((result != 0).any())
    except Exception:  # not for single entries: it moves or selects some
        return any(isinstance(entry, Tensor) and bool(entry) for entry in entries.values())


def weight_shape(op: NodeContext) -> tuple[int, ...]:
    """Return the shape of a layer's weight."""
    if op.module is not None:
        return tuple(op.module.weight.shape)
    return op.shape(op.argument(1, "weight"))


def weight_name(op: OpContext) -> str | None:
    """Return the name of a layer's weight; None where the forward computes it."""
    weight = LayerWeights(op).weight
    if not isinstance(weight, str):
        return None
    return weight


def saved_weights(op: OpContext) -> LayerWeights:
    """Return the weights of a layer.

    Raises:
        Unsupported: No file would hold the weight of the cut layer.
    """
    if op.module is not None and "weight" in op.module._non_persistent_buffers_set:
        raise Unsupported(f"the weight of {op.layer} is a buffer outside the state dict")
    return LayerWeights(op)
