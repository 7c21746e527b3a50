"""DHP, preset `modern`: latents start at 1 and shrink by a proximal step that listens to the loss.

The penalty of a channel is what it costs; the step is taken in Adam's metric, so a channel whose latent has a large
gradient shrinks slowly. The strength lambda is found, not given: the kept fraction follows a line from 1 to the target.
What has not shrunk to zero keeps its full weight, so the search does not disturb the training of what stays.
"""

from typing import Any

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.proximal import ProximalAdam
from dhp_sr.search.controller import SETTLE, path, strength
from dhp_sr.search.method import Search, SearchSettings, gradients
from dhp_sr.structure.budget import protect

INTERVAL = 10
"""Iterations between two proximal steps."""


class ModernDHP(Search):
    """Proximal search from z = 1 along a line of kept fractions."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        size = hyper.plan.size
        self._life = torch.ones(size)
        """What the proximal steps have left of each latent; at or below 0 the channel is masked."""
        self._adam = ProximalAdam(size, lr=1.0, betas=(0.9, 0.99))
        self._metric = torch.ones(size)
        self._settled = False
        """Whether the final, rounded widths are set; the rest of the search trains them."""

    def step(self, iteration: int) -> dict[str, float]:
        """Observe the gradients; at every INTERVAL, shrink the latents until the cost is on its line."""
        self._adam.observe(gradients(self.hyper).cpu())
        alive = self.hyper.mask.cpu()
        self._metric = torch.where(alive, self._adam.metric, self._metric)
        found, progress = 0.0, iteration / self.settings.iterations
        if iteration % INTERVAL == INTERVAL - 1 and not self._settled:
            found = self._shrink(progress)
            if progress >= 1 - SETTLE:
                self._settled = True
                self.finish()
        return {**self.ratios(), "lambda": found}

    def _shrink(self, progress: float) -> float:
        budget = self.settings.budget
        ratio = path(progress, budget.keep_ratio)
        cost = self.hyper.marginal_cost(budget.kind).float().cpu()
        rate = cost / cost.mean() / self._metric
        found = strength(self.hyper, self._life, rate, budget, ratio)
        self._life = self._life - found * rate
        self.hyper.mask.copy_(protect(self.hyper.plan, self._life, budget.min_width))
        return found

    def scores(self) -> Tensor:
        """Return what is left of each latent; negative for those that would have died, latest first."""
        return self._life

    def state_dict(self) -> dict[str, Any]:
        """Return the latents' lives and moments."""
        return {"life": self._life, "metric": self._metric, "settled": self._settled, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._life, self._metric = state["life"].clone(), state["metric"].clone()
        self._settled = bool(state["settled"])
        self._adam.load_state_dict(state["adam"])
