"""From a trace to a filled book: every node is visited once, by the rule of its operator."""

import fnmatch
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.reshaped_axes import settle
from dhp_sr.graph.capture import Traced
from dhp_sr.operators import sizes as numbers
from dhp_sr.operators.analysis_state import Book
from dhp_sr.operators.channel_ids import along
from dhp_sr.operators.context import Call, pinned
from dhp_sr.operators.registry import FUNCTIONAL_LAYERS, alike, is_activation, rule_for, takes_sizes
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


def walk(
    network: nn.Module, traced: Traced, exclude: Sequence[str], *, keep_streams: bool = False
) -> Book:
    """Return what the rules find out about a network.

    Args:
        network: the network that was traced.
        traced: its trace.
        exclude: names or patterns of layers whose output channels must stay.
        keep_streams: whether channels of tensors that are summed must stay too.

    Raises:
        UserError: a pattern names no layer.
    """
    book, atoms = Book(network), {}
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    for node in traced.graph_module.graph.nodes:
        module = modules[node.target] if node.op == "call_module" else None
        call = Call(node, module, traced.values[node], traced.values, atoms, book)
        atoms[node] = _visit(call)
        if any(fnmatch.fnmatch(name, pattern) for name in _names(call) for pattern in exclude):
            book.pin(atoms[node], "excluded by name")
        if keep_streams and _sums(call):
            book.pin(atoms[node], f"summed at {call.layer}, and keep_streams is set")
    for node in traced.decided:
        book.pin(atoms[node], f"the forward decides on a number of channels at {node.name}")
    for (tensor, _), channels in book.axes.items():
        if tensor in book.computed_with:
            book.pin(channels, book.computed_with[tensor])
    settle(book, atoms)
    _check_names(exclude, _layer_names(traced, book))
    return book


def _sums(call: Call) -> bool:
    """Return whether a call adds tensors that the network computes, such as a residual to its stream."""
    return call.node.target in SUMS and sum(node.op != "get_attr" for node in call.tensors()) > 1


def _names(call: Call) -> list[str]:
    """Return the names of a call: a module's own, or a node's, and of modules whose weights a function is given."""
    if call.node.target not in FUNCTIONAL_LAYERS:
        return [call.layer]
    given = [node.target for node in call.node.all_input_nodes if node.op == "get_attr"]
    return [call.layer, *(str(target).rpartition(".")[0] or str(target) for target in given)]


def _layer_names(traced: Traced, book: Book) -> list[str]:
    called = [
        str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"
    ]
    return [*called, *(name for name in dict.fromkeys(book.ties.producer) if name not in called)]


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
    if is_activation(node, call.module) and isinstance(call.atoms.get(call.source), Tensor):
        call.book.ties.activate(call.atoms[call.source])
    rule = rule_for(node, call.module)
    try:
        return _apply(rule, call)
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
            call,
            f"{call.operator} at {call.layer} is called in a way its rule does not know: {error}",
        )


def _apply(rule: Callable[[Call], Any], call: Call) -> Any:
    if takes_sizes(rule):
        return rule(call)
    if not call.tensors() and isinstance(call.value, (int, float, bool)):
        return numbers.arithmetic(call)
    for size in call.sizes():
        call.book.pin(size, f"a number of channels goes into {call.operator} at {call.layer}")
    return rule(call)


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
    if not call.book.holds(name):
        advice = " is a plain tensor: register it as a buffer" if call.value.numel() > 1 else ""
        return _pinned_constant(call, f"constant {name} of shape {tuple(shape)}{advice}")
    if all(
        user.target in FUNCTIONAL_LAYERS and user.args[:1] != (call.node,)
        for user in call.node.users
    ):
        return None  # the layer names it
    axis = _channel_axis(shape)
    if axis is None:
        if any(_computes(user, call.node) for user in call.node.users):
            call.book.computed_with[call.book.name(name)] = (
                f"the forward computes with the values of {name}"
            )
        return _pinned_constant(call, f"constant {name} of shape {tuple(shape)}")
    return along(call.book.produce(name, axis, shape[axis], name), len(shape), axis)


def _pinned_constant(call: Call, reason: str) -> Tensor:
    atom = call.book.ties.new(1, str(call.node.target))
    call.book.ties.pin(atom, reason)
    return atom.reshape([1] * call.value.dim())


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
