"""Choices of widths at half the multiply-adds or half the time, for the latency benchmark."""

from dataclasses import dataclass

import torch

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.config.compress import DHPOptions
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.hyper import HyperNet
from dhp_sr.search import SearchSettings, build_search

KEEP_RATIO = 0.5
TOLERANCES = {"macs": 0.01, "latency": 0.05}


@dataclass(frozen=True)
class WidthChoice:
    """Relative pruning of kinds of channels: 2 prunes twice the fraction that 1 prunes, 0 none."""

    round_to: int
    """Widths are multiples of this."""
    trunk: float = 1.0
    """Channels that a residual connection couples."""
    inner: float = 1.0
    """Channels inside the blocks."""
    upsampler: float = 1.0
    """Channels of the upsampler."""

    def apply(self, hyper: HyperNet) -> None:
        """Set the masks to half the multiply-adds.

        Raises:
            BudgetError: the widths are too coarse, or the groups that may be pruned do not suffice.
        """
        rates = {}
        scores = {}
        for group in hyper.plan.prunable:
            rates[group.name] = getattr(self, _kind(hyper.plan, group.name))
            # Equal budgets prune the lowest scores, so a steeper ramp loses more channels.
            ramp = torch.arange(group.width) / group.width
            scores[group.name] = 1 - rates[group.name] * ramp
        hyper.prune_to(
            macs=KEEP_RATIO, tolerance=TOLERANCES["macs"], round_to=self.round_to, scores=scores
        )
        pruned = []
        for name, mask in hyper.masks.items():
            if rates[name] == 0 and not mask.all():
                pruned.append(name)
        if pruned:
            names = ", ".join(pruned)
            raise BudgetError(f"half the multiply-adds cannot be met without pruning {names}")


@dataclass(frozen=True)
class PriorWidths:
    """Widths of the baseline `prior_widths`, which the default search aims for."""

    round_to: int
    """Widths are multiples of this."""
    cost_exponent: float = 0.0
    """Value of `compress.dhp.cost_exponent`."""
    kind: str = "macs"
    """Cost to halve; `latency`: that of PyTorch on one thread for the example's size."""

    def apply(self, hyper: HyperNet) -> None:
        """Set the masks.

        Raises:
            BudgetError: the widths are too coarse.
        """
        if self.kind == "latency":
            hyper.use_latency(LatencyBenchmark(hyper.random_inputs()))
        settings = SearchSettings(
            budget=Budget.from_target(self.kind, KEEP_RATIO, TOLERANCES[self.kind], self.round_to),
            iterations=1,
            method_options=dict(DHPOptions(cost_exponent=self.cost_exponent)),
        )
        # The baseline sets its masks at construction; there is nothing to search.
        build_search("prior_widths", hyper, settings)


GENERAL = {
    "uniform": WidthChoice(8),
    "uniform, steps of 16": WidthChoice(16),
    "uniform, any width": WidthChoice(1),
    "prior widths, steps of 16": PriorWidths(16),
    "prior widths, half the time": PriorWidths(16, kind="latency"),
}
"""For every network; the first is what `method: uniform` gives."""

WITH_UPSAMPLER = {
    "up-sampler kept": WidthChoice(8, upsampler=0),
    "narrow up-sampler": WidthChoice(16, upsampler=2),
    "narrow up-sampler, wide trunk": WidthChoice(16, trunk=0.5, upsampler=2),
    "narrow up-sampler, steps of 8": WidthChoice(8, upsampler=2),
    "narrow trunk": WidthChoice(16, trunk=1.5, inner=0.5),
    "prior widths, cost_exponent 0.75, steps of 16": PriorWidths(16, 0.75),
}
"""For networks with an upsampler as well."""


def width_choices(plan: ChannelPlan) -> dict[str, WidthChoice | PriorWidths]:
    """Name -> choice for a network."""
    choices: dict[str, WidthChoice | PriorWidths] = dict(GENERAL)
    if any(_kind(plan, group.name) == "upsampler" for group in plan.prunable):
        choices.update(WITH_UPSAMPLER)
    return choices


def _kind(plan: ChannelPlan, name: str) -> str:
    """Kind of the channels of a group, by the layer that names it."""
    if name.startswith("upsample"):
        return "upsampler"
    return "trunk" if name == plan.prunable[0].name else "inner"
