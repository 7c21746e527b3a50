"""Operators that write into a value, and all values that share its memory.

    y = conv(x)
    v = y[:, :4]      a view: it shares the memory of y
    v += x            writes into v, and so into y, for all that read y from here on

Such a write is recorded as what it is (`operator.iadd`). Where nothing sees it but the readers of
its result, it is the same as a plain sum, and becomes one: `y += x` at the end of a residual block.
"""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

PLAIN_ARITHMETIC: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}
"""Function of `y += x` and the like -> that of `y + x`."""

_WRITES = frozenset((*PLAIN_ARITHMETIC, operator.setitem))


def written_argument(node: fx.Node, module: nn.Module | None) -> Any:
    """Return the argument that a call writes into, or the tuple of them; None if it writes none.

    Args:
        node: A call.
        module: The module called, or None.
    """
    if module is not None:
        writes = bool(getattr(module, "inplace", False))
    elif node.kwargs.get("out") is not None:
        return node.kwargs["out"]
    else:
        # torch ends the names of functions and methods that write with an underscore.
        name = str(getattr(node.target, "__name__", node.target))
        writes = name.endswith("_") and not name.endswith("__")
        # The plain function of `&`, of which the name is a word of Python, ends with one, too.
        writes = writes and getattr(node.target, "__module__", "") != "_operator"
        writes = writes or node.target in _WRITES or _is_told_to_write(node)
    if not writes:
        return None
    return node.args[0] if node.args else node.kwargs.get("input")


def _is_told_to_write(node: fx.Node) -> bool:
    """Return whether a function is called with `inplace=True`, by position or by keyword."""
    if node.kwargs.get("inplace"):
        return True
    if node.op != "call_function" or not inspect.isfunction(node.target):
        return False
    names = list(inspect.signature(node.target).parameters)
    position = names.index("inplace") if "inplace" in names else len(node.args)
    return position < len(node.args) and bool(node.args[position])


def sharing_memory(
    written: fx.Node, before: fx.Node, values: Mapping[fx.Node, Any]
) -> list[fx.Node]:
    """Return the nodes whose values share memory with that of a node, in the graph's order.

    Args:
        written: The node, which is left out.
        before: Only nodes before this one are returned.
        values: Value of every node for the example.
    """
    memory = _memory(values[written])
    reached = {written}
    waiting = [written]
    # A view is made of what it is a view of, so all of them are neighbors in the graph.
    while waiting:
        node = waiting.pop()
        for neighbor in (*node.all_input_nodes, *node.users):
            if neighbor in reached or not neighbor < before:
                continue
            if not memory.isdisjoint(_memory(values[neighbor])):
                reached.add(neighbor)
                waiting.append(neighbor)
    return sorted(reached - {written})


def _memory(value: Any) -> set[int]:
    """Return the memory of a tensor, or of a list of them."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    return {item.untyped_storage()._cdata for item in items if isinstance(item, Tensor)}


def infer_in_place(left: Any, right: Any) -> Tensor | None:
    """Return the first operand of an arithmetic operator that writes its result there.

    Args:
        left: First operand.
        right: Second operand.

    Returns:
        None where it is no tensor on the meta device, or the result may not fit into it.
    """
    if not isinstance(left, Tensor) or not left.is_meta or not left.is_floating_point():
        return None
    if isinstance(right, int | float):
        return left
    return left if isinstance(right, Tensor) and right.shape == left.shape else None


def make_plain_where_equal(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> bool:
    """Replace in-place arithmetic by plain arithmetic where the graph computes the same with it.

    That is so where nothing sees the write but the readers of its result. A later reader of the
    very same value (`shortcut = y`, then `y += x`) is given the result.

    Args:
        graph: Changed in place.
        values: Value of every node for the example.

    Returns:
        Whether any was replaced.
    """
    is_changed = False
    for node in graph.nodes:
        plain = PLAIN_ARITHMETIC.get(node.target) if node.op == "call_function" else None
        if plain is None or not _is_plain(node, values):
            continue
        node.target = plain
        is_changed = True
        written = node.args[0]
        if isinstance(values[written], Tensor):
            for alias in (written, *sharing_memory(written, node, values)):
                if is_same_view(values[alias], values[written]):
                    alias.replace_all_uses_with(node, lambda user, node=node: node < user)
    return is_changed


def _is_plain(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Return whether in-place arithmetic does what plain arithmetic does."""
    written: Any = node.args[0]
    other: Any = node.args[1]
    if not isinstance(written, fx.Node) or not isinstance(values[written], Tensor):
        return True  # numbers and sizes cannot be written into
    value = values[written]
    given = values[other] if isinstance(other, fx.Node) else other
    # Written into a value of another type, the result has that type.
    if torch.result_type(value, given) != value.dtype:
        return False
    for alias in sharing_memory(written, node, values):
        same = is_same_view(values[alias], value)
        if not same and sees_write(alias, node, written, values):
            return False
    return True


def is_same_view(value: Any, other: Tensor) -> bool:
    """Return whether a value has the same entries of a memory in the same order as another."""
    if not isinstance(value, Tensor):
        return False
    here = (value.shape, value.stride(), value.storage_offset(), value.dtype)
    return here == (other.shape, other.stride(), other.storage_offset(), other.dtype)


def sees_write(
    alias: fx.Node, node: fx.Node, written: fx.Node, values: Mapping[fx.Node, Any]
) -> bool:
    """Return whether a node behind a write reads entries that it has changed.

    Args:
        alias: Node whose value shares memory with what is written into; its readers count.
        node: The call that writes.
        written: The node whose value it writes into.
        values: Value of every node for the example.
    """
    for user in alias.users:
        if not node < user or _asks_for_shape(user):
            continue
        is_view = not _memory(values[user]).isdisjoint(_memory(values[alias]))
        if is_view and written_argument(user, _module(user)) is None:
            # It is its own readers that read entries, maybe others than those written.
            if sees_write(user, node, written, values):
                return True
        elif _overlaps(values[alias], values[written]):
            return True
    return False


def _module(node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None for other nodes."""
    network = node.graph.owning_module
    if node.op != "call_module" or network is None:
        return None
    return network.get_submodule(str(node.target))


def _asks_for_shape(node: fx.Node) -> bool:
    """Return whether a node reads no entries of a value."""
    if node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device", "ndim")
    return node.target in ("size", "dim", "numel")


def _overlaps(value: Any, written: Tensor) -> bool:
    """Return whether two values that share a memory may have entries in common."""
    if not isinstance(value, Tensor) or value.stride() != written.stride():
        return True
    # Views of one tensor: each takes an interval of every axis, and begins where its offset says.
    # y[:, :4] and y[:, 4:] of 64 pixels a channel begin at 0 and at 4 * 64.
    starts = (value.storage_offset(), written.storage_offset())
    axes = sorted(zip(value.stride(), value.shape, written.shape, strict=True), reverse=True)
    is_apart = False
    for number, (step, *lengths) in enumerate(axes):
        if step == 0:
            return True
        first = range(starts[0] // step, starts[0] // step + lengths[0])
        second = range(starts[1] // step, starts[1] // step + lengths[1])
        # Windows that overlap, and axes that run into the next index of the axis outside.
        if number and max(first.stop, second.stop) * step > axes[number - 1][0]:
            return True
        is_apart = is_apart or first.stop <= second.start or second.stop <= first.start
        starts = (starts[0] % step, starts[1] % step)
    return not is_apart
