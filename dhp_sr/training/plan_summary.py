"""Summary of a channel plan: what can be pruned, and how far a budget can go."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.allocation.candidates import min_width_mask
from dhp_sr.allocation.diagnostics import lower_bound, share_per_group
from dhp_sr.channels.plan import Group
from dhp_sr.config.schema import Options
from dhp_sr.hyper import HyperNet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.pruning import convert_network, cuda_devices
from dhp_sr.utils.cost_kinds import DEFAULT_ROUND_TO, reported_kinds
from dhp_sr.utils.strict_json import JsonObject, finite

EXCLUDED = "excluded by name"
"""Reason of groups that the option `exclude` pins."""


def plan_for_training(
    network: nn.Module, options: Options, context: DistributedContext
) -> JsonObject:
    """Plan the network that a run is about to train, by MACs and parameters without latency.

    Args:
        network: The plain network; it is left as it was.
        options: The run's options, with a section `compress`.
        context: Device of the network.

    Returns:
        See `summarize_plan`; `targets` is empty. Random generators are left as they were.
    """
    compress = options.compress
    assert compress is not None
    # The plan is for reading; making it must not change what the training draws.
    with torch.random.fork_rng(cuda_devices(context.device)):
        hyper = convert_network(network, options, context.device)
        summary = summarize_plan(
            hyper,
            network,
            compress.round_to or DEFAULT_ROUND_TO,
            compress.min_width,
            compress.targets[0].kind,
            remove_blocks=compress.removes_blocks,
        )
    return finite({"name": options.name, **summary, "targets": []})


def summarize_plan(
    hyper: HyperNet,
    network: nn.Module,
    round_to: int,
    min_width: int,
    budget_kind: str = "macs",
    *,
    remove_blocks: bool = False,
) -> JsonObject:
    """Summarize what is prunable and what is not, as values for JSON.

    Args:
        hyper: The converted network.
        network: The plain network.
        round_to: Widths of layers are multiples of this.
        min_width: Minimum width of a layer.
        budget_kind: Kind of cost that is reported beside those that always are.
        remove_blocks: Whether residual branches may be removed; counts in the lower bound.

    Returns:
        `network`: name of its class.
        `input`: shape that costs are stated for.
        `dense`: kind of cost -> cost of the unpruned network.
        `rules`: the arguments.
        `groups`: for each its name, width, min_width, members and reason (empty where prunable);
        for prunable ones also `cost_shares`: kind of cost -> fraction of the dense cost that goes
        when this group alone is pruned to its minimum width; `removable` and `removal_reason`: of
        its residual branch. `excluded`: layers that `exclude` names.
        `lower_bound`: kind of cost -> least kept fraction, and what of it pinned groups and
        minimum widths (`min_width`) hold.
        `kept_statistics`: layers, and calls of functions, whose statistics are taken over the kept
        channels.
        `training_form`: whether the training-time form is planned, and left after a cut.
    """
    plan = hyper.plan
    rules = Budget.from_target("macs", 1.0, None, round_to, min_width, remove_blocks=remove_blocks)
    dense, shares, bounds = _summarize_costs(hyper, rules, budget_kind)
    narrowest = min_width_mask(plan, rules)
    groups: list[JsonObject] = []
    for group in plan.groups:
        entry = _summarize_group(group)
        if group.prunable:
            entry["min_width"] = int(narrowest[group.span].sum())
            entry["cost_shares"] = {kind: shares[kind][group.name] for kind in shares}
        groups.append(entry)
    return {
        "network": type(network).__name__,
        "input": list(hyper.example_shape),
        "dense": dense,
        "rules": {"round_to": round_to, "min_width": min_width, "remove_blocks": remove_blocks},
        "groups": groups,
        "excluded": _excluded_layers(plan.groups),
        "lower_bound": bounds,
        "training_form": plan.training_time_form,
        "kept_statistics": [
            *(channels.layer for channels in plan.kept_statistics),
            *(call.name for call in plan.kept_calls),
        ],
    }


def _excluded_layers(groups: Sequence[Group]) -> list[str]:
    """List the layers that the option `exclude` names."""
    excluded: list[str] = []
    for group in groups:
        if group.reason == EXCLUDED:
            excluded.extend(group.members)
    return excluded


def _summarize_group(group: Group) -> JsonObject:
    """Summarize a group as one that keeps its width."""
    entry: JsonObject = {
        "name": group.name,
        "width": group.width,
        "min_width": group.width,
        "members": list(group.members),
        "reason": group.reason,
        "cost_shares": {},
    }
    if group.prunable:
        entry["removable"] = group.removable
        entry["removal_reason"] = group.removal_reason
    return entry


def _summarize_costs(
    hyper: HyperNet, rules: Budget, budget_kind: str
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return the dense cost, the share of every group, and the lower bound, by kind of cost."""
    plan = hyper.plan
    costs = hyper.costs
    dense: dict[str, float] = {}
    shares: dict[str, dict[str, float]] = {}
    bounds: dict[str, dict[str, float]] = {}
    for kind in reported_kinds(budget_kind):
        if kind.name not in costs.kinds:  # latency, where nothing measures it
            continue
        budget = replace(rules, kind=kind.name)
        dense[kind.name] = costs.dense[kind.name]
        shares[kind.name] = share_per_group(plan, costs, budget)
        bound = lower_bound(plan, costs, budget)
        bounds[kind.name] = {
            "kept": bound.ratio,
            "pinned": bound.pinned_ratio,
            "min_width": bound.min_width_ratio,
        }
    return dense, shares, bounds
