"""What follows the search: for each target a cut network, finetuned on its own.

All masks are chosen at the end of the search, from the same scores: the search runs down to the smallest target, and
the scores rank the channels that are gone by how late they went, so each larger target takes back those that went last.
Their weights are as they were when they went; finetuning fits them in again. Choosing while the search passes a target
would leave nothing to fit in, but only methods that cut little by little pass any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.allocation.budget import Budget, BudgetReport
from dhp_sr.hyper import HyperNet
from dhp_sr.search import Search
from dhp_sr.surgery.cut import kept_entries
from dhp_sr.training.optimizers import Moments, cut_moments
from dhp_sr.utils.modules import load_values


@dataclass
class Leg:
    """One target's network."""

    masks: dict[str, Tensor]
    """Group name -> kept channels."""
    report: dict[str, Any]
    """JSON-able facts of the cut: ratios and channel groups."""
    network: nn.Module
    """Just cut, or as finetuning left it."""
    moments: Moments
    """The optimizer's, for the weights that stayed; empty once finetuning has begun."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that `restore_leg` needs."""
        own = {"masks": self.masks, "report": self.report, "moments": self.moments}
        return {**own, "network": dict(self.network.state_dict())}


def cut_legs(
    hyper: HyperNet, search: Search, optimizer: Optimizer, budgets: Sequence[Budget]
) -> list[Leg]:
    """Cut one network for each target, the largest first; the masks stay at the last one.

    Args:
        hyper: the searched network.
        search: its search.
        optimizer: of the searched network; the moments of what stays go with it.
        budgets: the largest first; the search runs down to the last one.

    Raises:
        BudgetError: a target cannot be met.
        CutError: a cut network does not compute what the masked one does.
    """
    legs = []
    for budget in budgets[:-1]:
        found = hyper.prune_to_budget(budget, search.scores())
        legs.append(_leg(hyper, found, optimizer))
    return [*legs, _leg(hyper, search.finish(), optimizer)]


def restore_leg(hyper: HyperNet, state: dict[str, Any]) -> Leg:
    """Make a leg again from what `Leg.state_dict` gave."""
    hyper.set_masks({name: mask.to(hyper.mask.device) for name, mask in state["masks"].items()})
    network = hyper.cut(check=False)  # it was checked when it was made
    load_values(network, state["network"])
    return Leg(state["masks"], state["report"], network, state["moments"])


def _leg(hyper: HyperNet, found: BudgetReport, optimizer: Optimizer) -> Leg:
    masks = {name: mask.detach().cpu().clone() for name, mask in hyper.masks.items()}
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    groups = [
        {
            "name": group.name,
            "before": group.width,
            "after": kept.get(group.name, group.width),
            "prunable": group.prunable,
            "reason": group.reason,
        }
        for group in hyper.plan.groups
    ]
    moments = cut_moments(optimizer, hyper.network, kept_entries(hyper.plan, hyper.mask))
    return Leg(masks, {**found.reported_ratios(), "groups": groups}, hyper.cut(), moments)
