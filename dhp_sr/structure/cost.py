"""Multiply-adds and parameters of a pruned network, from the plan and the masks alone."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.structure.groups import ChannelPlan


class Cost(NamedTuple):
    """What one network costs."""

    macs: float
    """Multiply-adds of convolutions and linear layers for one sample of the example's size."""
    params: float
    """Learned numbers."""


class CostModel:
    """Costs as a function of the kept channels; differentiable, and exact for 0/1 masks."""

    def __init__(self, plan: ChannelPlan) -> None:
        axes = {(axis.tensor, axis.dim): row for row, axis in enumerate(plan.axes)}
        absent = len(axes)  # the row of ones, for axes without channels
        positions = {layer.weight: layer.positions for layer in plan.layers}
        rank = max(len(shape) for shape in plan.parameters.values())
        rows, rest, uses = [], [], []
        for name, shape in plan.parameters.items():
            owned = [dim for dim in range(len(shape)) if (name, dim) in axes]
            rows.append([axes[name, dim] for dim in owned] + [absent] * (rank - len(owned)))
            rest.append(math.prod(size for dim, size in enumerate(shape) if dim not in owned))
            uses.append(positions.get(name, 0))
        counts = [torch.bincount(axis.index, minlength=plan.size + 1) for axis in plan.axes]
        self._counts = torch.stack(counts).double()
        self._rows = torch.tensor(rows)
        self._rest, self._uses = torch.tensor(rest).double(), torch.tensor(uses).double()

    def __call__(self, kept: Tensor) -> Cost:
        """Cost as tensors.

        Args:
            kept: (plan.size,) 1 for a kept channel, 0 for a cut one; values between are allowed.
        """
        one = torch.ones(1, dtype=torch.double)
        counts = self._counts @ torch.cat((kept.double().cpu(), one))
        entries = self._rest * torch.cat((counts, one))[self._rows].prod(dim=1)
        return Cost(self._uses @ entries, entries.sum())

    def value(self, kept: Tensor) -> Cost:
        """Cost as numbers."""
        with torch.no_grad():
            cost = self(kept)
        return Cost(round(float(cost.macs)), round(float(cost.params)))

    def marginal(self, kept: Tensor, kind: str) -> Tensor:
        """What one more channel costs, shape (plan.size,): the gradient of the cost at `kept`."""
        kept = kept.double().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(getattr(self(kept), kind), kept)
        return gradient
