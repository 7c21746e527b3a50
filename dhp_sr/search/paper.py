"""DHP, preset `faithful`: the published search, for reproduction.

Latents from N(0, 1), the full hypernetwork with its biases, one fixed lambda for all groups, plain soft threshold after
Adam, a channel counts as cut below |z| = 5e-3, at least 4 channels stay. It differs from the published code in three
points: network inputs and outputs have a fixed latent of 1, the EDSR forward is right, and the budget is met exactly.
"""

from typing import Any

import torch
from torch import Tensor

from dhp_sr.allocation.budget import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.convert import draw_faithful
from dhp_sr.hyper.proximal import AdamMetric, soft_threshold
from dhp_sr.search.base import Search, SearchSettings, gradients, set_latents
from dhp_sr.utils.errors import UserError

THRESHOLD = 5e-3
FLOOR = 4
PENALTY = 0.1
LATENT_LR = 1e-4
INTERVAL = 100
"""Iterations between two looks at the cost."""
MARGIN = 0.02
"""The penalty rests once the kept fraction is this close to the budget."""


class FaithfulDHP(Search):
    """The search of the paper's code, with fixed lambda."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        try:
            draw_faithful(hyper)
        except ValueError as error:
            raise UserError(
                f"compress.preset faithful: {error}; set compress.parametrization: full"
            ) from error
        self._lr = settings.latent_lr or LATENT_LR
        self._penalty = PENALTY if settings.penalty is None else settings.penalty
        self._adam = AdamMetric(hyper.plan.size, betas=(0.9, 0.999), eps=1e-8)
        self._ratios = super().ratios()
        self._resting = False

    def step(self, iteration: int) -> dict[str, float]:
        """Take Adam's step on the latents, then the soft threshold lambda * lr."""
        self._adam.observe(gradients(self.hyper).cpu())
        latents = self.scores_signed() - self._lr * self._adam.direction()
        if not self._resting:
            latents = torch.where(
                self._may_shrink(latents),
                soft_threshold(latents, self._penalty * self._lr),
                latents,
            )
        set_latents(self.hyper, latents)
        if iteration % INTERVAL == INTERVAL - 1:
            self._look(latents.abs())
        return {**self.ratios(), "lambda": 0.0 if self._resting else self._penalty}

    def _may_shrink(self, latents: Tensor) -> Tensor:
        may = torch.ones_like(latents, dtype=torch.bool)
        for group in self.hyper.plan.prunable:
            may[group.span] = int((latents[group.span].abs() >= THRESHOLD).sum()) > FLOOR
        return may

    def _look(self, magnitude: Tensor) -> None:
        mask = enforce_min_width(self.hyper.plan, magnitude - THRESHOLD, FLOOR)
        costs, dense = self.hyper.cost_of(mask), self.hyper.dense_cost()
        self._ratios = {
            "macs_ratio": costs.macs / dense.macs,
            "params_ratio": costs.params / dense.params,
        }
        budget = self.settings.budget
        self._resting = self._ratios[f"{budget.kind}_ratio"] <= budget.keep_ratio + MARGIN

    def ratios(self) -> dict[str, float]:
        """Return what a cut at the threshold would keep; the forward stays unmasked, as published."""
        return dict(self._ratios)

    def scores_signed(self) -> Tensor:
        """Return the latents as one flat vector."""
        return torch.cat([latent.detach().float().cpu() for latent in self.hyper.latents.values()])

    def scores(self) -> Tensor:
        """Return |z|."""
        return self.scores_signed().abs()

    def latents(self) -> Tensor:
        """Return |z|; nothing is masked before the cut."""
        return self.scores()

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's moments and the last look at the cost."""
        return {"adam": self._adam.state_dict(), "ratios": self._ratios, "resting": self._resting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self._adam.load_state_dict(state["adam"])
        self._ratios, self._resting = dict(state["ratios"]), bool(state["resting"])
