"""Costs that are counted from the kept widths alone: multiply-adds, parameters, activations.

Each is a sum over weights of a coefficient times the kept sizes of some axes of the weight. For a
convolution (64, 3, 3, 3) of the image, with a map of 100 x 100 pixels:

    macs           10,000 * size of axis 0 * 3 * 3 * 3      = 270,000 * size of axis 0
    params         size of axis 0 * 3 * 3 * 3               = 27 * size of axis 0
    activations    10,000 * size of axis 0

Sizes of axes that cannot be pruned become part of the coefficient, as on the right. To add a kind:
a function that yields its terms, a row in `COUNTED_COSTS`, and a row in `utils.cost_kinds`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.axis_sizes import AxisSizes


class CostTerm(NamedTuple):
    """One summand of a counted cost."""

    weight: str
    """Name of the weight that the cost is attributed to."""
    coefficient: float
    """Factor before the product of the kept sizes."""
    dims: tuple[int, ...]
    """Axes of the weight whose kept sizes are multiplied."""


def macs_terms(plan: ChannelPlan) -> Iterator[CostTerm]:
    """Yield a term for each layer: each kept weight entry is multiplied at every position."""
    for layer in plan.layers:
        yield CostTerm(layer.weight, layer.positions, tuple(range(len(layer.shape))))


def params_terms(plan: ChannelPlan) -> Iterator[CostTerm]:
    """Yield a term for each parameter: its kept entries. Weights that are buffers do not count."""
    for name, shape in plan.parameters.items():
        yield CostTerm(name, 1, tuple(range(len(shape))))


def activations_terms(plan: ChannelPlan) -> Iterator[CostTerm]:
    """Yield a term for each layer: elements of its output, proportional to its kept channels.

    Reference:
        Radosavovic et al., Designing Network Design Spaces, CVPR 2020: outputs of convolutions
        predict run time on accelerators better than multiply-adds do. As in fvcore, those of linear
        layers count too.
    """
    for layer in plan.layers:
        elements_per_channel = layer.output_elements // layer.shape[layer.out_dim]
        yield CostTerm(layer.weight, elements_per_channel, (layer.out_dim,))


COUNTED_COSTS: dict[str, Callable[[ChannelPlan], Iterator[CostTerm]]] = {
    "macs": macs_terms,
    "params": params_terms,
    "activations": activations_terms,
}
"""Cost kind -> its terms for a network."""


class CountedCost:
    """A counted cost as a function of the kept axis sizes; differentiable, and exact for 0/1 masks.

    Args:
        plan: Gives the shapes of the weights.
        axis_sizes: Sizes of the same plan.
        terms: Summands, at most a single term for each weight.
    """

    def __init__(self, plan: ChannelPlan, axis_sizes: AxisSizes, terms: Iterator[CostTerm]) -> None:
        self._axis_sizes = axis_sizes
        self._num_weights = len(plan.weights)
        names = list(plan.weights)
        # Further rows behind those of the axes: whether each removable branch is there, 1 or 0. It
        # is not where an axis of its own channels has size 0.
        own_rows = [axis_sizes.row(*branch.own_axis) for branch in plan.branches]
        self._branch_rows = torch.tensor(own_rows, dtype=torch.long)
        weights: list[int] = []
        rows: list[list[int]] = []
        coefficients: list[float] = []
        for term in terms:
            shape = plan.weights[term.weight]
            coefficient = term.coefficient
            term_rows = []
            for dim in term.dims:
                row = axis_sizes.row(term.weight, dim)
                if row == axis_sizes.constant_row:
                    # Nothing of this axis can be pruned: its size is part of the coefficient.
                    coefficient *= shape[dim]
                else:
                    term_rows.append(row)
            # A removed branch also drops tensors without channels of its own, such as the scale of
            # its last norm: their terms have its row as a further factor.
            for number, branch in enumerate(plan.branches):
                if branch.drops(term.weight):
                    term_rows.append(axis_sizes.size + number)
            weights.append(names.index(term.weight))
            rows.append(term_rows)
            coefficients.append(coefficient)
        self._weights = torch.tensor(weights, dtype=torch.long)
        self._rows = pad_rows(rows, axis_sizes.constant_row)
        self._coefficients = torch.tensor(coefficients, dtype=torch.double)

    def of_sizes(self, sizes: Tensor) -> Tensor:
        """Return the cost, shape (...), for kept axis sizes of shape (..., size)."""
        # (..., terms, axes) -> (..., terms) -> (...)
        return self._with_branches(sizes)[..., self._rows].prod(dim=-1) @ self._coefficients

    def _with_branches(self, sizes: Tensor) -> Tensor:
        """Append whether each removable branch is there, to sizes of shape (..., size)."""
        if len(self._branch_rows) == 0:
            return sizes
        is_there = sizes[..., self._branch_rows].detach() > 0
        return torch.cat((sizes, is_there.to(sizes.dtype)), dim=-1)

    def by_parameter(self, sizes: Tensor) -> Tensor:
        """Return the cost attributed to each weight, shape (weights,), for sizes (size,)."""
        attributed = torch.zeros(self._num_weights, dtype=torch.double)
        factors = self._with_branches(sizes)[self._rows]
        attributed[self._weights] = factors.prod(dim=-1) * self._coefficients
        return attributed

    def marginal(self, kept: Tensor) -> Tensor:
        """Return the derivative of the cost by each channel at `kept`, both (plan.size,)."""
        # Autograd also where the caller has switched it off, as in a search's step.
        kept = kept.double().clone().requires_grad_()
        with torch.enable_grad():
            cost = self.of_sizes(self._axis_sizes.of(kept))
            (gradient,) = torch.autograd.grad(cost, kept)
        return gradient


def pad_rows(rows: list[list[int]], constant_row: int) -> Tensor:
    """Return lists of rows as a tensor (lists, longest), padded with the constant row."""
    longest = max([1, *map(len, rows)])
    padded = torch.full((len(rows), longest), constant_row)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
