"""The frozen plan: groups of channels that live and die together, and which axis of which tensor each owns."""

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.structure.book import Book, Call
from dhp_sr.structure.rules import pinned, rule_for
from dhp_sr.structure.ties import along
from dhp_sr.structure.trace import trace
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest


@dataclass(frozen=True)
class Group:
    """Channels with a common fate: the i-th of every member is kept or cut together."""

    name: str
    """The layer that first produces the channels."""
    width: int
    """How many there are."""
    prunable: bool
    reason: str
    """Why it is pinned; empty for a prunable group."""
    members: tuple[str, ...]
    """All layers that produce channels of the group."""
    start: int
    """Offset in the flat vector of all prunable channels; -1 for a pinned group."""

    @property
    def span(self) -> slice:
        """The group's part of the flat vector."""
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer."""

    tensor: str
    """Name as in the state dict."""
    dim: int
    index: Tensor
    """For each entry, its channel in the flat vector, or the vector's length where it is pinned."""


@dataclass(frozen=True)
class Layer:
    """A weight that multiplies."""

    weight: str
    kind: str
    positions: int
    """How often each entry is multiplied, for one sample of the example's size."""
    shape: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds at full width."""
        return self.positions * math.prod(self.shape)


@dataclass(frozen=True)
class ChannelPlan:
    """Everything that conversion, budget and cut need to know of a network."""

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    layers: tuple[Layer, ...]
    parameters: dict[str, tuple[int, ...]]
    """Shape of every parameter."""

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that can be pruned."""
        return tuple(group for group in self.groups if group.prunable)

    @property
    def size(self) -> int:
        """Number of prunable channels: length of the flat vector."""
        return sum(group.width for group in self.prunable)


def make_plan(network: nn.Module, example_input: Tensor, exclude: Sequence[str] = ()) -> ChannelPlan:
    """Plan how a network can be pruned.

    Args:
        network: any traceable network; it is left as it was.
        example_input: one input batch; MACs are counted at its size.
        exclude: names or patterns (`body.*`) of layers whose output channels must stay.

    Raises:
        TraceError: the network cannot be traced or run.
        UserError: a pattern names no layer.
    """
    exclude = [exclude] if isinstance(exclude, str) else exclude
    book = _walk(network, example_input, exclude)
    groups, channel_of = _group(book)
    size = sum(group.width for group in groups if group.prunable)
    roots = book.ties.roots()
    axes = tuple(
        Axis(tensor, dim, torch.tensor([channel_of.get(roots[atom], size) for atom in atoms.tolist()]))
        for (tensor, dim), atoms in book.axes.items()
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    layers = tuple(Layer(name, book.kinds[name], count, shapes[name]) for name, count in book.positions.items())
    return ChannelPlan(groups, axes, layers, shapes)


def _walk(network: nn.Module, example_input: Tensor, exclude: Sequence[str]) -> Book:
    traced = trace(network, example_input)
    book, atoms = Book(network), {}
    modules = dict(traced.graph_module.named_modules())
    for node in traced.graph_module.graph.nodes:
        module = modules[node.target] if node.op == "call_module" else None
        call = Call(node, module, traced.values[node], traced.values, atoms, book)
        atoms[node] = _visit(call)
        if any(fnmatch.fnmatch(call.layer, pattern) for pattern in exclude):
            book.pin(atoms[node], "excluded by name")
    _check_names(exclude, [str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"])
    return book


def _check_names(patterns: Sequence[str], layers: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise UserError(
                f"exclude: {pattern!r} names no layer{nearest(pattern, layers)}; the layers are "
                f"{', '.join(layers[:5])}, ... and patterns such as 'body.*' name several"
            )


def _visit(call: Call) -> Any:
    node = call.node
    if node.op == "placeholder":
        return _input(call)
    if node.op == "get_attr":
        return _constant(call)
    if node.op == "output":
        for source in node.all_input_nodes:
            call.book.pin(call.atoms.get(source), "output of the network")
        return None
    rule = rule_for(node, call.module)
    try:
        return rule(call)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return pinned(call, f"{call.operator} at {call.layer} is called in a way its rule does not know: {error}")


def _input(call: Call) -> Any:
    if not isinstance(call.value, Tensor):
        return None
    channels = call.book.ties.new(call.value.shape[1] if call.value.dim() > 1 else 1, call.layer)
    call.book.ties.pin(channels, "input of the network")
    return along(channels, call.value.dim(), 1) if call.value.dim() > 1 else channels


def _constant(call: Call) -> Tensor | None:
    """A bare parameter or buffer: its one long axis carries channels."""
    if not isinstance(call.value, Tensor):
        return None
    shape, name = list(call.value.shape), str(call.node.target)
    long = [dim for dim, size in enumerate(shape) if size > 1]
    if len(long) != 1:
        channels = call.book.ties.new(1, name)
        call.book.ties.pin(channels, f"constant {name} of shape {tuple(shape)}")
        return channels.reshape([1] * len(shape))
    return along(call.book.produce(name, long[0], shape[long[0]], name), len(shape), long[0])


def _group(book: Book) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Gather classes with the same producers into groups; returns them and the flat place of each class."""
    reasons = book.ties.reasons()
    members: dict[int, dict[str, None]] = {}
    for atom, root in enumerate(book.ties.roots()):
        members.setdefault(root, {})[book.ties.producer[atom]] = None
    bundles: dict[tuple, list[int]] = {}
    for root, producers in members.items():
        bundles.setdefault((tuple(producers), root in reasons), []).append(root)
    groups, channel_of, offset, names = [], {}, 0, {}
    for (producers, is_pinned), roots in bundles.items():
        reason = reasons[roots[0]] if is_pinned else "" if len(roots) > 1 else "a single channel"
        start = -1 if reason else offset
        groups.append(Group(_unique(producers[0], names), len(roots), not reason, reason, producers, start))
        if not reason:
            channel_of.update({root: offset + place for place, root in enumerate(roots)})
            offset += len(roots)
    return tuple(groups), channel_of


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
