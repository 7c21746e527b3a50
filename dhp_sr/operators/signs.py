"""Signs of constants, and of the results of operators that work entry by entry."""

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from dhp_sr.operators.analysis_context import Sign
from dhp_sr.operators.context import OpContext


def sign_of_constant(op: OpContext) -> Sign:
    """Return the sign of a buffer; parameters change in training."""
    buffer = op.analysis.buffers.get(str(op.node.target))
    if buffer is None or buffer.is_meta or not bool((buffer > 0).all()):
        return Sign.ANY
    return Sign.POSITIVE


def sign_of_first_input(op: OpContext) -> Sign:
    """Return the sign of the first input, for operators that keep it."""
    return op.sign(op.argument(0, "input"))


def sign_of_lower_bound(op: OpContext) -> Sign:
    """Return the sign of the lower bound of a clamp; an upper bound below it would win."""
    lower = op.sign(op.argument(1, "min"))
    upper = op.argument(2, "max")
    return lower if upper is None else min(lower, op.sign(upper))


def sign_of_softplus(op: OpContext) -> Sign:
    """Return the sign of `log(1 + exp(beta * x)) / beta`, which is x where beta * x is large."""
    beta, threshold = op.option(1, "beta", 1), op.option(2, "threshold", 20)
    if op.sign(beta) != Sign.POSITIVE or op.sign(threshold) == Sign.ANY:
        return Sign.ANY
    return Sign.POSITIVE


def sign_of_power(op: OpContext) -> Sign:
    """Return the sign of a power: that of its base; never negative for a square."""
    is_square = op.argument(1, "exponent") == 2
    base = op.sign(op.argument(0, "input"))
    return max(base, Sign.NONNEGATIVE) if is_square else base


def sign_of_sum(op: OpContext) -> Sign:
    """Return the sign of `input + alpha * other`, known if those of all three are.

    And of `elu(x) + 1`, which is not negative.
    """
    first, second = op.argument(0, "input"), op.argument(1, "other")
    for bounded, number in ((first, second), (second, first)):
        is_at_least_one = isinstance(number, (int, float)) and number >= 1
        if is_at_least_one and op.argument(2, "alpha") is None and _exceeds_minus_one(bounded):
            return Sign.NONNEGATIVE
    left = op.sign(op.argument(0, "input"))
    right = min(op.sign(op.argument(1, "other")), op.sign(op.argument(2, "alpha", 1)))
    return Sign.ANY if Sign.ANY in (left, right) else max(left, right)


def sign_of_product(op: OpContext) -> Sign:
    """Return the sign of a product; `x * x` is never negative."""
    left = op.sign(op.argument(0, "input"))
    right = op.sign(op.argument(1, "other"))
    if left == Sign.ANY and op.argument(0, "input") is op.argument(1, "other"):
        return Sign.NONNEGATIVE
    return min(left, right)


def sign_of_quotient(op: OpContext) -> Sign:
    """Return the sign of a quotient; one that is rounded may be 0."""
    sign = sign_of_product(op)
    return sign if op.argument(2, "rounding_mode") is None else min(sign, Sign.NONNEGATIVE)


def _exceeds_minus_one(value: Any) -> bool:
    """Return whether a node's value is never below -1, as that of an ELU."""
    if not isinstance(value, fx.Node):
        return False
    alpha: Any = None
    if value.op == "call_module":
        network = value.graph.owning_module
        assert network is not None, "the graph of a network"
        module: Any = network.get_submodule(str(value.target))
        if type(module) is nn.ELU:
            alpha = module.alpha
    elif value.target is F.elu:
        alpha = value.kwargs.get("alpha", [*value.args, 1.0][1])
    return isinstance(alpha, (int, float)) and 0 <= alpha <= 1
