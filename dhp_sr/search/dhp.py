"""DHP, preset `modern`: what the loss does not hold on to, and what costs much, goes first.

The network keeps its latents z at 1 and uses them as probes: z dL/dz tells how much the loss holds on to a channel,
whatever the scale of z and of the weights. A copy of z, its `life`, starts at 1 and is soft-thresholded
in Adam's metric, with the cost of a channel as its penalty. Where the life reaches zero the channel is masked. What
stays keeps its full weight, so the search does not disturb the training.

Slopes compare the channels of one group well and those of different groups badly: early in training those of residual
branches are tiny, and along a chain of layers all are alike, whatever a layer could hold. So a group shrinks the more
slowly the less room it has above a line of its own: its width in a network of that cost whose layers keep as much of
their weights as they can (`lines`). What that and other rules gave: results/LOG.md.

The strength lambda is found, not given: after a time of watching, the kept fraction follows a line from 1 to the
budget.
"""

from typing import Any

import torch
from torch import Tensor

from dhp_sr.allocation.budget import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.proximal import AdamMetric
from dhp_sr.search.base import Search, SearchSettings, slopes
from dhp_sr.search.keep_ratio import SETTLE, path, shrink
from dhp_sr.search.width_prior import lines

INTERVAL = 5
"""Iterations between two thresholds."""

NARROWING = 2.0
"""Power of a group's room by which its channels shrink more slowly: each further channel of a narrow layer costs the
loss more, which slopes tell only after much training."""

LEAST_ROOM = 1e-3
"""A group without room still gives way where nothing else is left."""

LEAST = 0.01
"""What `latents` gives for a channel that is kept although its life has ended."""


class ModernDHP(Search):
    """Search by soft thresholds from z = 1 along a line of kept fractions."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        size = hyper.plan.size
        self._life = torch.ones(size)
        self._adam = AdamMetric(size)
        self._threshold = torch.ones(size)
        """The last soft threshold of each channel, for lambda 1; a masked channel has no gradient and keeps its own."""
        self._lines = lines(hyper, settings.budget, settings.price_power)
        self._settled = False
        """Whether the final, rounded widths are set; the rest of the search trains them."""

    def step(self, iteration: int) -> dict[str, float]:
        """Observe the gradients; at every INTERVAL, shrink the lives until the cost is on its line."""
        found, progress = 0.0, iteration / self.settings.iterations
        if not self._settled:
            self._adam.observe(slopes(self.hyper).cpu())
            if iteration % INTERVAL == INTERVAL - 1:
                found = self._shrink(progress)
        return {**self.ratios(), "lambda": found}

    def _shrink(self, progress: float) -> float:
        budget = self.settings.budget
        now = self._rates()
        self._threshold = torch.where(self.hyper.mask.cpu(), now, self._threshold)
        ratio = path(progress, budget.keep_ratio)
        self._life, found = shrink(self.hyper, self._life, self._threshold, budget, ratio)
        self.hyper.mask.copy_(enforce_min_width(self.hyper.plan, self._life, budget.min_width))
        if progress >= 1 - SETTLE:
            self._settled = True
            self.finish()
        return found

    def _rates(self) -> Tensor:
        """Return the soft threshold of every channel for lambda 1, shape (plan.size,)."""
        mask, budget = self.hyper.mask.cpu(), self.settings.budget
        cost = self.hyper.marginal_cost(budget.kind).float().cpu()
        rates = self._adam.threshold(cost / cost.mean())
        for group in self.hyper.plan.prunable:
            rates[group.span] *= (
                room(float(mask[group.span].float().mean()), self._lines[group.name]) ** NARROWING
            )
        return rates

    def scores(self) -> Tensor:
        """Return what is left of each life; below zero for those that would have died, latest first."""
        return self._life

    def latents(self) -> Tensor:
        """Return the lives, 0 for what the masks have cut; a channel that rounding brought back has LEAST."""
        return self._life.clamp_min(LEAST) * self.hyper.mask.cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return the lives, the moments, and how far the search is."""
        own = {"life": self._life, "threshold": self._threshold, "settled": self._settled}
        return {**own, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._life, self._threshold = state["life"].clone(), state["threshold"].clone()
        self._settled = bool(state["settled"])
        self._adam.load_state_dict(state["adam"])


def room(kept: float, line: float) -> float:
    """Return how far a group's kept fraction lies above its line: 1 for a whole group, LEAST_ROOM for none."""
    return max(LEAST_ROOM, (kept - line) / max(1 - line, LEAST_ROOM))
