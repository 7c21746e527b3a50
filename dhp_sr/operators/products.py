"""Products of two features: matmul, bmm, einsum, scaled dot-product attention.

Each axis of an operand has a letter, as in `einsum`: jmk, jkn -> jmn. For heads h, positions n:

    attention        q (h, n, d) @ k (h, d, n)     over channels: d of q and of k are coupled
                     a (h, n, n) @ v (h, n, d)     over positions: the channels of v pass through
    transposed       q (h, d, n) @ k (h, n, d)     an entry of the result belongs to a channel of q
                                                   and to one of k: whole heads alone are pruned
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.graph.self_attention import why_not_followed
from dhp_sr.operators.channel_ids import couple_along, union_all
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.layer_weights import may_leave_constant
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import CannotResize, OpSpec, Shape, Shapes, Unsupported, spellings


@dataclass
class _Operand:
    """A factor of a product."""

    letters: str
    """One for each axis."""
    ids: Tensor
    """Channel ids, broadcastable to the value."""
    shape: tuple[int, ...]
    node: fx.Node

    def varies(self, letter: str) -> bool:
        """Return whether entries along an axis are different channels."""
        return letter in self.letters and self.ids.shape[self.letters.index(letter)] > 1

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


def product_of(op: OpContext, left: _Operand, right: _Operand, out: str, name: str = "") -> Tensor:
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
    """
    summed: list[str] = []
    over_channels: list[str] = []
    macs = 1
    # A dict, for the order of the letters.
    for letter in dict.fromkeys(left.letters + right.letters):
        # One of the sizes may be 1, as in broadcasting.
        macs *= max(left.size(letter), right.size(letter))
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
    op.analysis.record_product(f"{op.node.name}(){name}", macs, {0: counted})
    return ids


