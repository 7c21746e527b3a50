"""Latency of a pruned network, interpolated in a table of measured layer times."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.axis_sizes import AxisSizes
from dhp_sr.cost.latency_lut import LatencyLUT, LayerCall


class LatencyModel:
    """Milliseconds as a function of the kept entries.

    Each layer is interpolated bilinearly between the widths measured (and 0 at no width). What the layers do not
    account for (activations, sums, shuffles, norms, convolutions with computed weights) is the time of the whole
    network less theirs; it shrinks with the elements that the layers put out.
    """

    def __init__(self, plan: ChannelPlan, counts: AxisSizes, table: LatencyLUT) -> None:
        calls = table.calls
        self._weights = [call.weight for call in calls]
        self._axes = [
            _Axis(counts, plan, calls, dim, [table.layers[call.signature][name] for call in calls])
            for dim, name in enumerate(("first", "second"))
        ]
        self._width = max(axis.length for axis in self._axes) + 1
        self._times = torch.zeros(len(calls), self._width, self._width, dtype=torch.double)
        for times, call in zip(self._times, calls, strict=True):
            measured = torch.tensor(table.layers[call.signature]["ms"], dtype=torch.double)
            times[1 : measured.shape[0] + 1, 1 : measured.shape[1] + 1] = measured
        self._times = self._times.flatten()
        self._base = torch.arange(len(calls)) * self._width**2
        self._out = torch.tensor([_out_axis(plan, call) for call in calls])
        full = torch.tensor(
            [plan.weights[call.weight][dim] for call, dim in zip(calls, self._out, strict=True)]
        )
        self._elements = torch.tensor([call.elements for call in calls]).double() / full
        self._rest_ms = 0.0
        dense = counts.of(torch.ones(plan.size, dtype=torch.double))
        layers_ms, elements = self._layers(dense)
        self._rest_ms = max(0.0, table.dense_ms - float(layers_ms.sum())) / float(elements.sum())

    def __call__(self, counts: Tensor) -> Tensor:
        """Return milliseconds, shape (...), for `AxisSizes` of shape (..., size)."""
        layers_ms, elements = self._layers(counts)
        return (layers_ms + self._rest_ms * elements).sum(-1)

    def by_parameter(self, counts: Tensor, names: Sequence[str]) -> Tensor:
        """Return the milliseconds charged to each parameter of `names`."""
        layers_ms, elements = self._layers(counts)
        place = {name: index for index, name in enumerate(names)}
        where = torch.tensor([place[weight] for weight in self._weights])
        return torch.zeros(len(names), dtype=torch.double).index_add(
            0, where, layers_ms + self._rest_ms * elements
        )

    def _layers(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return milliseconds and elements put out of every layer call, shape (..., calls)."""
        (low1, up1, at1, kept1), (low2, up2, at2, kept2) = (
            axis.place(counts) for axis in self._axes
        )
        low1, up1 = self._base + low1 * self._width, self._base + up1 * self._width
        lower = torch.lerp(self._times[low1 + low2], self._times[low1 + up2], at2)
        upper = torch.lerp(self._times[up1 + low2], self._times[up1 + up2], at2)
        kept = torch.where(self._out == 0, kept1, kept2)
        return torch.lerp(lower, upper, at1), self._elements * kept


class _Axis:
    """Along one axis of all weights: which nodes of the grid a width lies between."""

    def __init__(
        self,
        counts: AxisSizes,
        plan: ChannelPlan,
        calls: Sequence[LayerCall],
        dim: int,
        grids: Sequence[list[int]],
    ) -> None:
        self.length = max(len(grid) for grid in grids)
        ends = [torch.inf] * self.length
        self._nodes = torch.tensor(
            [[0, *grid, *ends][: self.length + 1] for grid in grids], dtype=torch.double
        )
        self._last = torch.tensor([len(grid) - 1 for grid in grids])
        self._rows = torch.tensor([counts.row(call.weight, dim) for call in calls])
        sizes = [
            1 if dim in counts.prunable_dims(call.weight, 2) else plan.weights[call.weight][dim]
            for call in calls
        ]
        self._sizes = torch.tensor(sizes).double()
        self._all = torch.arange(len(calls))

    def place(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the lower and the upper node, the place between them in [0, 1], and the width itself."""
        kept = counts[..., self._rows] * self._sizes
        passed = (self._nodes <= kept.detach().unsqueeze(-1)).sum(-1) - 1
        low = torch.minimum(passed, self._last)
        start, end = (self._nodes[self._all, node] for node in (low, low + 1))
        return low, low + 1, (kept - start) / (end - start), kept


def _out_axis(plan: ChannelPlan, call: LayerCall) -> int:
    kinds = {layer.weight: layer.kind for layer in plan.layers}
    return 1 if kinds.get(call.weight) == "transposed conv" else 0
