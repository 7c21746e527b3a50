"""Products of two features: matmul, bmm; `einsum` builds on them.

Each axis of an operand has a letter, as in `einsum`: jmk, jkn -> jmn. For heads h, positions n:

    attention        q (h, n, d) @ k (h, d, n)     over channels: d of q and of k are coupled
                     a (h, n, n) @ v (h, n, d)     over positions: the channels of v pass through
    transposed       q (h, d, n) @ k (h, n, d)     an entry of the result belongs to a channel of q
                                                   and to one of k: whole heads alone are pruned
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.operators.analysis_context import Sign
from dhp_sr.operators.channel_ids import (
    ChannelMatrix,
    compact,
    couple_along,
    union_all,
    varying_axes,
)
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.kept_calls import zero_summed_channels
from dhp_sr.operators.layer_weights import may_leave_constant
from dhp_sr.operators.matrix_products import (
    Term,
    is_between_channels,
    product_between_channels,
)
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings


@dataclass
class Operand:
    """A factor of a product."""

    letters: str
    """One for each axis."""
    ids: Tensor
    """Channel ids, broadcastable to the value."""
    shape: tuple[int, ...]
    node: fx.Node
    is_argument: bool = False
    """Whether it is the value of the node, an argument of the call; else a product of several,
    which may be other than zero where the node is."""

    def varies(self, letter: str) -> bool:
        """Return whether entries along an axis are different channels."""
        return letter in self.letters and self.ids.shape[self.letters.index(letter)] > 1

    def compact(self, op: OpContext) -> None:
        """Leave out axes along which channels were told apart and are coupled by now."""
        if len(varying_axes(self.ids)) > 1:
            self.ids = compact(op.analysis.union_find.roots()[self.ids])

    def couple(self, op: OpContext, letters: Sequence[str]) -> None:
        """Couple the channels along some axes."""
        for letter in letters:
            if self.varies(letter):
                dim = self.letters.index(letter)
                self.ids = couple_along(self.ids, dim, op.analysis.union_find, op.layer)

    def size(self, letter: str) -> int:
        """Return the length of an axis; 1 where the operand does not have it."""
        return self.shape[self.letters.index(letter)] if letter in self.letters else 1

    def laid_out(self, letters: str) -> Tensor:
        """Return the ids with these axes, of length 1 where new; axes left out must not vary."""
        ids = self.ids
        shared = self.letters
        # From the back, so that the axes before keep their numbers.
        for dim in reversed(range(ids.dim())):
            if self.letters[dim] not in letters:
                ids = ids.narrow(dim, 0, 1).squeeze(dim)
                shared = shared.replace(self.letters[dim], "")
        ids = ids.permute([shared.index(letter) for letter in letters if letter in shared])
        for dim, letter in enumerate(letters):
            if letter not in shared:
                ids = ids.unsqueeze(dim)
        return ids


def product_of(
    op: OpContext,
    left: Operand,
    right: Operand,
    out: str,
    name: str = "",
    macs: int | None = None,
) -> Tensor:
    """Return the channel ids of a sum of products, and count its multiply-adds.

    Where both factors have channels along an axis that is summed over, a pruned channel is a zero
    in one of them and adds nothing: they are coupled, and the result has no channels. Any other
    such axis must keep its length, and the result has the channels of the factors along those left.

    Args:
        op: The node.
        left: First factor.
        right: Second factor.
        out: Letters of the result; all others are summed over.
        name: Name of the product, where the node has several.
        macs: Multiply-adds; default: one for each choice of entries along all axes.
    """
    for factor in (left, right):
        factor.compact(op)
    summed: list[str] = []
    over_channels: list[str] = []
    for letter in letters_of(left, right):
        if letter in out:
            continue
        summed.append(letter)
        if left.varies(letter) and right.varies(letter):
            over_channels.append(letter)
    if over_channels:
        counted = _sum_over_channels(op, left, right, over_channels)
        ids = op.analysis.union_find.new_ids(1, op.layer).reshape([1] * len(out))
        op.analysis.union_find.pin(ids, f"sums over channels at {op.layer}")
    else:
        left.couple(op, summed)
        right.couple(op, summed)
        _couple_shared(op, left, right, out)
        ids = _joined(op, left, right, out)
        counted = ids.flatten()
    if macs is None:
        macs = product_of_lengths(left, right, letters_of(left, right))
    if macs:
        op.analysis.record_product(f"{op.node.name}(){name}", macs, {0: counted})
    return ids


def letters_of(left: Operand, right: Operand) -> list[str]:
    """Return the letters of both factors, each once, in their order."""
    return list(dict.fromkeys(left.letters + right.letters))


def product_of_lengths(left: Operand, right: Operand, letters: Sequence[str]) -> int:
    """Return the product of the lengths of some axes."""
    # One of the lengths may be 1, as in broadcasting.
    return math.prod(max(left.size(letter), right.size(letter)) for letter in letters)


def _sum_over_channels(
    op: OpContext, left: Operand, right: Operand, letters: Sequence[str]
) -> Tensor:
    """Couple the channels of both factors along one axis, and return them."""
    # If there are several (heads x channels), only the longest may lose entries.
    letter = max(letters, key=left.size)
    channels = []
    for factor in (left, right):
        factor.couple(op, [other for other in factor.letters if other != letter])
        channels.append(factor.ids.flatten())
    op.analysis.union_find.union(*channels)
    if may_leave_constant(op, left.node) and may_leave_constant(op, right.node):
        factor = left if left.is_argument else right
        dim = factor.letters.index(letter)
        zero_summed_channels(op, factor.node if factor.is_argument else op.node, dim, channels[0])
    return channels[0]


def _couple_shared(op: OpContext, left: Operand, right: Operand, out: str) -> None:
    """Couple channels along axes that both factors have, where one of them holds no channels."""
    for factor, other in ((left, right), (right, left)):
        for letter in factor.letters:
            # Entries that are no channels stay, and the axis keeps its length; but a single one is
            # broadcast to whatever the factor keeps.
            is_fixed = letter in other.letters and not other.varies(letter)
            if letter in out and is_fixed and other.size(letter) > 1:
                factor.couple(op, [letter])


def _joined(op: OpContext, left: Operand, right: Operand, out: str) -> Tensor:
    """Return the ids of the result."""
    only_left = _varying_alone(left, right)
    only_right = _varying_alone(right, left)
    if only_left and only_right:
        # An entry of the result would belong to a channel of the left and to one of the right. So
        # the left gives up its own. If it has heads left, the right must be pruned by heads, too;
        # if not, nothing of the left can be pruned any more, and the right stays as it is.
        left.couple(op, only_left)
        if left.ids.numel() > 1:
            right.couple(op, only_right)
    # A factor with a single id has no channels that could be pruned.
    laid_out = [factor.laid_out(out) for factor in (left, right) if factor.ids.numel() > 1]
    return union_all(laid_out or [left.laid_out(out)], op.analysis.union_find)


def _varying_alone(factor: Operand, other: Operand) -> list[str]:
    """Return the axes along which one factor has channels and the other has not."""
    return [letter for letter in factor.letters if factor.varies(letter) > other.varies(letter)]


def operand_of(op: OpContext, node: Any, letters: str) -> Operand:
    """Return a factor, with a letter for each of its axes.

    Raises:
        Unsupported: It is no feature.
    """
    if not isinstance(node, fx.Node) or not isinstance(op.ids.get(node), Tensor):
        raise Unsupported(f"a factor of {op.operator} at {op.layer} is no feature")
    return Operand(letters, op.ids[node], op.shape(node), node, is_argument=True)


BATCH_LETTERS = "abcdefghij"
"""Letters of the axes that an operator does not name. As in broadcasting, axes correspond from the
back: three of them are h, i, j, and two are i, j."""


def last_letters(letters: str, count: int) -> str:
    """Return the last letters, none for a count of 0."""
    return letters[len(letters) - count :]


def matmul_channels(op: OpContext) -> Tensor | ChannelMatrix:
    """Multiply the last two axes; those before them are a batch."""
    nodes = (op.source, op.argument(1, "other", op.node.kwargs.get("mat2")))
    terms: list[Term] = []
    out = ""
    for node, last in zip(nodes, ("mk", "kn"), strict=True):
        letters = "k"
        # A vector has neither rows nor columns, and the product with it has not, either.
        if isinstance(node, fx.Node) and len(op.shape(node)) > 1:
            letters = last_letters(BATCH_LETTERS, len(op.shape(node)) - 2) + last
            out += last.replace("k", "")
        terms.append((node, letters))
    out = last_letters(BATCH_LETTERS, op.value.dim() - len(out)) + out
    if is_between_channels(op, terms, out):
        return product_between_channels(op, terms, out)
    left, right = (operand_of(op, node, letters) for node, letters in terms)
    return product_of(op, left, right, out)


def sign_of_factors(op: OpContext) -> Sign:
    """Return the sign of a sum of products, never negative if no factor is."""
    # Not positive: an axis of channels that is summed over may be masked as a whole.
    return min(Sign.NONNEGATIVE, *(op.sign(node) for node in op.node.all_input_nodes))


OPS = (
    OpSpec(
        "matrix product",
        spellings("matmul bmm mm mv", torch, operator),
        channels=matmul_channels,
        receptive_field=whole_image_field,
        sign=sign_of_factors,
    ),
)
