"""What every search method is: something that watches the training and chooses the masks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget, BudgetReport, split_by_group
from dhp_sr.hyper import HyperNet


@dataclass(frozen=True)
class SearchSettings:
    """The part of an option file that a search needs."""

    budget: Budget
    iterations: int
    """Length of the search."""
    preset: str = "modern"
    seed: int = 0
    latent_lr: float | None = None
    """Step size of the latents; None: the preset's."""
    penalty: float | None = None
    """Fixed lambda; None: the preset's."""
    price_power: float = 0.0
    """How much the preset modern leans on prices, see `lines`."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method alone, by name; what is missing takes the method's default."""


class Search(ABC):
    """Chooses the masks of a hyper network, while the task's loss trains its weights or while they stand still.

    Each step of the training is: `prepare`, forward, backward, the optimizer's step on the weights (where the method
    lets the loss train them), `step`.
    """

    trains_weights = True
    """Whether the loss trains the weights meanwhile; if not, they are frozen, and norms work as in evaluation."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        self.hyper = hyper
        self.settings = settings

    def prepare(self, iteration: int) -> None:  # noqa: B027 - most methods leave the network as it is
        """Set masks and latents for the next forward, where they are not those of the network that is validated.

        Args:
            iteration: counted from 0 at the start of the search.
        """

    def step(self, iteration: int) -> dict[str, float]:
        """Use the gradients of one training step; call after backward, before they are cleared.

        Args:
            iteration: counted from 0 at the start of the search.

        Returns:
            Numbers for the log, `macs_ratio` and `params_ratio` among them.
        """
        return self.ratios()

    @abstractmethod
    def scores(self) -> Tensor:
        """Return (plan.size,) scores, comparable between groups; larger = keep."""

    def latents(self) -> Tensor:
        """Return (plan.size,) what is left of each channel, 0 = cut; a method without latents of its own: the masks."""
        return self.hyper.mask.float()

    def finish(self) -> BudgetReport:
        """Set the final masks.

        Raises:
            BudgetError: the budget cannot be met.
        """
        return self.hyper.prune_to_budget(self.settings.budget, self.scores())

    def ratios(self) -> dict[str, float]:
        """Return the kept fractions of the masks as they are; for a budget of latency what the table predicts, too."""
        kept, dense = self.hyper.cost(), self.hyper.dense_cost()
        kinds = ["macs", "params", *(["latency"] if self.settings.budget.kind == "latency" else [])]
        return {f"{kind}_ratio": getattr(kept, kind) / getattr(dense, kind) for kind in kinds}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs beside the hyper network's own state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most controls keep nothing
        """Take what `state_dict` gave."""


def gradients(hyper: HyperNet) -> Tensor:
    """Return the gradients of all latents as one flat vector, zeros where there is none."""
    parts = [torch.zeros_like(z) if z.grad is None else z.grad for z in hyper.latents.values()]
    return torch.cat(parts).detach().float()


def slopes(hyper: HyperNet) -> Tensor:
    """Return z dL/dz of all latents as one flat vector: what a channel's share of the loss's slope is.

    It does not change when a factor moves between a latent and the weights, so the scale of neither has a say.
    """
    latents = torch.cat([latent.detach() for latent in hyper.latents.values()])
    return gradients(hyper) * latents.float()


@torch.no_grad()
def set_latents(hyper: HyperNet, flat: Tensor) -> None:
    """Write a flat vector into the latents."""
    for latent, part in zip(
        hyper.latents.values(), split_by_group(hyper.plan, flat).values(), strict=True
    ):
        latent.copy_(part)
