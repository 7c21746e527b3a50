"""The published search of DHP, for reproduction: method `dhp`, preset `paper`.

The latents start from N(0, 1) and are trained with the generated weights by Adam; after each step
they are soft-thresholded by lambda * lr, the same for all groups. A channel counts as pruned below
|z| = 5e-3; a group is left alone once no more than 4 channels are above. The penalty pauses while
the kept fraction is within 0.02 of the budget. The forward stays unmasked until the cut.

Different from the published code: network inputs and outputs have a fixed latent of 1; the forward
of EDSR feeds each block with the output of the previous block (the code feeds all of them with
that of the head); the search has a fixed length, where the code ends it near the budget; the cut
meets the budget exactly.

Reference:
    Li et al., DHP: Differentiable Meta Pruning via HyperNetworks, ECCV 2020; thresholds and
    intervals are those of the code (github.com/ofsoundof/dhp).
"""

from typing import final

import torch
from torch import Tensor

from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.convert import init_like_paper
from dhp_sr.search.base import DHPSettings, Search, SearchSettings, latent_gradients, set_latents
from dhp_sr.search.proximal import AdamPreconditioner, soft_threshold
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree

PRUNED_BELOW = 5e-3
"""A channel counts as pruned if |z| is below this."""

MIN_CHANNELS = 4
"""A group with no more than these above the threshold is not shrunk further."""

INTERVAL = 100
"""Iterations between two evaluations of the cost."""

STOP_MARGIN = 0.02
"""The penalty is paused once the kept fraction is at most this far above the budget."""


@final
class PaperDHP(Search):
    """The search of the paper's code, see the module.

    Args:
        hyper: Converted with parametrization `full`; all its weights are initialized anew.
        settings: Budget, and `DHPSettings` as its `method_options`; the length has no effect.

    Raises:
        UserError: The network has another parametrization.
    """

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        options = DHPSettings(**settings.method_options)
        try:
            init_like_paper(hyper)
        except ValueError as error:
            raise UserError(
                f"compress.preset paper: {error}; set compress.parametrization: full"
            ) from error
        self._penalty = options.penalty
        self._lr = options.latent_lr
        self._adam = AdamPreconditioner(hyper.plan.size, betas=(0.9, 0.999), eps=1e-8)
        self._preview = torch.ones(hyper.plan.size, dtype=torch.bool)
        """Mask of the last evaluation of the cost."""
        self._paused = False

    def step(self, iteration: int) -> dict[str, float]:
        """Take a step of Adam on the latents, then the soft threshold lambda * lr."""
        self._adam.update(latent_gradients(self.hyper, iteration).cpu())
        # Latents are no parameters of the training's optimizer, which may be another than Adam.
        latents = self._flat_latents() - self._lr * self._adam.direction()
        if not self._paused:
            # As published: the threshold ignores Adam's metric, so this is not the proximal step of
            # the objective. `gradual_taylor` has that.
            shrunk = soft_threshold(latents, self._penalty * self._lr)
            latents = torch.where(self._may_shrink(latents), shrunk, latents)
        set_latents(self.hyper, latents)
        if iteration % INTERVAL == INTERVAL - 1:
            excess = latents.abs() - PRUNED_BELOW
            self._preview = enforce_min_width(self.hyper.plan, excess, MIN_CHANNELS)
            budget = self.settings.budget
            kept_ratio = self.hyper.cost_ratio(budget.kind, self._preview)
            # Not for good: small latents may grow again, and the ratio with them.
            self._paused = kept_ratio <= budget.keep_ratio + STOP_MARGIN
        return {**self.ratios(), "lambda": 0.0 if self._paused else self._penalty}

    def _may_shrink(self, latents: Tensor) -> Tensor:
        """Return which entries the penalty acts on, bool, shape (plan.size,)."""
        may_shrink = torch.ones_like(latents, dtype=torch.bool)
        for group in self.hyper.plan.prunable:
            num_kept = int((latents[group.span].abs() >= PRUNED_BELOW).sum())
            may_shrink[group.span] = num_kept > MIN_CHANNELS
        return may_shrink

    def _flat_latents(self) -> Tensor:
        latents = self.hyper.latents.values()
        return torch.cat([latent.detach().float().cpu() for latent in latents])

    def preview_mask(self) -> Tensor:
        """Return the mask that a cut at the threshold had at the last evaluation of the cost."""
        return self._preview

    def scores(self) -> Tensor:
        """Return |z|."""
        return self._flat_latents().abs()

    def remaining(self) -> Tensor:
        """Return |z|; nothing is masked before the cut."""
        return self.scores()

    def state_dict(self) -> StateTree:
        """Return Adam's moments and the last evaluation of the cost; latents are the network's."""
        return {
            "adam": self._adam.state_dict(),
            "preview": self._preview,
            "paused": self._paused,
        }

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self._adam.load_state_dict(state["adam"])
        self._preview = state["preview"].clone()
        self._paused = bool(state["paused"])
