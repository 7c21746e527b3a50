"""Products of the channels of one feature with another's, and what is done to them.

    attention between channels   q (c, n) @ k (d, n)^T -> (c, d) -> softmax -> @ v (d, n) -> (c, n)
    linear attention             k (n, d)^T @ v (n, e) -> (d, e),    q (n, d) @ (d, e) -> (n, e)

An entry of such a product belongs to two channels, see `ChannelMatrix`. It is told apart from other
values where all that it leads to, up to further products, has a rule here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.channel_ids import ChannelMatrix
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import keep_channels_of_call, keep_channels_of_module
from dhp_sr.operators.spec import OpSpec, Unsupported

PRODUCTS = ("matrix product", "einsum")
"""Operators that multiply features, which take matrices of channels as any other."""


def has_matrix(op: OpContext) -> bool:
    """Return whether any input of a call has channels along several axes."""
    return any(isinstance(op.ids.get(node), ChannelMatrix) for node in op.node.all_input_nodes)


def channels_of_matrices(op: OpContext, spec: OpSpec) -> Any:
    """Apply the rule of a call with a matrix of channels among its inputs.

    Raises:
        Unsupported: There is none, or it does not handle this call.
    """
    if spec.name in PRODUCTS:
        return spec.channels(op)
    # What was read of a value before it is written into would not be known any more.
    if spec.name not in RULES or op.overwritten():
        raise Unsupported(f"{op.operator} at {op.layer} of products between channels")
    return RULES[spec.name](op)


def _matrix(op: OpContext, argument: Any) -> ChannelMatrix:
    ids = op.ids.get(argument) if isinstance(argument, fx.Node) else None
    if not isinstance(ids, ChannelMatrix):
        raise Unsupported(f"{op.operator} at {op.layer} of products between channels, and others")
    return ids


def _entrywise(op: OpContext) -> ChannelMatrix:
    """Keep the channels of a function of every entry."""
    matrix = _matrix(op, op.source)
    is_zero_at_zero = not bool(op.apply(torch.zeros(1)).any())
    return replace(matrix, masked=tuple(is_zero_at_zero and zero for zero in matrix.masked))


def _scaled(op: OpContext) -> ChannelMatrix:
    """Keep the channels of a product with a number, or with another matrix."""
    first, second = op.argument(0, "input"), op.argument(1, "other")
    if _is_one_value(op, second):
        return _matrix(op, first)
    if op.operator == "mul" and _is_one_value(op, first):
        return _matrix(op, second)
    if op.operator != "mul":
        raise Unsupported(f"division of products between channels at {op.layer}")
    return _united(op, first, second, any)


def _summed(op: OpContext) -> ChannelMatrix:
    """Keep the channels of a sum with a number, or with another matrix."""
    first, second = op.argument(0, "input"), op.argument(1, "other")
    for argument, other in ((first, second), (second, first)):
        if _is_one_value(op, other):
            matrix = _matrix(op, argument)
            return replace(matrix, masked=(False,) * len(matrix.masked))
    return _united(op, first, second, all)


def _is_one_value(op: OpContext, argument: Any) -> bool:
    """Return whether an argument is a number, or a single one for all channels."""
    if not isinstance(argument, fx.Node):
        return True
    value, ids = op.evaluate(argument), op.ids.get(argument)
    return not isinstance(value, Tensor) or (isinstance(ids, Tensor) and value.numel() == 1)


def _united(op: OpContext, first: Any, second: Any, decide: Callable[..., bool]) -> ChannelMatrix:
    """Unite the channels of two matrices, broadcast; `decide` by which of them are masked."""
    left, right = _matrix(op, first), _matrix(op, second)
    axes: list[Tensor | None] = []
    for dim, channels in enumerate(zip(left.axes, right.axes, strict=True)):
        known = [along for along in channels if along is not None]
        lengths = (op.shape(first)[dim], op.shape(second)[dim])
        if len(known) == 1 and 1 not in lengths:
            raise Unsupported(f"{op.operator} at {op.layer} of products between other channels")
        if len(known) == 2:
            op.analysis.union_find.union(*known)
        axes.append(known[0] if known else None)
    masked = [decide(zeros) for zeros in zip(left.masked, right.masked, strict=True)]
    return ChannelMatrix(tuple(axes), tuple(masked))


def _expanded(op: OpContext) -> ChannelMatrix:
    """Keep the channels of a matrix that is expanded to another's shape."""
    matrix = _united(op, op.source, op.argument(1, "other"), any)
    return replace(matrix, masked=(False,) * len(matrix.masked))


