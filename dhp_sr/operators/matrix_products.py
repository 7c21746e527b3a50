"""Products of features whose channels lie along different axes, see `channel_matrices`.

k (d, n) @ v (n, e)             d and e stay               a matrix of channels
q (m, d) @ the matrix (d, e)    summed over d, e stays     a feature again
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from dhp_sr.operators.channel_ids import ChannelMatrix, couple_along, lay_along, varying_axes
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import zero_summed_channels
from dhp_sr.operators.layer_weights import may_leave_constant
from dhp_sr.operators.spec import Unsupported

Term = tuple[fx.Node, str]
"""A factor of a product, and a letter for each of its axes, as in `einsum`."""


@dataclass
class Factor:
    """A factor with the channels along each of its axes."""

    letters: str
    lengths: dict[str, int]
    """Letter -> length of the axis."""
    channels: dict[str, Tensor]
    """Letter -> (length,) ids of its channels; without axes that have none."""
    masked: dict[str, bool]
    """Letter -> whether all entries of a masked channel along it are zeros."""


def is_between_channels(op: OpContext, terms: Sequence[Term], out: str) -> bool:
    """Return whether a product of two factors has channels along several axes, or one factor has.

    Args:
        op: The call.
        terms: Its factors.
        out: Letters of the result.
    """
    values = [op.ids.get(node) for node, _ in terms]
    if any(isinstance(ids, ChannelMatrix) for ids in values):
        return True
    if op.node not in op.analysis.read_as_matrices:
        return False
    varying = set()
    for ids, (_, letters) in zip(values, terms, strict=True):
        axes = varying_axes(ids) if isinstance(ids, Tensor) else []
        if len(axes) != 1 or letters[axes[0]] not in out:
            return False
        varying.add(letters[axes[0]])
    return len(varying) > 1


def product_between_channels(
    op: OpContext, terms: Sequence[Term], out: str
) -> Tensor | ChannelMatrix:
    """Return the channels of a product, and count its multiply-adds.

    Args:
        op: The call.
        terms: Its two factors.
        out: Letters of the result; all others are summed over.

    Raises:
        Unsupported: A factor has channels of several axes that are not told apart.
    """
    factors = [_factor(op, terms[0], terms[1]), _factor(op, terms[1], terms[0])]
    channels: dict[str, Tensor] = {}
    masked: dict[str, bool] = {}
    for letter in dict.fromkeys(factors[0].letters + factors[1].letters):
        holding = _with_channels(op, factors, letter)
        if not holding:
            continue
        channels[letter] = holding[0].channels[letter]
        op.analysis.union_find.union(channels[letter], holding[-1].channels[letter])
        masked[letter] = any(factor.masked[letter] for factor in holding)
        if letter not in out and not masked[letter]:
            node, letters = terms[factors.index(holding[0])]
            zero_summed_channels(op, node, letters.index(letter), channels[letter])
    if op.macs:
        axes = dict(enumerate(channels.values()))
        op.analysis.record_product(f"{op.node.name}()", op.macs, axes)
    result = ChannelMatrix(
        tuple(channels.get(letter) for letter in out),
        tuple(masked.get(letter, False) for letter in out),
    )
    return _simplified(op, result)


def _factor(op: OpContext, term: Term, other: Term) -> Factor:
    node, letters = term
    ids = op.ids.get(node)
    lengths = dict(zip(letters, op.shape(node), strict=True))
    if isinstance(ids, ChannelMatrix):
        along = dict(zip(letters, ids.axes, strict=True))
        channels = {letter: axis for letter, axis in along.items() if axis is not None}
        return Factor(letters, lengths, channels, dict(zip(letters, ids.masked, strict=True)))
    if isinstance(ids, Tensor) and len(varying_axes(ids)) > 1:
        ids = _along_axis_of(op, ids, letters, other)
    if not isinstance(ids, Tensor) or len(varying_axes(ids)) > 1:
        raise Unsupported(f"channels along several axes at {op.layer}")
    is_masked = not may_leave_constant(op, node)
    channels = {letters[dim]: ids.flatten() for dim in varying_axes(ids)}
    return Factor(letters, lengths, channels, dict.fromkeys(letters, is_masked))


def _along_axis_of(op: OpContext, ids: Tensor, letters: str, other: Term) -> Tensor:
    """Unite channels along the axes that the other factor, a matrix, has no channels for.

    Queries (h, n, d) of several heads, multiplied by a matrix (d, e), are the same d in all heads.
    """
    matrix = op.ids.get(other[0])
    if isinstance(matrix, ChannelMatrix):
        along = dict(zip(other[1], matrix.axes, strict=True))
        for dim in varying_axes(ids):
            if along.get(letters[dim]) is None:
                ids = couple_along(ids, dim, op.analysis.union_find, op.layer)
    return ids


def _with_channels(op: OpContext, factors: Sequence[Factor], letter: str) -> list[Factor]:
    """Return the factors that have channels along an axis, unless it must keep its length."""
    holding = [factor for factor in factors if letter in factor.channels]
    for factor in factors:
        if factor.lengths.get(letter, 1) > 1 and letter not in factor.channels:
            for other in holding:
                reason = f"an axis that keeps its length at {op.layer}"
                op.analysis.pin(other.channels[letter], reason)
            return []
    return holding


def _simplified(op: OpContext, matrix: ChannelMatrix) -> Tensor | ChannelMatrix:
    """Return plain ids where the channels lie along a single axis, or none."""
    dims = [dim for dim, axis in enumerate(matrix.axes) if axis is not None]
    op.analysis.leaves_constant[op.node] = not all(matrix.masked[dim] for dim in dims)
    if len(dims) > 1:
        return matrix
    if not dims:
        reason = f"sums over channels at {op.layer}"
        return op.analysis.new_pinned(op.value, op.layer, reason)
    (channels,) = [axis for axis in matrix.axes if axis is not None]
    return lay_along(channels, len(matrix.axes), dims[0])
