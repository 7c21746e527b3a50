"""Layers with weights: they hand channels in over to channels out."""

import math

from torch import Tensor, fx

from dhp_sr.operators.analysis_state import Count
from dhp_sr.operators.context import Call


class Weights:
    """The tensors of one layer: a module's own, or those that a functional call is given."""

    def __init__(self, call: Call, weight: int = 1, bias: int = 2) -> None:
        self._call = call
        self.weight = self._tensor("weight", weight)
        self.bias = self._tensor("bias", bias)

    def _tensor(self, name: str, index: int) -> str | fx.Node | None:
        """Return a tensor's name, or the node that computes it."""
        if self._call.module is not None:
            return (
                None if getattr(self._call.module, name) is None else f"{self._call.layer}.{name}"
            )
        node = self._call.argument(index, name)
        named = (
            isinstance(node, fx.Node)
            and node.op == "get_attr"
            and self._call.book.holds(str(node.target))
        )
        return str(node.target) if named else node

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        if self._call.module is not None:
            return tuple(self._call.module.weight.shape)
        return self._call.shape(self._call.argument(1, "weight"))

    @property
    def layer(self) -> str:
        """Name of the layer, for groups and messages."""
        if self._call.module is None and isinstance(self.weight, str):
            return self.weight.rpartition(".")[0] or self.weight
        return self._call.layer

    def own(self, dim: int, atoms: Tensor) -> Tensor:
        """Tie axis `dim` of the weight to `atoms`."""
        if isinstance(self.weight, str):
            return self._call.book.own(self.weight, dim, atoms)
        self._call.book.ties.tie(self._call.channels(self.weight, dim), atoms)
        return atoms

    def produce(self, dim: int, count: int) -> Tensor:
        """Return the channels that axis `dim` of the weight gives."""
        if isinstance(self.weight, str):
            return self._call.book.produce(self.weight, dim, count, self.layer)
        return self._call.channels(self.weight, dim)

    def divide(self, dim: int, groups: int) -> None:
        """Note that axis `dim` holds the channels of one of several groups, which are alike."""
        if isinstance(self.weight, str):
            self._call.book.divide(self.weight, dim, groups)

    def multiply(self, positions: int, kind: str) -> None:
        """Count the uses of the weight."""
        if isinstance(self.weight, str):
            self._call.book.multiply(self.weight, positions, kind)
        if (
            self._call.module is not None
            and "weight" in self._call.module._non_persistent_buffers_set
        ):
            raise ValueError("its weight is a buffer outside the state dict")

    def mix(self, incoming: Tensor) -> None:
        """Let the weight mix channels: a fixed one is not masked, so it must not read any that are cut."""
        name = self._origin()
        if name is not None and self._call.book.is_buffer(name):
            reason = f"mixed by the buffer {name} at {self._call.layer}, which masks leave as it is"
            self._call.book.pin(incoming, f"{reason}; as a parameter it could lose channels")

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
        """Return the atoms of the result; the bias follows them."""
        if isinstance(self.bias, str):
            self._call.book.own(self.bias, 0, channels)
        elif self.bias is not None:
            self._call.book.ties.tie(self._call.channels(self.bias, 0), channels)
        return self._call.spread(channels, dim)


def convolution(call: Call) -> Tensor:
    """Convolution: new output channels; a depthwise one hands its input's channels on."""
    weights, incoming = Weights(call), _incoming(call)
    groups, (out, per_group, *_) = _groups(call, 6), weights.shape
    weights.multiply(math.prod(call.value.shape[2:]), "conv")
    if groups == 1:
        weights.mix(weights.own(1, incoming))
        return weights.outgoing(weights.produce(0, out))
    if per_group == 1:
        _note_groups(call, 6, incoming)
        return weights.outgoing(weights.own(0, incoming.repeat_interleave(out // len(incoming))))
    weights.mix(weights.own(1, tie_parts(call, incoming, groups)[0]))
    weights.divide(1, groups)
    return weights.outgoing(tie_parts(call, weights.produce(0, out), groups).flatten())


def transposed_convolution(call: Call) -> Tensor:
    """Transposed convolution: its weight is (in, out / groups, ...), and each entry meets every input position."""
    weights, incoming = Weights(call), _incoming(call)
    groups, (into, per_group, *_) = _groups(call, 6), weights.shape
    weights.multiply(math.prod(call.shape(call.source)[2:]), "transposed conv")
    if groups > 1 and groups < into:
        tie_parts(call, incoming, groups)
    incoming = weights.own(0, incoming)
    if 1 < groups == into:
        _note_groups(call, 6, incoming)
        return weights.outgoing(incoming.repeat_interleave(per_group))
    weights.divide(1, groups)
    weights.mix(incoming)
    return weights.outgoing(weights.produce(1, per_group).repeat(groups))


def linear(call: Call) -> Tensor:
    """Linear layer on the last axis."""
    weights = Weights(call)
    weights.multiply(math.prod(call.value.shape[1:-1]), "linear")
    weights.mix(weights.own(1, call.channels(call.source, dim=-1)))
    return weights.outgoing(weights.produce(0, weights.shape[0]), dim=-1)


def tie_parts(call: Call, channels: Tensor, parts: int) -> Tensor:
    """Tie the channels at the same place of equal parts, so that the parts stay equally wide; returns one row each."""
    rows = channels.reshape(parts, -1)
    call.book.ties.tie(rows, rows[:1].expand_as(rows))
    return rows


def _incoming(call: Call) -> Tensor:
    """Return the channels that go into a convolution."""
    if call.value.dim() != len(Weights(call).shape):
        raise ValueError("an input without batch axis")
    return call.channels(call.source)


def _groups(call: Call, index: int) -> int:
    return call.module.groups if call.module is not None else call.number(index, "groups", 1)


def _note_groups(call: Call, index: int, channels: Tensor) -> None:
    """A functional depthwise convolution is told its number of channels."""
    if call.module is None:
        counts = Count(call.spread(channels), 1, len(channels), (0, len(channels)))
        call.note(call.place(index, "groups"), counts, call.argument(index, "groups"))
