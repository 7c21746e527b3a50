"""Base class of the search methods, and the settings that the engine gives them.

The settings of single methods have no defaults here. These are stated once, beside the
documentation of each key, in the sections of the methods in `compress` of an option file
(`dhp_sr.config.compress`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetReport
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.cost_kinds import reported_kinds
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree
from dhp_sr.utils.network_io import Example
from dhp_sr.utils.strict_json import JsonObject


@dataclass(frozen=True)
class SearchSettings:
    """Settings that every method takes."""

    budget: Budget
    iterations: int
    """Length of the search."""
    seed: int = 0
    """Seed of everything random in the search; that of the training is another."""
    preset: str = "default"
    """Method dhp: `default` or `paper`."""
    method_options: JsonObject = field(default_factory=dict)
    """Fields of the settings class of the method (`DHPSettings`, `HSNSettings`), by name."""


@dataclass(frozen=True)
class DHPSettings:
    """Settings of method `dhp`, both presets, and of the baseline `prior_widths`."""

    cost_exponent: float
    """Preset `default`, `prior_widths`: exponent of the width prior, in [0, 1]."""
    penalty: float
    """Preset `paper`: lambda of the l1 penalty, not negative."""
    latent_lr: float
    """Preset `paper`: learning rate of the latents."""


@dataclass(frozen=True)
class HSNSettings:
    """Settings of method `hsn`."""

    lr: float
    """Learning rate of AdamW for the structure network."""
    weight_decay: float
    """Weight decay of AdamW."""
    temperature: float
    """Temperature of the gates' sigmoid."""
    logit_bias: float
    """Added to every logit."""
    penalty: float | None
    """Fixed weight of the cost regularizer; None: found by `gradient_balance`."""
    gradient_balance: float
    """Norm of the regularizer's gradient on the logits, relative to that of the loss."""
    target_ramp: float
    """Fraction of the search in which the target falls linearly from 1 to the budget."""
    cost_regularizer: str
    """Key of `hsn.objective.COST_REGULARIZERS`."""
    cost_gates: str
    """`mask` or `sampled`: the channels whose cost is regularized."""
    task_gates: str
    """`hard` or `soft` gates in the forward."""
    layer_scaling: str
    """`loss`, `cost` or `none`: the gradient that the learned factors of the layers multiply."""
    scaling_lr: float
    """Step size of these factors."""


@dataclass(frozen=True)
class OBSSettings:
    """Settings of method `obs`."""

    statistics_samples: int
    """Inputs whose layer statistics decide about channels and re-solved weights."""
    evaluation_samples: int
    """Further inputs, on which the loss of a choice of widths is measured."""
    generations: int
    """Choices of widths tried for each budget."""
    ridge: float
    """Added to the diagonal of every covariance, relative to its mean."""
    order: str = "obs"
    """Key of `obs.channel_orders.CHANNEL_ORDERS`: which channels of a group are kept."""
    widths: Mapping[str, int] | None = None
    """Group name -> width, where the widths are given; None: they are searched."""


