"""Streamed ridge regression: normal equations whose size does not depend on the number of rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidate ridges, relative to the mean diagonal of the Gram matrix."""

NEGLIGIBLE = 1e-12
"""Residuals below this part of the squared target are rounding, not something to correct."""


class NormalEquations:
    """Sums of a regression of residuals R (rows, outputs) on features X (rows, features).

    Memory is (features, features + outputs), whatever the number of rows. Products of a chunk are
    computed in the precision of the network, sums over chunks and the solution in float64.
    """

    def __init__(self, features: int, outputs: int) -> None:
        self.rows = 0
        self.gram_FF = torch.zeros(features, features, dtype=torch.float64)
        self.cross_FO = torch.zeros(features, outputs, dtype=torch.float64)
        self.feature_sum_F = torch.zeros(features, dtype=torch.float64)
        self.residual_sum_O = torch.zeros(outputs, dtype=torch.float64)
        self.residual_square = 0.0
        self.target_square = 0.0

    def add(self, features: Tensor, residuals: Tensor, targets: Tensor) -> None:
        """Add rows.

        Args:
            features: (rows, features).
            residuals: (rows, outputs), targets minus the present outputs.
            targets: (rows, outputs), only for the size that errors are relative to.
        """
        self.rows += len(features)
        self.gram_FF += (features.T @ features).double().cpu()
        self.cross_FO += (features.T @ residuals).double().cpu()
        self.feature_sum_F += features.double().sum(0).cpu()
        self.residual_sum_O += residuals.double().sum(0).cpu()
        self.residual_square += float(residuals.double().square().sum())
        self.target_square += float(targets.double().square().sum())

    def plus(self, other: "NormalEquations") -> "NormalEquations":
        """Sums over the rows of both."""
        total = NormalEquations(*self.cross_FO.shape)
        total.rows = self.rows + other.rows
        total.gram_FF = self.gram_FF + other.gram_FF
        total.cross_FO = self.cross_FO + other.cross_FO
        total.feature_sum_F = self.feature_sum_F + other.feature_sum_F
        total.residual_sum_O = self.residual_sum_O + other.residual_sum_O
        total.residual_square = self.residual_square + other.residual_square
        total.target_square = self.target_square + other.target_square
        return total

    def solve(self, ridge: float, intercept: bool) -> tuple[Tensor, Tensor]:
        """Minimize the squared error plus the ridge penalty.

        Args:
            ridge: Penalty relative to the mean diagonal of the Gram matrix.
            intercept: Whether a constant, which is not penalized, is fitted too.

        Returns:
            Coefficients (outputs, features) and intercepts (outputs,), float64.
        """
        gram = self.gram_FF.clone()
        cross = self.cross_FO.clone()
        rows = max(self.rows, 1)
        if intercept:
            # Centered sums: the constant is then the mean of what the features leave over.
            gram -= torch.outer(self.feature_sum_F, self.feature_sum_F) / rows
            cross -= torch.outer(self.feature_sum_F, self.residual_sum_O) / rows
        # A feature that is always zero (a dead ReLU) leaves a zero diagonal; the floor keeps the
        # matrix invertible, and its coefficient stays at zero.
        scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        gram.diagonal().add_(ridge * scale)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed):
            # Rounding made the matrix indefinite: the minimum-norm solution does not mind.
            solution_FO = torch.linalg.lstsq(gram, cross, driver="gelsd").solution
        else:
            solution_FO = torch.cholesky_solve(cross, factor)
        if not intercept:
            return solution_FO.T, torch.zeros_like(self.residual_sum_O)
        fitted_O = self.feature_sum_F @ solution_FO
        return solution_FO.T, (self.residual_sum_O - fitted_O) / rows

    def error(self, coefficients_OF: Tensor, intercepts_O: Tensor) -> float:
        """Squared error that is left with given coefficients, in closed form from the sums."""
        error = self.residual_square
        error -= 2 * float((coefficients_OF * self.cross_FO.T).sum())
        error += float(((coefficients_OF @ self.gram_FF) * coefficients_OF).sum())
        # sum |b|^2 over rows, and its products with residuals and with the fitted values
        error += self.rows * float(intercepts_O.square().sum())
        error -= 2 * float(intercepts_O @ self.residual_sum_O)
        error += 2 * float(intercepts_O @ (coefficients_OF @ self.feature_sum_F))
        return error


@dataclass(frozen=True)
class Solution:
    """Coefficients that a regression settled on."""

    coefficients: Tensor
    """(outputs, features), float64."""
    intercepts: Tensor
    """(outputs,), float64; zeros without an intercept."""
    ridge: float
    """Relative ridge of the least held-out error."""
    held_out_error: float
    """Squared error on the held-out rows, of the solution found without them."""


def solve_with_held_out_ridge(
    train: NormalEquations, held_out: NormalEquations, intercept: bool
) -> Solution | None:
    """Choose the ridge by held-out error, then solve on all rows.

    Returns:
        The solution, or None where no ridge makes the held-out error smaller than it is without any
        change: then the layer had better stay as it is.
    """
    unchanged = held_out.residual_square
    if unchanged <= NEGLIGIBLE * held_out.target_square:
        return None
    best_ridge = 0.0
    best_error = unchanged
    for ridge in RIDGES:
        error = held_out.error(*train.solve(ridge, intercept))
        if error < best_error:
            best_ridge = ridge
            best_error = error
    if best_ridge == 0.0:
        return None
    coefficients, intercepts = train.plus(held_out).solve(best_ridge, intercept)
    return Solution(coefficients, intercepts, best_ridge, best_error)
