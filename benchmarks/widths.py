"""Choices of widths at half the multiply-adds, by which kind of channels gives way first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.structure import BudgetError, ChannelPlan

KEEP = 0.5
TOLERANCE = 0.01


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


UNIFORM = {"uniform": Choice(8), "uniform, steps of 16": Choice(16), "uniform, any width": Choice(1)}
"""For every network; the first is what `method: uniform` gives."""

SHAPED = {
    "up-sampler kept": Choice(8, up=0),
    "narrow up-sampler": Choice(16, up=2),
    "narrow up-sampler, wide trunk": Choice(16, trunk=0.5, up=2),
    "narrow up-sampler, steps of 8": Choice(8, up=2),
    "narrow trunk": Choice(16, trunk=1.5, inner=0.5),
}
"""For networks with an up-sampler as well."""


def choices(plan: ChannelPlan) -> dict[str, Choice]:
    """Return name -> choice for a network."""
    shaped = any(_kind(plan, group.name) == "up" for group in plan.prunable)
    return {**UNIFORM, **(SHAPED if shaped else {})}


def narrow(hyper: HyperNet, choice: Choice) -> None:
    """Set the masks of a hyper network to half its multiply-adds.

    Raises:
        BudgetError: the widths are too coarse, or the groups that may give way do not suffice.
    """
    scores = {group.name: _scores(hyper.plan, group.name, group.width, choice) for group in hyper.plan.prunable}
    hyper.prune_to(macs=KEEP, tolerance=TOLERANCE, round_to=choice.round_to, scores=scores)
    cut = [name for name, mask in hyper.masks.items() if _kind(hyper.plan, name) == "up" and not mask.all()]
    if choice.up == 0 and cut:
        raise BudgetError(f"half the multiply-adds cannot be met without cutting {', '.join(cut)}")


def _scores(plan: ChannelPlan, name: str, width: int, choice: Choice) -> Tensor:
    return 1 - getattr(choice, _kind(plan, name)) * torch.arange(width) / width


def _kind(plan: ChannelPlan, name: str) -> str:
    """Return trunk, inner or up, by the layer that names a group."""
    if name.startswith("upsample"):
        return "up"
    return "trunk" if name == plan.prunable[0].name else "inner"
