"""Products of several features by an equation: einsum."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dhp_sr.operators.channel_ids import ChannelMatrix
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.layer_weights import may_leave_constant
from dhp_sr.operators.matrix_products import (
    Term,
    is_between_channels,
    product_between_channels,
)
from dhp_sr.operators.products import (
    Operand,
    last_letters,
    letters_of,
    operand_of,
    product_of,
    product_of_lengths,
    sign_of_factors,
)
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import OpSpec, Unsupported

_ELLIPSIS_LETTERS = "STUVWXYZ"
"""Letters of the axes that an ellipsis stands for. As in broadcasting, axes correspond from the
back: three of them are X, Y, Z, and two are Y, Z."""


def einsum_channels(op: OpContext) -> Tensor | ChannelMatrix:
    """Multiply features by an equation, one after the other.

    Raises:
        Unsupported: A single operand, a diagonal, or products in another order.
    """
    equation, *nodes = op.args
    if len(nodes) == 1 and isinstance(nodes[0], (tuple, list)):
        nodes = list(nodes[0])
    if not isinstance(equation, str) or len(nodes) < 2:
        raise Unsupported(f"einsum of other than an equation and operands at {op.layer}")
    inputs, _, out = equation.replace(" ", "").partition("->")
    if "->" not in equation:
        # By convention: the axes of the ellipsis, then the letters that occur once, sorted.
        out = "..." if "..." in inputs else ""
        for letter in sorted(set(inputs) - set(".,")):
            if inputs.count(letter) == 1:
                out += letter
    terms: list[Term] = []
    for term, node in zip(inputs.split(","), nodes, strict=True):
        term = _without_ellipsis(term, len(op.shape(node)))
        if len(set(term)) < len(term):
            raise Unsupported(f"einsum over a diagonal at {op.layer}")
        terms.append((node, term))
    out = _without_ellipsis(out, op.value.dim())
    if len(terms) == 2 and is_between_channels(op, terms, out):
        return product_between_channels(op, terms, out)
    operands = [operand_of(op, node, term) for node, term in terms]
    return _products_in_turn(op, operands, out)


def _products_in_turn(op: OpContext, operands: Sequence[Operand], out: str) -> Tensor:
    """Multiply the first two factors, their product with the third, and so on.

    A letter is summed over with the last factor that has it.

    Raises:
        Unsupported: torch multiplies in another order, which costs something else.
    """
    left, *others = operands
    products: list[tuple[Operand, Operand, str, int]] = []
    for number, right in enumerate(others):
        later = "".join(factor.letters for factor in others[number + 1 :])
        letters = [letter for letter in letters_of(left, right) if letter in out + later]
        kept = "".join(letters) if later else out
        products.append((left, right, kept, _macs_of_einsum(left, right, kept)))
        shape = tuple(max(left.size(letter), right.size(letter)) for letter in kept)
        # A product is zero where one factor is.
        node = right.node if may_leave_constant(op, left.node) else left.node
        left = Operand(kept, left.ids, shape, node)
    if len(products) > 1 and sum(macs for *_, macs in products) != op.macs:
        raise Unsupported(f"einsum of several operands in an order of torch's own at {op.layer}")
    ids: Tensor | None = None
    for number, (factor, right, kept, macs) in enumerate(products):
        if ids is not None:
            factor.ids = ids
        ids = product_of(op, factor, right, kept, name=f"#{number}" if number else "", macs=macs)
    assert ids is not None, "an equation has two factors at least"
    return ids


def _macs_of_einsum(left: Operand, right: Operand, out: str) -> int:
    """Return the multiply-adds of an einsum of two operands, as torch computes it.

    torch first sums an operand over the letters that it alone has. Then it takes a matrix product
    over the letters that both have; where there are none it multiplies entry by entry, which adds
    nothing up.
    """
    multiplied: list[str] = []
    is_matrix_product = False
    for letter in letters_of(left, right):
        is_of_both = left.size(letter) > 1 and right.size(letter) > 1
        if letter not in out and is_of_both:
            is_matrix_product = True
        if letter in out or is_of_both:
            multiplied.append(letter)
    return product_of_lengths(left, right, multiplied) if is_matrix_product else 0


def _without_ellipsis(term: str, rank: int) -> str:
    """Return a term of an equation with a letter for each axis of a value with `rank` axes."""
    missing = rank - len(term.replace("...", ""))
    return term.replace("...", last_letters(_ELLIPSIS_LETTERS, missing))


OPS = (OpSpec("einsum", (torch.einsum,), einsum_channels, whole_image_field, sign=sign_of_factors),)
