"""Gradual pruning by cost-normalized Taylor importance: method `dhp`, preset `default`.

Every channel has a score that starts at 1. Every `INTERVAL` iterations all scores take a proximal
step, the soft threshold of an l1 penalty in the metric of Adam. For channel i of group g

    score_i <- score_i - lambda * cost_i / D_i * headroom_g**2
    D_i = square root of the moving average of (z_i dL/dz_i)**2

where cost_i is the marginal cost of the channel, D_i**2 its first-order Taylor importance, and
headroom_g how far the group is above its width prior. A channel whose score reaches 0 is masked.
Lambda is solved for in every step, so that the kept fraction of the cost follows a schedule from 1
to the budget (`keep_ratio`).

From DHP (Li et al., ECCV 2020): a latent vector for each group of coupled channels, whose entries
multiply the weights that produce and that read a channel; a proximal step that makes them sparse
while the network trains; a single cut, then finetuning.

Different from DHP:

- The latents z stay at 1. They are probes for the gradient only; it is the scores that shrink. So
  the search does not disturb the training, and may start from trained weights.
- The importance is z dL/dz, not |z|: with random latents, |z| after the search is nearly |z| before
  it. It compares channels whatever the scale of latents and weights.
- The penalty is proportional to the cost of a channel, and the threshold belongs to the metric of
  Adam; a plain threshold after a step of Adam does not minimize the objective (Yun et al., 2021).
- Lambda follows from the schedule. In DHP it is given, and the search ends at the budget.
- Pruned channels are masked at once, so that the network which trains is the network to be cut.
- Groups are damped by a width prior. Taylor importance compares the channels of a group well and
  those of different groups badly: early in training it is tiny in residual branches, and along a
  chain of layers it is alike in all of them, whatever a layer could spare.

References:
    Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019.
    Yun et al., Adaptive Proximal Gradient Methods for Structured Neural Networks, NeurIPS 2021.
"""

from typing import final

import torch
from torch import Tensor

from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import DHPSettings, Search, SearchSettings, taylor_terms
from dhp_sr.search.proximal import COOLDOWN, AdamPreconditioner, keep_ratio_schedule, prune_to_ratio
from dhp_sr.search.width_prior import width_prior
from dhp_sr.utils.modules import StateTree

INTERVAL = 5
"""Iterations between two proximal steps."""

DAMPING_POWER = 2.0
"""Exponent of the headroom. Each further channel of a narrow layer costs the loss more, which the
Taylor importance shows only after much training."""

MIN_HEADROOM = 1e-3
"""Headroom of a group at or below its prior: it still gives way if nothing else is left."""

MIN_REMAINING = 0.01
"""Reported as remaining of a channel that is kept although its score has reached 0."""


@final
class GradualTaylorPruning(Search):
    """The default search, see the module.

    Args:
        hyper: The network, all latents at 1.
        settings: Budget and length; `DHPSettings` as its `method_options`.
    """

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        cost_exponent = DHPSettings(**settings.method_options).cost_exponent
        size = hyper.plan.size
        self._scores = torch.ones(size)
        # Only its second moment is used, a mean of the importance over about 100 steps.
        self._adam = AdamPreconditioner(size)
        self._thresholds = torch.ones(size)
        """Last soft threshold of each channel, for lambda = 1."""
        self._width_prior = width_prior(hyper, settings.budget, cost_exponent)
        self._widths_are_final = False
        """Whether the rounded widths of the budget are set; the rest of the search trains them."""

    def step(self, iteration: int) -> dict[str, float]:
        """Update the importance; every INTERVAL, take a proximal step to the schedule's ratio."""
        penalty = 0.0
        if not self._widths_are_final:
            self._adam.update(taylor_terms(self.hyper, iteration).cpu())
            if iteration % INTERVAL == INTERVAL - 1:
                penalty = self._proximal_step(iteration / self.settings.iterations)
        return {**self.ratios(), "lambda": penalty}

    def _proximal_step(self, progress: float) -> float:
        """Shrink the scores, set the masks, and return lambda."""
        budget = self.settings.budget
        # A masked channel has no gradient, so its D decays. It keeps its last threshold instead,
        # and its score keeps falling below 0. So scores rank pruned channels by when they were
        # pruned, which is the order in which `finish` takes them back if rounding needs more.
        is_kept = self.hyper.mask.cpu()
        self._thresholds = torch.where(is_kept, self._current_thresholds(), self._thresholds)
        target = keep_ratio_schedule(progress, budget.keep_ratio)
        self._scores, penalty = prune_to_ratio(
            self.hyper, self._scores, self._thresholds, budget, target
        )
        self.hyper.mask.copy_(enforce_min_width(self.hyper.plan, self._scores, budget.min_width))
        if progress >= 1 - COOLDOWN:
            # Widths are rounded here and not at the cut, so that the loss sees the final network
            # and the weights adapt to it during the cool-down.
            self._widths_are_final = True
            self.finish()
        return penalty

    def _current_thresholds(self) -> Tensor:
        """Return the soft threshold of every channel for lambda = 1, shape (plan.size,)."""
        mask = self.hyper.mask.cpu()
        cost = self.hyper.marginal_cost(self.settings.budget.kind).float().cpu()
        # Relative to the mean, for lambda to be comparable between networks in the log.
        thresholds = self._adam.threshold(cost / cost.mean())
        for group in self.hyper.plan.prunable:
            kept = float(mask[group.span].float().mean())
            damping = headroom(kept, self._width_prior[group.name]) ** DAMPING_POWER
            thresholds[group.span] *= damping
        return thresholds

    def scores(self) -> Tensor:
        """Return the scores; below 0 for pruned channels, those pruned last nearest to 0."""
        return self._scores

    def remaining(self) -> Tensor:
        """Return the scores; 0 for masked channels, positive for all others."""
        # Rounding and minimum widths keep some channels whose score has reached 0.
        return self._scores.clamp_min(MIN_REMAINING) * self.hyper.mask.cpu()

    def state_dict(self) -> StateTree:
        """Return scores, thresholds, Adam's moments, and whether the widths are final."""
        # The width prior is not part of it: it follows from plan and settings. Masks are a buffer
        # of the hyper network.
        return {
            "scores": self._scores,
            "thresholds": self._thresholds,
            "widths_are_final": self._widths_are_final,
            "adam": self._adam.state_dict(),
        }

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self._scores = state["scores"].clone()
        self._thresholds = state["thresholds"].clone()
        self._widths_are_final = bool(state["widths_are_final"])
        self._adam.load_state_dict(state["adam"])


def headroom(kept: float, prior: float) -> float:
    """Return a group's headroom above its prior: 1 when unpruned, `MIN_HEADROOM` at the prior.

    Args:
        kept: Kept fraction of the group's channels.
        prior: Fraction that the width prior wants to keep.
    """
    return max(MIN_HEADROOM, (kept - prior) / max(1 - prior, MIN_HEADROOM))
