"""Costs of a pruned network as functions of its plan and masks alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.axis_sizes import AxisSizes
from dhp_sr.cost.counted import COUNTED_COSTS, CountedCost, pad_rows
from dhp_sr.cost.latency_lut import LatencyLUT
from dhp_sr.cost.latency_model import LatencyModel
from dhp_sr.cost.width_multiple import learn_multiple
from dhp_sr.utils.cost_kinds import COST_KINDS, DEFAULT_ROUND_TO


@dataclass(frozen=True)
class Cost:
    """Cost of a network; each kind of `COST_KINDS` is an attribute.

    `cost.macs` are multiply-adds of convolutions and linear layers for a sample of the example's
    size, `cost.params` parameters, `cost.activations` elements that these layers put out,
    `cost.latency` milliseconds that the latency model predicts; nan where a kind is not known.
    """

    values: Mapping[str, float]
    """Kind -> cost, for the kinds that are known."""

    def __getitem__(self, kind: str) -> float:
        """Return the cost of a kind; nan where it is not known."""
        return self.values.get(kind, math.nan)

    def __getattr__(self, name: str) -> float:
        """Return the cost of a kind; nan where it is not known."""
        # Called only for names that are no field; anything else must stay an AttributeError, on
        # which copy and pickle rely.
        if name in COST_KINDS:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no cost kind {name!r}")


class CostFunction(Protocol):
    """A cost kind of a network, as a function of the kept axis sizes."""

    def of_sizes(self, sizes: Tensor) -> Tensor:
        """Return the cost, shape (...), for kept axis sizes of shape (..., size)."""
        ...

    def by_parameter(self, sizes: Tensor) -> Tensor:
        """Return the cost attributed to each weight, shape (weights,), for sizes (size,)."""
        ...

    def marginal(self, kept: Tensor) -> Tensor:
        """Return the cost of a further channel, shape (plan.size,), at `kept` (plan.size,)."""
        ...


class CostModel:
    """All costs of a network as functions of the kept channels.

    Args:
        plan: The network's plan.
        lut: Measured times of its layers; without, latency is not known.
    """

    def __init__(self, plan: ChannelPlan, lut: LatencyLUT | None = None) -> None:
        self.axis_sizes = AxisSizes(plan)
        self.names = tuple(plan.weights)
        """Parameters, and buffers that are weights, in the order of `by_parameter`."""
        self._functions: dict[str, CostFunction] = {}
        for kind, terms in COUNTED_COSTS.items():
            self._functions[kind] = CountedCost(plan, self.axis_sizes, terms(plan))
        self.width_multiple = DEFAULT_ROUND_TO
        """Multiple of channels that suits the runtime, where the table of its times shows one."""
        if lut is not None:
            self._functions["latency"] = LatencyModel(plan, self.axis_sizes, lut)
            self.width_multiple = learn_multiple(lut)
        rows = []
        for name, shape in plan.weights.items():
            dims = self.axis_sizes.prunable_dims(name, range(len(shape)))
            rows.append([self.axis_sizes.row(name, dim) for dim in dims])
        self._rows = pad_rows(rows, self.axis_sizes.constant_row)
        all_kept = torch.ones(plan.size, dtype=torch.double)
        self._dense_sizes = self.axis_sizes.of(all_kept)
        self.dense = self.value(all_kept)
        """Cost of the unpruned network."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The cost kinds that are known."""
        return tuple(self._functions)

    def value(self, kept: Tensor) -> Cost:
        """Return the cost in all known kinds.

        Args:
            kept: (plan.size,) 1 for a kept channel, 0 for a cut one.
        """
        values = {}
        for kind in self.kinds:
            value = self.evaluate(kept, kind)
            # Counts are whole numbers.
            values[kind] = value if COST_KINDS[kind].is_measured else round(value)
        return Cost(values)

    def evaluate(self, kept: Tensor, kind: str) -> float:
        """Return the cost of a kind as a number, for `kept` (plan.size,)."""
        # Costs are computed on the CPU: the tensors are small, and every step asks for a number.
        with torch.no_grad():
            return float(self.of_sizes(self.axis_sizes.of(kept.double().cpu()), kind))

    def ratio(self, kept: Tensor, kind: str) -> float:
        """Return the kept fraction of the dense network's cost, for `kept` (plan.size,)."""
        return self.evaluate(kept, kind) / self.dense[kind]

    def of_sizes(self, sizes: Tensor, kind: str) -> Tensor:
        """Return the cost of a kind, shape (...), for axis sizes (..., size); differentiable."""
        return self._functions[kind].of_sizes(sizes)

    def by_parameter(self, kept: Tensor, kind: str) -> Tensor:
        """Return the cost attributed to each of `names` at `kept` (plan.size,).

        Of latency, what no layer accounts for is attributed to the layers in proportion to their
        outputs.
        """
        sizes = self.axis_sizes.of(kept.double().cpu())
        return self._functions[kind].by_parameter(sizes)

    def marginal(self, kept: Tensor, kind: str) -> Tensor:
        """Return the marginal cost of each channel, shape (plan.size,), at `kept` (plan.size,).

        The derivative of the cost where it is counted, a finite difference of measured times.
        """
        return self._functions[kind].marginal(kept)

    def log_kept_fractions(self, sizes: Tensor, powers: Tensor, parameters: Tensor) -> Tensor:
        """Return the logarithm of the kept fractions of some parameters, shape (..., number).

        Args:
            sizes: Kept axis sizes, shape (..., size).
            powers: (size,) exponents of the kept fraction of each axis; 1: as it is.
            parameters: (number,) indices into `names`.
        """
        # Sums of logarithms rather than products: the powers go in per axis.
        log_fractions = (sizes / self._dense_sizes).log() * powers
        return log_fractions[..., self._rows[parameters]].sum(dim=-1)