class Search(ABC):
    """Chooses the masks of a hyper network while it trains.

    One training step is `prepare`, `observe`, forward, backward, the optimizer's step on the
    weights (only if `trains_weights`), `step`. After the last step, `finish` sets the final masks.

    A method implements `scores` and overrides the hooks that it needs; methods are final classes.

    Args:
        hyper: The network; its masks, and for some methods its latents, are set by the search.
        settings: Budget, length and seed.
    """

    trains_weights: ClassVar[bool] = True
    """Whether the loss trains the weights meanwhile. If not, they are frozen and norms work as in
    evaluation, so that a gate's gradient is that of the network as it was trained."""

    needs_inputs: ClassVar[bool] = False
    """Whether `observe` must be called with the inputs of each step."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        self.hyper = hyper
        self.settings = settings

    @abstractmethod
    def scores(self) -> Tensor:
        """Return scores of shape (plan.size,), comparable between groups; larger = keep."""

    def scores_for(self, budget: Budget) -> Tensor:
        """Return the scores for another budget than that of the search, shape (plan.size,).

        Methods that rank channels once for all budgets return the same scores.
        """
        return self.scores()

    def prepare(self, iteration: int) -> None:  # noqa: B027 - most methods need no preparation
        """Set masks and latents for the next forward, if they differ from those for validation.

        Args:
            iteration: Counted from 0 at the start of the search.
        """

    def observe(self, inputs: Example) -> None:  # noqa: B027 - most methods look at gradients
        """Take the network's input of a training step, (N, C, H, W), before its forward.

        Of a network with several inputs, the tuple of them or the image alone.
        """

    def step(self, iteration: int) -> dict[str, float]:
        """Use the gradients of a training step; call after backward, before they are cleared.

        Args:
            iteration: Counted from 0 at the start of the search.

        Returns:
            Figures for the log, `macs_ratio` and `params_ratio` among them.

        Raises:
            UserError: The gradients are not finite.
        """
        return self.ratios()

    def remaining(self) -> Tensor:
        """Return the rest of each channel's score, shape (plan.size,), not negative; 0 = pruned."""
        return self.hyper.mask.float()

    def preview_mask(self) -> Tensor:
        """Return the mask, shape (plan.size,), whose costs are logged during the search."""
        return self.hyper.mask

    def state_dict(self) -> StateTree:
        """Return the state that a resumed search needs besides that of the hyper network."""
        return {}

    def load_state_dict(self, state: StateTree) -> None:  # noqa: B027 - baselines have none
        """Restore a state that `state_dict` returned."""

    @final
    def finish(self) -> BudgetReport:
        """Set the final masks: the channels of largest score at the widths that meet the budget.

        Raises:
            BudgetError: The budget cannot be met.
        """
        # Common to all methods, so that they differ in what they keep and not in how they round.
        return self.hyper.prune_to_budget(self.settings.budget, self.scores())

    @final
    def ratios(self) -> dict[str, float]:
        """Return the kept fractions of the cost, predicted ones for a budget of latency."""
        # Macs and params always: a run is compared by both, whatever its budget is.
        mask = self.preview_mask()
        kinds = reported_kinds(self.settings.budget.kind)
        return {kind.ratio_key: self.hyper.cost_ratio(kind.name, mask) for kind in kinds}


def latent_gradients(hyper: HyperNet, iteration: int) -> Tensor:
    """Return dL/dz of all latents, shape (plan.size,); 0 for latents that have no gradient.

    Args:
        hyper: After a backward.
        iteration: Of the search, from 0; named in the error.

    Raises:
        UserError: It is not finite. The loss may be finite all the same, and where weights are
            frozen it stays so: the search would go on to its end without a structure.
    """
    # Before the first backward, and if a group has no influence on the loss, there is no gradient.
    gradients = []
    for latent in hyper.latents.values():
        gradients.append(torch.zeros_like(latent) if latent.grad is None else latent.grad)
    gradient = torch.cat(gradients).detach().float()
    if not gradient.isfinite().all():
        raise UserError(
            f"the gradient of the loss on the channels is not finite in step {iteration + 1} of "
            "the search; lower train.optim_g.lr, set train.amp: none if it is bf16, and check the "
            "network for a square root or a division whose derivative is infinite"
        )
    return gradient


def taylor_terms(hyper: HyperNet, iteration: int) -> Tensor:
    """Return the first-order Taylor terms z dL/dz of all latents, shape (plan.size,).

    Arguments and errors are those of `latent_gradients`.

    z dL/dz estimates by how much the loss falls if the channel is removed. It stays the same if a
    factor moves from a latent to the weights that it multiplies, so the scale of neither matters.

    Reference:
        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019: the
        importance of a gate is the square of this term. Molchanov et al., Pruning Convolutional
        Neural Networks for Resource Efficient Inference, ICLR 2017, has its absolute value.
    """
    latents = torch.cat([latent.detach() for latent in hyper.latents.values()])
    return latent_gradients(hyper, iteration) * latents.float()


@torch.no_grad()
def set_latents(hyper: HyperNet, values: Tensor) -> None:
    """Copy a vector of shape (plan.size,) into the latents of all groups."""
    by_group = hyper.plan.split(values)
    for name, latent in hyper.latents.items():
        latent.copy_(by_group[name])
