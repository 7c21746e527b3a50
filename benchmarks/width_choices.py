"""Choices of widths at half the multiply-adds, by which kind of channels gives way first, and at half the time."""

from dataclasses import dataclass

import torch

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.config.compress import DHPOptions
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.hyper import HyperNet
from dhp_sr.search import SearchSettings, build_search

KEEP = 0.5
TOLERANCE = 0.01
TOLERANCES = {"macs": TOLERANCE, "latency": 0.05}


@dataclass(frozen=True)
class Choice:
    """How the channels give way. A pace of 2 loses twice the fraction that a pace of 1 loses, 0 loses none."""

    round_to: int
    trunk: float = 1.0
    """Pace of the channels that a residual connection joins."""
    inner: float = 1.0
    """Pace of the channels inside the blocks."""
    up: float = 1.0
    """Pace of the up-sampler's channels."""

    def narrow(self, hyper: HyperNet) -> None:
        """Set the masks to half the multiply-adds.

        Raises:
            BudgetError: the widths are too coarse, or the groups that may give way do not suffice.
        """
        paces = {
            group.name: getattr(self, _kind(hyper.plan, group.name))
            for group in hyper.plan.prunable
        }
        scores = {
            group.name: 1 - paces[group.name] * torch.arange(group.width) / group.width
            for group in hyper.plan.prunable
        }
        hyper.prune_to(macs=KEEP, tolerance=TOLERANCE, round_to=self.round_to, scores=scores)
        cut = [name for name, mask in hyper.masks.items() if paces[name] == 0 and not mask.all()]
        if cut:
            raise BudgetError(
                f"half the multiply-adds cannot be met without cutting {', '.join(cut)}"
            )


@dataclass(frozen=True)
class PriorWidths:
    """The widths of the baseline `prior_widths`, which the default search aims for."""

    round_to: int
    cost_exponent: float = 0.0
    """As in `compress.dhp`."""
    kind: str = "macs"
    """What half is kept of; `latency`: PyTorch's time for the example's size on one thread, within 5 %."""

    def narrow(self, hyper: HyperNet) -> None:
        """Set the masks.

        Raises:
            BudgetError: the widths are too coarse.
        """
        if self.kind == "latency":
            hyper.use_latency(LatencyBenchmark(hyper.random_input()))
        settings = SearchSettings(
            budget=Budget.from_target(self.kind, KEEP, TOLERANCES[self.kind], self.round_to),
            iterations=1,
            method_options=dict(DHPOptions(cost_exponent=self.cost_exponent)),
        )
        build_search("prior_widths", hyper, settings)


UNIFORM = {
    "uniform": Choice(8),
    "uniform, steps of 16": Choice(16),
    "uniform, any width": Choice(1),
}
"""For every network; the first is what `method: uniform` gives."""

PRIOR = {
    "prior widths, steps of 16": PriorWidths(16),
    "prior widths, half the time": PriorWidths(16, kind="latency"),
}
"""For every network as well."""

SHAPED = {
    "up-sampler kept": Choice(8, up=0),
    "narrow up-sampler": Choice(16, up=2),
    "narrow up-sampler, wide trunk": Choice(16, trunk=0.5, up=2),
    "narrow up-sampler, steps of 8": Choice(8, up=2),
    "narrow trunk": Choice(16, trunk=1.5, inner=0.5),
    "prior widths, cost_exponent 0.75, steps of 16": PriorWidths(16, 0.75),
}
"""For networks with an up-sampler as well."""


def choices(plan: ChannelPlan) -> dict[str, Choice | PriorWidths]:
    """Return name -> choice for a network."""
    shaped = any(_kind(plan, group.name) == "up" for group in plan.prunable)
    return {**UNIFORM, **PRIOR, **(SHAPED if shaped else {})}


def _kind(plan: ChannelPlan, name: str) -> str:
    """Return trunk, inner or up, by the layer that names a group."""
    if name.startswith("upsample"):
        return "up"
    return "trunk" if name == plan.prunable[0].name else "inner"
