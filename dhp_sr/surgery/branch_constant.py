"""Least squares for a removed branch: the constant that comes closest to what it gave."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from dhp_sr.channels.plan import BranchLayer
from dhp_sr.surgery.shortcut_error import find_shortcut_error
from dhp_sr.surgery.side_by_side import Execution


@dataclass(frozen=True)
class ConstantFit:
    """The change of a constant that minimizes the squared error, and that error."""

    shift_C: Tensor
    """(kept channels,) to be added, float64."""
    target_square: float
    """Sum of the squared targets."""
    square_before: float
    """Sum of the squared errors without the change."""
    square_after: float
    """Sum of the squared errors with it."""


def fit_constant(
    node: fx.Node, layer: BranchLayer, dense: Execution, masked: Execution, kept: Tensor
) -> ConstantFit:
    """Fit the constant of a removed branch to what the dense branch gives.

    As for other layers, the constant also makes up for what the shortcut beside it has lost. The
    mean over all positions of all calibration inputs is the solution, so there is nothing to hold
    out: thousands of positions stand behind each number.

    Args:
        node: call of the layer that leaves the constant.
        layer: its place in the branch.
        dense: values of the dense network.
        masked: values of the masked network.
        kept: kept output channels of the layer.
    """
    dim = -1 - len(layer.strides)
    shortcut_error = find_shortcut_error(node, dense, masked)
    residual_sum_C = torch.zeros(len(kept), dtype=torch.float64)
    target_square = 0.0
    residual_square = 0.0
    rows = 0
    for batch, values in enumerate(masked.values):
        target = dense.values[batch][node]
        if shortcut_error is not None:
            target = target + shortcut_error(batch)
        target_PC = _positions(target, dim, kept)
        residual_PC = target_PC - _positions(values[node], dim, kept)
        residual_sum_C += residual_PC.sum(0)
        target_square += float(target_PC.square().sum())
        residual_square += float(residual_PC.square().sum())
        rows += len(residual_PC)
    shift_C = residual_sum_C / rows
    # The mean takes its own square away from that of the residuals.
    square_after = max(residual_square - rows * float(shift_C.square().sum()), 0.0)
    return ConstantFit(shift_C, target_square, residual_square, square_after)


def _positions(value: Tensor, dim: int, channels: Tensor) -> Tensor:
    """Return some channels of a value, (positions, channels), float64 on the CPU."""
    return value.movedim(dim, -1).flatten(0, -2).double().cpu()[:, channels]
