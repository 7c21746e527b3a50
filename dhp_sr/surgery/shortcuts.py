"""Shortcuts: what a layer's output is added to, whose error the layer can make up for."""

import operator
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dhp_sr.surgery.side_by_side import Execution

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")

SMALLEST_GAIN = 1e-3
"""A channel that is scaled by less than this, relative to the largest scale, is not asked to make
up for the error of the sum that it is added to: it would have to grow a thousandfold."""


def find_shortcut_error(
    node: fx.Node, dense: Execution, masked: Execution
) -> Callable[[int], Tensor] | None:
    """Error of the value that a layer's output is added to, as at the end of a residual block.

        shortcut --------------------(error e)---------------> + --> read by all that follows
           '-----> ... --> layer --> norm --> * constant ------^

    The sum is what the rest of the network reads, so the layer also makes up for what the
    shortcut has lost: its target is y + e / (gain of the norm * constant), channel by channel.
    Behind a difference (shortcut - branch), or `add(..., alpha=0.2)`, the factors of both operands
    count as well.

    Args:
        node: Call of the layer.
        dense: Values of the dense network.
        masked: Values of the masked network.

    Returns:
        For a batch's index the error in units of the layer's output, (N, C, H, W); None where
        the output goes anywhere else than into an addition with a value that is known by now.
    """
    # Only values that are still needed are there: others were computed and released, or come
    # later, and their error is not known now.
    example = masked.values[0]
    shape = example[node].shape
    scale = torch.ones(())
    # With two users, the other one would read what was meant for the sum.
    while len(node.users) == 1:
        user = next(iter(node.users))
        if masked.is_norm(user):
            gain = _norm_gain(masked.module(user))
            if gain is None:
                return None
            scale = scale * gain.reshape(-1, *[1] * (len(shape) - 2))
            node = user
            continue
        # A value added to itself or multiplied by itself leaves no other operand.
        others = [value for value in user.args if value is not node]
        if len(user.args) != 2 or len(others) != 1:
            return None
        other = others[0]
        if user.target in PRODUCTS and isinstance(other, (int, float)):
            scale = scale * other
            node = user
            continue
        factors = _factors_of_operands(user)
        if factors is None or not isinstance(other, fx.Node):
            return None
        if other not in example or example[other].shape != shape:
            return None
        position = user.args.index(node)
        scale = scale * factors[position]
        factor = factors[1 - position]
        usable = scale.abs() > SMALLEST_GAIN * scale.abs().max()
        # Where nothing is usable the inverse is zero, not infinite.
        inverse = torch.where(usable, scale, torch.ones_like(scale)).reciprocal() * usable
        inverse = inverse * factor
        return lambda batch: inverse * (dense.values[batch][other] - masked.values[batch][other])
    return None


def _factors_of_operands(node: fx.Node) -> tuple[float, float] | None:
    """Factors of both operands in a sum or difference; None for other operators."""
    alpha = node.kwargs.get("alpha", 1)
    if not isinstance(alpha, (int, float)):
        return None
    if node.target in ADDITIONS:
        return 1, alpha
    return (1, -alpha) if node.target in SUBTRACTIONS else None


def _norm_gain(norm: nn.Module) -> Tensor | None:
    """Factor by which a normalization scales each channel in eval mode; None without statistics."""
    assert isinstance(norm, _BatchNorm)
    if norm.running_var is None:
        return None
    gain = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight
    return gain
