"""Latency of a pruned network, interpolated in a lookup table of measured layer times.

Latency prediction by summing measured layer times is that of ProxylessNAS (Cai et al., 2019) and
NetAdapt (Yang et al., 2018); the term for what runs between the layers is ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.axis_sizes import AxisSizes
from dhp_sr.cost.latency_lut import LatencyLUT, LayerCall


class LatencyModel:
    """Milliseconds as a function of the kept axis sizes; a `CostFunction`.

    Each layer call is interpolated bilinearly between the widths measured, and 0 at no width. What
    the layers do not account for (activations, sums, shuffles, norms, convolutions with computed
    weights) is the measured time of the whole network less theirs; it shrinks in proportion to the
    elements that the layers put out.

    Args:
        plan: The network's plan.
        axis_sizes: Sizes of the same plan.
        lut: Prepared for the network.
    """

    def __init__(self, plan: ChannelPlan, axis_sizes: AxisSizes, lut: LatencyLUT) -> None:
        calls = lut.calls
        grids = [lut.layers[call.signature] for call in calls]
        self._plan = plan
        self._axis_sizes = axis_sizes
        first_widths = [grid["first"] for grid in grids]
        second_widths = [grid["second"] for grid in grids]
        self._first = _GridAxis(plan, axis_sizes, calls, 0, first_widths)
        self._second = _GridAxis(plan, axis_sizes, calls, 1, second_widths)

        # The grids of all layers, padded to the same size and flattened: a time has the index
        # call * side^2 + first * side + second, so that a single gather serves all layers and all
        # candidates.
        self._side = 1 + max(self._first.length, self._second.length)
        times = torch.zeros(len(calls), self._side, self._side, dtype=torch.double)
        for call_times, grid in zip(times, grids, strict=True):
            measured = torch.tensor(grid["ms"], dtype=torch.double)
            # Node 0 is the width 0, at which a layer takes no time.
            call_times[1 : measured.shape[0] + 1, 1 : measured.shape[1] + 1] = measured
        self._times = times.flatten()
        self._offsets = torch.arange(len(calls)) * self._side**2

        out_dim_of = {layer.weight: layer.out_dim for layer in plan.layers}
        names = list(plan.weights)
        out_dims = []
        elements_per_channel = []
        weights = []
        for call in calls:
            out_dim = out_dim_of.get(call.weight, 0)
            out_dims.append(out_dim)
            elements_per_channel.append(call.elements / plan.weights[call.weight][out_dim])
            weights.append(names.index(call.weight))
        self._out_dim = torch.tensor(out_dims)
        self._elements_per_channel = torch.tensor(elements_per_channel, dtype=torch.double)
        self._weights = torch.tensor(weights)

        dense = axis_sizes.of(torch.ones(plan.size, dtype=torch.double))
        layers_ms, elements = self._layers(dense)
        # Noise can make the layers alone slower than the whole network; the rest is never negative.
        rest_ms = max(0.0, lut.dense_ms - float(layers_ms.sum()))
        self._rest_ms_per_element = rest_ms / float(elements.sum())

    def of_sizes(self, sizes: Tensor) -> Tensor:
        """Return milliseconds, shape (...), for kept axis sizes of shape (..., size)."""
        return self._calls_ms(sizes).sum(-1)

    def by_parameter(self, sizes: Tensor) -> Tensor:
        """Return milliseconds attributed to each weight, shape (weights,), for sizes (size,)."""
        attributed = torch.zeros(len(self._plan.weights), dtype=torch.double)
        return attributed.index_add(0, self._weights, self._calls_ms(sizes))

    def marginal(self, kept: Tensor) -> Tensor:
        """Return the marginal latency of each channel, shape (plan.size,), at `kept` (plan.size,).

        Measured times rise in steps of a kernel's block of channels, so that a derivative is 0 or
        huge. It is the mean over the upper half of each group's kept channels, never below a
        thousandth of the mean of all groups.
        """
        kept = kept.double().cpu()
        groups = self._plan.prunable
        halved_sizes = []
        num_kept = []
        widths = []
        for group in groups:
            halved = kept.clone()
            halved[group.span] /= 2
            halved_sizes.append(self._axis_sizes.of(halved))
            num_kept.append(kept[group.span].sum())
            widths.append(group.width)
        with torch.no_grad():
            now_ms = self.of_sizes(self._axis_sizes.of(kept))
            saved_ms = now_ms - self.of_sizes(torch.stack(halved_sizes))
        per_group = 2 * saved_ms / torch.stack(num_kept).clamp_min(1)
        per_channel = per_group.repeat_interleave(torch.tensor(widths))
        # Without a step in the upper half the difference is 0, but every channel has some cost.
        return per_channel.clamp_min(max(1e-3 * float(per_channel.mean()), 1e-12))

    def _calls_ms(self, sizes: Tensor) -> Tensor:
        layers_ms, elements = self._layers(sizes)
        return layers_ms + self._rest_ms_per_element * elements

    def _layers(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return milliseconds and output elements of all layer calls, each (..., calls).

        Bilinear interpolation between the four times around (first width, second width):

            node of the first axis       low_ms  = from [low, low] to [low, high] by second.weight
            the next node                high_ms = from [high, low] to [high, high], the same
            result                       from low_ms to high_ms by first.weight
        """
        first = self._first.locate(sizes)
        second = self._second.locate(sizes)
        # Start of the row of times at the lower and at the upper node of the first axis.
        low_offset = self._offsets + first.node * self._side
        high_offset = low_offset + self._side
        low_ms = torch.lerp(
            self._times[low_offset + second.node],
            self._times[low_offset + second.node + 1],
            second.weight,
        )
        high_ms = torch.lerp(
            self._times[high_offset + second.node],
            self._times[high_offset + second.node + 1],
            second.weight,
        )
        out_channels = torch.where(self._out_dim == 0, first.width, second.width)
        return torch.lerp(low_ms, high_ms, first.weight), self._elements_per_channel * out_channels