def _extreme(op: OpContext) -> Any:
    """Keep the channels of a maximum along one axis, over those that are kept."""
    matrix = _matrix(op, op.source)
    axis = op.arg_value(1, "dim")
    items = [user.args[1:] for user in op.node.users]
    tells_index = isinstance(op.value, tuple) and any(item != (0,) for item in items)
    result = op.value[0] if isinstance(op.value, tuple) else op.value
    keeps_axis = isinstance(axis, int) and result.dim() == len(matrix.axes)
    if tells_index or not keeps_axis or op.operator.startswith("arg"):
        raise Unsupported(f"{op.operator} of products between channels at {op.layer}")
    axis %= len(matrix.axes)
    if matrix.axes[axis] is not None:
        keep_channels_of_call(op, axis, returns_channels=False)
    axes = [None if dim == axis else along for dim, along in enumerate(matrix.axes)]
    reduced = ChannelMatrix(tuple(axes), (False,) * len(axes))
    return [reduced] * len(op.value) if isinstance(op.value, tuple) else reduced


def _softmax(op: OpContext) -> ChannelMatrix:
    """Keep the channels; where the softmax is over channels, it is over those that are kept."""
    matrix = _matrix(op, op.source)
    axis = op.option(1, "dim")
    if not isinstance(axis, int):
        raise Unsupported(f"{op.operator} without an axis at {op.layer}")
    axis %= len(matrix.axes)
    # The softmax of zeros is none.
    masked = [False] * len(matrix.axes)
    if matrix.axes[axis] is not None:
        if op.module is not None:
            keep_channels_of_module(op, axis)
        else:
            keep_channels_of_call(op, axis, returns_channels=True)
        masked[axis] = True
    return ChannelMatrix(matrix.axes, tuple(masked))


def _moved(op: OpContext) -> ChannelMatrix:
    """Move the axes as those of the entries."""
    matrix = _matrix(op, op.source)
    # A value whose axes have different lengths tells which of them is where; those of length 1 have
    # no channels, and may be left out or added.
    lengths = [1 if size == 1 else 2 + dim for dim, size in enumerate(op.shape(op.source))]
    order = list(op.apply(torch.empty(lengths, device="meta")).shape)
    axes: list[Tensor | None] = []
    for length in order:
        axes.append(None if length == 1 else matrix.axes[length - 2])
    masked = [length > 1 and matrix.masked[length - 2] for length in order]
    return ChannelMatrix(tuple(axes), tuple(masked))


_ENTRYWISE = (
    "relu relu6 leaky_relu elu gelu silu tanh sigmoid identity dropout abs square exp negation"
)

RULES: dict[str, Callable[[OpContext], Any]] = {
    **dict.fromkeys(_ENTRYWISE.split(), _entrywise),
    **dict.fromkeys(("copy", "cast"), lambda op: _matrix(op, op.source)),
    **dict.fromkeys(("multiply", "divide"), _scaled),
    **dict.fromkeys(("add", "subtract"), _summed),
    "softmax": _softmax,
    "permute": _moved,
    "attribute": _moved,
    "extreme over axes": _extreme,
    "expand_as": _expanded,
}
"""Name of an operator -> its rule for matrices of channels."""


def read_as_matrices(specs: dict[fx.Node, OpSpec]) -> set[fx.Node]:
    """Return the nodes that lead to products alone, by way of operators that have a rule here.

    Args:
        specs: Calls of a graph, in its order -> their registry entries.
    """
    found: set[fx.Node] = set()
    for node in reversed(specs):
        users = list(node.users)
        if users and all(_is_followed(user, specs.get(user), found) for user in users):
            found.add(node)
    return found


def _is_followed(user: fx.Node, spec: OpSpec | None, found: set[fx.Node]) -> bool:
    """Return whether a matrix may be an input of a node."""
    if spec is None:
        return False
    if spec.name == "attribute" and user.args[1] not in ("T", "mT", "H", "mH"):
        return False
    # Of the values and indices of `scores.max(-1)`, which are no matrix themselves.
    source: Any = user.args[0] if user.args else None
    is_item = spec.name == "getitem" and source.target in ("max", "min", torch.max, torch.min)
    return spec.name in PRODUCTS or ((is_item or spec.name in RULES) and user in found)
