"""Layers with weights: they hand channels in over to channels out."""

import math

from torch import Tensor, fx

from dhp_sr.operators.analysis_context import ChannelRange
from dhp_sr.operators.context import OpContext


class Weights:
    """The tensors of one layer: a module's own, or those that a functional op is given."""

    def __init__(self, op: OpContext, weight: int = 1, bias: int = 2) -> None:
        self._op = op
        self.weight = self._tensor("weight", weight)
        self.bias = self._tensor("bias", bias)

    def _tensor(self, name: str, index: int) -> str | fx.Node | None:
        """Return a tensor's name, or the node that computes it."""
        if self._op.module is not None:
            return None if getattr(self._op.module, name) is None else f"{self._op.layer}.{name}"
        node = self._op.argument(index, name)
        named = (
            isinstance(node, fx.Node)
            and node.op == "get_attr"
            and self._op.analysis.is_tensor_of_network(str(node.target))
        )
        return str(node.target) if named else node

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        if self._op.module is not None:
            return tuple(self._op.module.weight.shape)
        return self._op.shape(self._op.argument(1, "weight"))

    @property
    def layer(self) -> str:
        """Name of the layer, for groups and messages."""
        if self._op.module is None and isinstance(self.weight, str):
            return self.weight.rpartition(".")[0] or self.weight
        return self._op.layer

    def bind_axis(self, dim: int, ids: Tensor) -> Tensor:
        """Tie axis `dim` of the weight to `ids`."""
        if isinstance(self.weight, str):
            return self._op.analysis.bind_axis(self.weight, dim, ids)
        self._op.analysis.union_find.union(self._op.channels(self.weight, dim), ids)
        return ids

    def new_out_channels(self, dim: int, count: int) -> Tensor:
        """Return the channels that axis `dim` of the weight gives."""
        if isinstance(self.weight, str):
            return self._op.analysis.new_out_channels(self.weight, dim, count, self.layer)
        return self._op.channels(self.weight, dim)

    def record_groups(self, dim: int, groups: int) -> None:
        """Note that axis `dim` holds the channels of one of several groups, which are alike."""
        if isinstance(self.weight, str):
            self._op.analysis.record_groups(self.weight, dim, groups)

    def record_macs(self, positions: int, kind: str, out_dim: int = 0) -> None:
        """Count the uses of the weight, and the elements that the layer puts out."""
        if isinstance(self.weight, str):
            self._op.analysis.record_macs(
                self.weight,
                positions,
                kind,
                out_dim=out_dim,
                output_elements=math.prod(self._op.value.shape[1:]),
            )
        if self._op.module is not None and "weight" in self._op.module._non_persistent_buffers_set:
            raise ValueError("its weight is a buffer outside the state dict")

    def mix(self, incoming: Tensor) -> None:
        """Let the weight mix channels: a fixed one is not masked, so it must not read any that are cut."""
        name = self._origin()
        if name is not None and self._op.analysis.is_buffer(name):
            reason = f"mixed by the buffer {name} at {self._op.layer}, which masks leave as it is"
            self._op.analysis.pin(incoming, f"{reason}; as a parameter it could lose channels")

    def _origin(self) -> str | None:
        """Return the name of the weight, also where it is cast or moved before its use."""
        found = self.weight
        while isinstance(found, fx.Node):
            found = (
                str(found.target)
                if found.op == "get_attr"
                else next(iter(found.all_input_nodes), None)
            )
        return found

    def outgoing(self, channels: Tensor, dim: int = 1) -> Tensor:
        """Return the ids of the result; the bias follows them."""
        if isinstance(self.bias, str):
            self._op.analysis.bind_axis(self.bias, 0, channels)
        elif self.bias is not None:
            self._op.analysis.union_find.union(self._op.channels(self.bias, 0), channels)
        return self._op.broadcast_along(channels, dim)


def convolution(op: OpContext) -> Tensor:
    """Convolution: new output channels; a depthwise one hands its input's channels on."""
    weights, incoming = Weights(op), _incoming(op)
    groups, (out, per_group, *_) = _groups(op, 6), weights.shape
    weights.record_macs(math.prod(op.value.shape[2:]), "conv")
    if groups == 1:
        weights.mix(weights.bind_axis(1, incoming))
        return weights.outgoing(weights.new_out_channels(0, out))
    if per_group == 1:
        _note_groups(op, 6, incoming)
        return weights.outgoing(
            weights.bind_axis(0, incoming.repeat_interleave(out // len(incoming)))
        )
    weights.mix(weights.bind_axis(1, union_chunks(op, incoming, groups)[0]))
    weights.record_groups(1, groups)
    return weights.outgoing(union_chunks(op, weights.new_out_channels(0, out), groups).flatten())


def transposed_convolution(op: OpContext) -> Tensor:
    """Transposed convolution: its weight is (in, out / groups, ...), and each entry meets every input position."""
    weights, incoming = Weights(op), _incoming(op)
    groups, (into, per_group, *_) = _groups(op, 6), weights.shape
    # A depthwise one passes its input's channels through, which lie along its first axis.
    out_dim = 0 if 1 < groups == into else 1
    weights.record_macs(math.prod(op.shape(op.source)[2:]), "transposed conv", out_dim)
    if groups > 1 and groups < into:
        union_chunks(op, incoming, groups)
    incoming = weights.bind_axis(0, incoming)
    if 1 < groups == into:
        _note_groups(op, 6, incoming)
        return weights.outgoing(incoming.repeat_interleave(per_group))
    weights.record_groups(1, groups)
    weights.mix(incoming)
    return weights.outgoing(weights.new_out_channels(1, per_group).repeat(groups))


def linear(op: OpContext) -> Tensor:
    """Linear layer on the last axis."""
    weights = Weights(op)
    weights.record_macs(math.prod(op.value.shape[1:-1]), "linear")
    weights.mix(weights.bind_axis(1, op.channels(op.source, dim=-1)))
    return weights.outgoing(weights.new_out_channels(0, weights.shape[0]), dim=-1)


def union_chunks(op: OpContext, channels: Tensor, parts: int) -> Tensor:
    """Tie the channels at the same place of equal parts, so that the parts stay equally wide; returns one row each."""
    rows = channels.reshape(parts, -1)
    op.analysis.union_find.union(rows, rows[:1].expand_as(rows))
    return rows


def _incoming(op: OpContext) -> Tensor:
    """Return the channels that go into a convolution."""
    if op.value.dim() != len(Weights(op).shape):
        raise ValueError("an input without batch axis")
    return op.channels(op.source)


def _groups(op: OpContext, index: int) -> int:
    return op.module.groups if op.module is not None else op.arg_value(index, "groups", 1)


def _note_groups(op: OpContext, index: int, channels: Tensor) -> None:
    """A functional depthwise convolution is told its number of channels."""
    if op.module is None:
        counts = ChannelRange(op.broadcast_along(channels), 1, len(channels), (0, len(channels)))
        op.record_size(op.arg_path(index, "groups"), counts, op.argument(index, "groups"))
