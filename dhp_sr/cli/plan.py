"""What can be pruned in a network, and what a budget has to reckon with; for plan.py, before any training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.archs import ARCHS
from dhp_sr.config import load_options, resolve_paths
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.plan_summary import summarize_plan
from dhp_sr.training.search_setup import convert_plain, make_budgets, make_latency_benchmark
from dhp_sr.utils.cost_kinds import reported_kinds
from dhp_sr.utils.devices import single_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.names import build_named, named_arguments
from dhp_sr.zoo.networks import EXAMPLE_SIDE, check_network_type


def plan_run(opt: str | Path, overrides: Sequence[str] = (), *, root: Path) -> dict[str, Any]:
    """Plan the network of an option file, and try its targets with equal scores.

    Args:
        opt: The option file, with a section `compress`.
        overrides: `section.key=value` each.
        root: The project's folder.

    Returns:
        See `summarize_plan`, and `targets`: for each, kind, keep_ratio, whether it can be met, and what is kept or why not.

    Raises:
        UserError: the options are wrong, or the network cannot be built or traced.
    """
    options = resolve_paths(load_options(opt, overrides, check_network=check_network_type), root)
    compress = options.compress
    if compress is None:
        raise UserError(
            f"{opt}: expected a section compress to plan for, found none; or name a network with --arch"
        )
    network = task_of(options).build_network(options)
    place = DistributedContext(single_device(options.num_gpu))
    network.to(place.device)
    hyper = convert_plain(network, options, place)
    latency_benchmark = make_latency_benchmark(network, options, place, None)
    if latency_benchmark is not None:
        hyper.use_latency(latency_benchmark)
    budgets = make_budgets(compress)
    found = summarize_plan(hyper, network, compress.round_to, compress.min_width, budgets[0].kind)
    targets = [_try(hyper, budget) for budget in budgets]
    return finite({"name": options.name, **found, "targets": targets})


def plan_arch(
    name: str,
    arguments: Sequence[str] = (),
    *,
    size: Sequence[int] | None = None,
    exclude: Sequence[str] = (),
    round_to: int = 8,
    min_width: int = 8,
) -> dict[str, Any]:
    """Plan a network by its name: one of ours, of BasicSR's registry, or of torchvision's classifiers.

    Args:
        name: As in `network_g.type`, or with the package before it: `basicsr:RCAN`, `torchvision:resnet18`.
        arguments: `key=value` each, the value read as YAML: the constructor's arguments.
        size: Height and width of the input; default: those that the network is meant for, or 128 and 128.
        exclude: Names or patterns of layers that keep their widths.
        round_to: Widths of layers are multiples of this.
        min_width: No layer of a group is cut below this.

    Returns:
        See `summarize_plan`.

    Raises:
        UserError: the name or an argument is unknown, or the network cannot be traced.
    """
    given = named_arguments(arguments)
    name = name if name in ARCHS else name.removeprefix("Hyper")
    network = build_named(name, given)
    channels = getattr(network, "in_channels", given.get("num_in_ch", given.get("in_channels", 3)))
    usual = getattr(network, "input_size", EXAMPLE_SIDE)
    side = _checked(size or (usual, usual))
    hyper = convert(network, torch.zeros(1, channels, *side), exclude=tuple(exclude))
    return finite(
        {"name": name, **summarize_plan(hyper, network, round_to, min_width), "targets": []}
    )


def unmet(found: Mapping[str, Any]) -> list[str]:
    """Return the targets that cannot be met, in short."""
    return [
        f"{target['kind']} {target['keep_ratio']:g}"
        for target in found["targets"]
        if not target["met"]
    ]


def _try(hyper: HyperNet, budget: Budget) -> dict[str, Any]:
    target = {"kind": budget.kind, "keep_ratio": budget.keep_ratio}
    try:
        report = hyper.prune_to_budget(budget)
    except BudgetError as error:
        return {**target, "met": False, "text": str(error)}
    kept = {kind.name: report.achieved(kind.name) for kind in reported_kinds(budget.kind)}
    return {**target, "met": True, "kept": kept, "text": ""}


def _checked(size: Sequence[int]) -> Sequence[int]:
    if min(size) < 1:
        raise UserError(f"--size: expected numbers above 0, found {size[0]} {size[1]}")
    return size
