"""Multiply-adds, parameters and latency of a pruned network, from the plan and the masks alone."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.axis_sizes import AxisSizes
from dhp_sr.cost.latency_lut import LatencyLUT
from dhp_sr.cost.latency_model import LatencyModel

KINDS = ("macs", "params", "latency")
"""What a budget can be a fraction of; the fields of `Cost`."""


class Cost(NamedTuple):
    """What one network costs."""

    macs: float
    """Multiply-adds of convolutions and linear layers for one sample of the example's size."""
    params: float
    """Learned numbers."""
    latency: float = math.nan
    """Milliseconds that the table predicts for its input size; nan where no table is loaded."""


class CostModel:
    """Costs as a function of the kept channels; differentiable, and exact (macs, params) for 0/1 masks."""

    def __init__(self, plan: ChannelPlan, table: LatencyLUT | None = None) -> None:
        self.axis_sizes = AxisSizes(plan)
        self.names = tuple(plan.weights)
        """The parameters, in the order of `by_parameter`, and the buffers that are weights: they cost no parameters."""
        self._plan = plan
        self._latency = LatencyModel(plan, self.axis_sizes, table) if table else None
        positions = {layer.weight: layer.positions for layer in plan.layers}
        rank = max(len(shape) for shape in plan.weights.values())
        rows, rest = [], []
        for name, shape in plan.weights.items():
            owned = self.axis_sizes.prunable_dims(name, len(shape))
            rows.append(
                [self.axis_sizes.row(name, dim) for dim in owned]
                + [self.axis_sizes.size - 1] * (rank - len(owned))
            )
            rest.append(math.prod(size for dim, size in enumerate(shape) if dim not in owned))
        used = max(1, *(sum(row != self.axis_sizes.size - 1 for row in one) for one in rows))
        self._rows = torch.tensor(rows)[:, :used]
        self._rest = torch.tensor(rest).double()
        self._full = self.axis_sizes.of(torch.ones(plan.size).double())
        self._uses = torch.tensor([positions.get(name, 0) for name in self.names]).double()
        self._learned = torch.tensor([name in plan.parameters for name in self.names]).double()

    @property
    def has_latency(self) -> bool:
        """Whether a table of measured times is loaded."""
        return self._latency is not None

    def __call__(self, kept: Tensor) -> Cost:
        """Cost as tensors.

        Args:
            kept: (plan.size,) 1 for a kept channel, 0 for a cut one; values between are allowed.
        """
        counts = self.axis_sizes.of(kept.double().cpu())
        entries = self._entries(counts)
        latency = self._latency(counts) if self._latency else torch.tensor(math.nan)
        return Cost(self._uses @ entries, (entries * self._learned).sum(), latency)

    def of_sizes(self, counts: Tensor, kind: str) -> Tensor:
        """Return one kind of cost, shape (...), of `AxisSizes` of shape (..., size)."""
        if kind == "latency":
            return self._latency(counts)
        entries = self._entries(counts)
        return entries @ self._uses if kind == "macs" else (entries * self._learned).sum(-1)

    def log_kept_fractions(self, counts: Tensor, powers: Tensor, parameters: Tensor) -> Tensor:
        """Return the logarithm of the kept fractions of some parameters, shape (..., number).

        Args:
            counts: `AxisSizes`, shape (..., size).
            powers: (size,) by which the fraction of each row of the counts goes in; 1: as it is.
            parameters: (number,) places in `names`.
        """
        return ((counts / self._full).log() * powers)[..., self._rows[parameters]].sum(dim=-1)

    def by_parameter(self, kept: Tensor, kind: str) -> Tensor:
        """Return the part of a cost that each parameter is charged with, shape (len(names),).

        Of latency, what no layer accounts for is charged to the layers by the elements they put out.
        """
        counts = self.axis_sizes.of(kept.double().cpu())
        if kind == "latency":
            return self._latency.by_parameter(counts, self.names)
        entries = self._entries(counts)
        return entries * (self._uses if kind == "macs" else self._learned)

    def value(self, kept: Tensor) -> Cost:
        """Cost as numbers."""
        with torch.no_grad():
            cost = self(kept)
        return Cost(round(float(cost.macs)), round(float(cost.params)), float(cost.latency))

    def marginal(self, kept: Tensor, kind: str) -> Tensor:
        """What one more channel costs, shape (plan.size,): the gradient of the cost at `kept`.

        Measured times rise in steps, so for latency it is the mean over the lower half of each group's kept channels
        removed, never below a thousandth of the mean.
        """
        if kind == "latency":
            return self._secant(kept.double().cpu())
        kept = kept.double().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(getattr(self(kept), kind), kept)
        return gradient

    def _secant(self, kept: Tensor) -> Tensor:
        """Return, for each group, what halving it saves per channel."""
        with torch.no_grad():
            now = self.axis_sizes.of(kept)
            halves = torch.stack(
                [self.axis_sizes.of(_halved(kept, group.span)) for group in self._plan.prunable]
            )
            saved = self._latency(now) - self._latency(halves)
        slopes = [
            2 * one / max(float(kept[group.span].sum()), 1)
            for one, group in zip(saved, self._plan.prunable, strict=True)
        ]
        widths = torch.tensor([group.width for group in self._plan.prunable])
        slope = torch.stack(slopes).repeat_interleave(widths)
        return slope.clamp_min(max(1e-3 * float(slope.mean()), 1e-12))

    def _entries(self, counts: Tensor) -> Tensor:
        return self._rest * counts[..., self._rows].prod(dim=-1)


def _halved(kept: Tensor, span: slice) -> Tensor:
    half = kept.clone()
    half[span] /= 2
    return half
