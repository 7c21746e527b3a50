"""What can be said of the sign of a value whatever its inputs are; a channel cut is a zero before it."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from dhp_sr.operators.analysis_context import AnalysisContext

_POSITIVE = (torch.sigmoid, torch.exp, F.softplus, F.sigmoid, "sigmoid", "exp", "softplus")
_NOT_NEGATIVE = (
    torch.abs,
    torch.relu,
    torch.square,
    torch.var,
    F.relu,
    abs,
    "abs",
    "relu",
    "square",
    "var",
)
_KEEPS_SIGN = (
    torch.mean,
    torch.sum,
    torch.sqrt,
    torch.clone,
    "mean",
    "sum",
    "sqrt",
    "contiguous",
    "clone",
)
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_PRODUCTS = (operator.mul, torch.mul, "mul")
_POWERS = (operator.pow, torch.pow, "pow")
_QUOTIENTS = (operator.truediv, torch.div, "div")
_BOUNDS = (torch.clamp, torch.clamp_min, torch.clip, "clamp", "clamp_min", "clip")
_POSITIVE_MODULES = (nn.Sigmoid, nn.Softplus)
_NOT_NEGATIVE_MODULES = (nn.ReLU, nn.ReLU6)


def is_nonzero(value: Any, analysis: AnalysisContext) -> bool:
    """Return whether a value is never zero: a positive one, or a constant without zeros (constants are not masked)."""
    if (
        isinstance(value, fx.Node)
        and value.op == "get_attr"
        and str(value.target) in analysis.buffers
    ):
        constant = analysis.buffers[str(value.target)]
        return not constant.is_meta and bool((constant != 0).all())
    return is_positive(value, analysis) or (isinstance(value, (int, float)) and value != 0)


def is_positive(value: Any, analysis: AnalysisContext) -> bool:
    """Return whether all entries of a value are positive for every input, channels cut included."""
    return _sign(value, analysis) == 2


def _sign(value: Any, analysis: AnalysisContext) -> int:
    """2: above zero. 1: never below. 0: anything, or nothing known."""
    if isinstance(value, (int, float)):
        return 2 if value > 0 else int(value == 0)
    if not isinstance(value, fx.Node):
        return 0
    if value.op == "get_attr":
        constant = analysis.buffers.get(str(value.target))
        return 0 if constant is None or constant.is_meta else 2 * int((constant > 0).all())
    if value.op == "call_module":
        return _of_module(analysis.modules.get(str(value.target)))
    return _of_function(value, analysis)


def _of_module(module: nn.Module | None) -> int:
    if isinstance(module, _POSITIVE_MODULES):
        return 2
    return int(isinstance(module, _NOT_NEGATIVE_MODULES))


def _of_function(node: fx.Node, analysis: AnalysisContext) -> int:
    target = node.target
    if target in _POSITIVE:
        return 2
    if target in _NOT_NEGATIVE:
        return 1
    if target in _KEEPS_SIGN:
        return _sign(node.args[0], analysis)
    if target in _BOUNDS:
        return _sign(node.args[1] if len(node.args) > 1 else node.kwargs.get("min"), analysis)
    if target in _POWERS:
        return max(_sign(node.args[0], analysis), int(node.args[1] == 2))
    if target in _SUMS or target in _PRODUCTS or target in _QUOTIENTS:
        return _of_pair(target in _SUMS, node.args[0], node.args[1], analysis)
    return 0


def _of_pair(is_sum: bool, first: Any, second: Any, analysis: AnalysisContext) -> int:
    """Sign of a sum, or of a product or quotient."""
    left = _sign(first, analysis)
    if left == 0:
        return int(first is second and not is_sum)
    right = _sign(second, analysis)
    if right == 0:
        return 0
    return max(left, right) if is_sum else min(left, right)