def _sum_over_channels(
    op: OpContext, left: _Operand, right: _Operand, letters: Sequence[str]
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
        reason = f"summed over at {op.layer}, and maybe not zero where they are masked"
        op.analysis.pin(channels[0], reason)
    return channels[0]


def _couple_shared(op: OpContext, left: _Operand, right: _Operand, out: str) -> None:
    """Couple channels along axes that both factors have, where one of them holds no channels."""
    for factor, other in ((left, right), (right, left)):
        for letter in factor.letters:
            # Entries that are no channels stay, and the axis keeps its length; but a single one is
            # broadcast to whatever the factor keeps.
            is_fixed = letter in other.letters and not other.varies(letter)
            if letter in out and is_fixed and other.size(letter) > 1:
                factor.couple(op, [letter])


def _joined(op: OpContext, left: _Operand, right: _Operand, out: str) -> Tensor:
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


def _varying_alone(factor: _Operand, other: _Operand) -> list[str]:
    """Return the axes along which one factor has channels and the other has not."""
    return [letter for letter in factor.letters if factor.varies(letter) > other.varies(letter)]


def _operand(op: OpContext, node: Any, letters: str) -> _Operand:
    if not isinstance(node, fx.Node) or not isinstance(op.ids.get(node), Tensor):
        raise Unsupported(f"a factor of {op.operator} at {op.layer} is no feature")
    return _Operand(letters, op.ids[node], op.shape(node), node)


_BATCH = "abcdefghij"
_ELLIPSIS = "STUVWXYZ"
"""Letters of the axes that an operator or an ellipsis does not name. As in broadcasting, axes
correspond from the back: three of them are h, i, j, and two are i, j."""


def _last(letters: str, count: int) -> str:
    """Return the last letters, none for a count of 0."""
    return letters[len(letters) - count :]


def matmul_channels(op: OpContext) -> Tensor:
    """Multiply the last two axes; those before them are a batch."""
    nodes = (op.source, op.argument(1, "other", op.node.kwargs.get("mat2")))
    operands: list[_Operand] = []
    out = ""
    for node, last in zip(nodes, ("mk", "kn"), strict=True):
        letters = "k"
        # A vector has neither rows nor columns, and the product with it has not, either.
        if isinstance(node, fx.Node) and len(op.shape(node)) > 1:
            letters = _last(_BATCH, len(op.shape(node)) - 2) + last
            out += last.replace("k", "")
        operands.append(_operand(op, node, letters))
    out = _last(_BATCH, op.value.dim() - len(out)) + out
    return product_of(op, operands[0], operands[1], out)


def einsum_channels(op: OpContext) -> Tensor:
    """Multiply two features by an equation.

    Raises:
        Unsupported: Not two operands, or a diagonal.
    """
    equation, *nodes = op.args
    if len(nodes) == 1 and isinstance(nodes[0], (tuple, list)):
        nodes = list(nodes[0])
    if not isinstance(equation, str) or len(nodes) != 2:
        raise Unsupported(f"einsum of other than two operands at {op.layer}")
    inputs, _, out = equation.replace(" ", "").partition("->")
    if "->" not in equation:
        # By convention: the axes of the ellipsis, then the letters that occur once, sorted.
        out = "..." if "..." in inputs else ""
        for letter in sorted(set(inputs) - set(".,")):
            if inputs.count(letter) == 1:
                out += letter
    operands: list[_Operand] = []
    for term, node in zip(inputs.split(","), nodes, strict=True):
        term = _without_ellipsis(term, len(op.shape(node)))
        if len(set(term)) < len(term):
            raise Unsupported(f"einsum over a diagonal at {op.layer}")
        operands.append(_operand(op, node, term))
    out = _without_ellipsis(out, op.value.dim())
    return product_of(op, operands[0], operands[1], out)


def _without_ellipsis(term: str, rank: int) -> str:
    """Return a term of an equation with a letter for each axis of a value with `rank` axes."""
    missing = rank - len(term.replace("...", ""))
    return term.replace("...", _last(_ELLIPSIS, missing))


def attention_channels(op: OpContext) -> Tensor:
    """Attend: softmax(q k^T) v.

    Raises:
        Unsupported: Heads that share keys.
    """
    query, key, value = op.argument(0, "query"), op.argument(1, "key"), op.argument(2, "value")
    if op.arg_value(7, "enable_gqa", False):
        raise Unsupported(f"grouped queries at {op.layer}")
    batch = _last(_BATCH, len(op.shape(query)) - 2)
    q, k = _operand(op, query, f"{batch}mk"), _operand(op, key, f"{batch}sk")
    if op.arg_value(6, "scale") is None:
        # The scale follows from the width, which must stay then: heads are the units.
        q.couple(op, ["k"])
        k.couple(op, ["k"])
    scores = f"{batch}ms"
    ids = product_of(op, q, k, scores, ".scores")
    shape = (*op.value.shape[:-1], k.size("s"))
    attention = _Operand(scores, ids, shape, op.node)
    mask = op.argument(3, "attn_mask")
    if isinstance(mask, fx.Node) and isinstance(op.ids.get(mask), Tensor):
        op.analysis.pin(op.ids[mask], f"mask of the attention at {op.layer}")
        # A mask that differs along an axis has an entry for each of its positions or heads.
        mask_shape = op.shape(mask)
        for letter, size in zip(scores[-len(mask_shape) :], mask_shape, strict=True):
            if size > 1:
                attention.couple(op, [letter])
    values = _operand(op, value, f"{batch}sn")
    return product_of(op, attention, values, f"{batch}mn", ".values")


def attention_module_channels(op: OpContext) -> Tensor:
    """Attend as a module; self attention without masks is followed operator by operator instead.

    Raises:
        Unsupported: Always, with the reason why this call is not followed.
    """
    reason = why_not_followed(op.module, op.args, op.node.kwargs)
    reason = reason or "gives away its weights, or has no batch axis"
    raise Unsupported(f"{op.operator} at {op.layer} {reason}")


def resize_attention_module(
    layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> Shapes:
    """Set the width of the features; its weight is (queries, keys and values; in).

    Raises:
        CannotResize: The module has other weights than self attention needs.
    """
    if "in_proj_weight" not in new:
        name = next(name for name in old if new[name] != old[name])
        raise CannotResize(f"{name}: expected the weight of a self attention, found {old[name]}")
    projected, layer.embed_dim = new["in_proj_weight"]
    return {"in_proj_bias": (projected,)} if "in_proj_bias" in new else {}


OPS = (
    OpSpec(
        "matrix product",
        spellings("matmul bmm mm mv", torch, operator),
        channels=matmul_channels,
        receptive_field=whole_image_field,
    ),
    OpSpec("einsum", (torch.einsum,), einsum_channels, whole_image_field),
    OpSpec("attention", (F.scaled_dot_product_attention,), attention_channels, whole_image_field),
    OpSpec(
        "attention module",
        (nn.MultiheadAttention,),
        channels=attention_module_channels,
        receptive_field=whole_image_field,
        resize=resize_attention_module,
    ),
)