class _GridPoint(NamedTuple):
    """Widths between two nodes of a grid; each field has the shape (..., calls)."""

    node: Tensor
    """Index of the lower node."""
    weight: Tensor
    """Weight of the upper node, in [0, 1]."""
    width: Tensor
    """The width itself."""


class _GridAxis:
    """One axis of the weights of all layer calls, with the widths measured along it."""

    def __init__(
        self,
        plan: ChannelPlan,
        axis_sizes: AxisSizes,
        calls: Sequence[LayerCall],
        dim: int,
        grids: Sequence[list[int]],
    ) -> None:
        self.length = max(map(len, grids))
        # Node 0 is the width 0. Shorter grids end in infinity, a node that no width passes.
        self._nodes = torch.full((len(calls), self.length + 1), torch.inf, dtype=torch.double)
        self._nodes[:, 0] = 0
        last_intervals = []
        rows = []
        factors = []
        for index, (call, grid) in enumerate(zip(calls, grids, strict=True)):
            self._nodes[index, 1 : len(grid) + 1] = torch.tensor(grid, dtype=torch.double)
            last_intervals.append(len(grid) - 1)
            row = axis_sizes.row(call.weight, dim)
            rows.append(row)
            # The row of an axis without prunable channels is the constant 1, its size this factor.
            is_prunable = row != axis_sizes.constant_row
            factors.append(1 if is_prunable else plan.weights[call.weight][dim])
        self._last_interval = torch.tensor(last_intervals)
        self._rows = torch.tensor(rows)
        self._factors = torch.tensor(factors, dtype=torch.double)
        self._calls = torch.arange(len(calls))

    def locate(self, sizes: Tensor) -> _GridPoint:
        """Find the nodes that the widths lie between, for kept axis sizes of shape (..., size)."""
        width = sizes[..., self._rows] * self._factors
        # The last interval ends at the dense width itself, so that it includes its upper node.
        num_passed = (self._nodes <= width.detach().unsqueeze(-1)).sum(-1)
        node = torch.minimum(num_passed - 1, self._last_interval)
        low = self._nodes[self._calls, node]
        high = self._nodes[self._calls, node + 1]
        return _GridPoint(node, (width - low) / (high - low), width)
