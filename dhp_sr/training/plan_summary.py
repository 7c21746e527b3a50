"""Summary of a channel plan: what can be pruned, and how far a budget can go."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.allocation.diagnostics import lower_bound, share_per_group
from dhp_sr.config.schema import Options
from dhp_sr.hyper import HyperNet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.search_setup import convert_plain
from dhp_sr.utils.cost_kinds import reported_kinds
from dhp_sr.utils.strict_json import finite

EXCLUDED = "excluded by name"


def plan_for_training(
    network: nn.Module, options: Options, place: DistributedContext
) -> dict[str, Any]:
    """Plan the network that a run is about to train, by multiply-adds and parameters; no latency is measured.

    Args:
        network: The plain network; it is left as it was.
        options: The run's options, with a section `compress`.
        place: Where the network is.

    Returns:
        See `summarize_plan`, without targets; the random generators stand as before.
    """
    compress = options.compress
    with torch.random.fork_rng([place.device] if place.device.type == "cuda" else []):
        found = summarize_plan(
            convert_plain(network, options, place),
            network,
            compress.round_to,
            compress.min_width,
            compress.targets[0].kind,
        )
    return finite({"name": options.name, **found, "targets": []})


def summarize_plan(
    hyper: HyperNet,
    network: nn.Module,
    round_to: int,
    min_width: int,
    budget_kind: str = "macs",
) -> dict[str, Any]:
    """Return what is prunable and what is not, JSON-able.

    Returns:
        `network`: class; `input`: shape that costs are stated for; `dense`: costs; `groups`: name, width, floor,
        members, reason (empty where prunable) and, for prunable ones, `controls`: kind of cost -> the fraction of the
        dense cost that goes when the group alone is cut to its floor; `excluded`: layers kept by name; `least`: kind ->
        least kept fraction, and what of it pinned groups and floors hold; `training_form`: whether it is the forward of
        training mode that is planned, and left after a cut.
    """
    plan, costs = hyper.plan, hyper.costs
    kinds = [
        kind.name
        for kind in reported_kinds(budget_kind)
        if not kind.is_measured or kind.name in costs.kinds
    ]
    budgets = {kind: Budget.from_target(kind, 1.0, None, round_to, min_width) for kind in kinds}
    shares = {kind: share_per_group(plan, costs, budgets[kind]) for kind in kinds}
    floors = min_width_mask(plan, next(iter(budgets.values())))
    groups = [
        {
            "name": group.name,
            "width": group.width,
            "floor": int(floors[group.span].sum()) if group.prunable else group.width,
            "members": list(group.members),
            "reason": group.reason,
            "controls": {kind: shares[kind][group.name] for kind in kinds}
            if group.prunable
            else {},
        }
        for group in plan.groups
    ]
    return {
        "network": type(network).__name__,
        "input": list(hyper.example_shape),
        "dense": {kind: costs.dense[kind] for kind in kinds},
        "rules": {"round_to": round_to, "min_width": min_width},
        "groups": groups,
        "excluded": [
            layer for group in groups if group["reason"] == EXCLUDED for layer in group["members"]
        ],
        "least": {kind: _least(*lower_bound(plan, costs, budgets[kind])) for kind in kinds},
        "training_form": plan.training_time_form,
    }


def _least(pinned: Mapping[str, float], floors: Mapping[str, float]) -> dict[str, float]:
    held, kept = sum(pinned.values()), sum(floors.values())
    return {"kept": held + kept, "pinned": held, "floors": kept}
