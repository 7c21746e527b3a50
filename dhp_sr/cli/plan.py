"""Prunable widths of a network, and the costs that a budget can reach. The service of plan.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.archs import ARCHS
from dhp_sr.cli.process import keep_memory, plain_warnings
from dhp_sr.config import load_options, resolve_paths
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.reports.plan import plan_text
from dhp_sr.tasks import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.plan_summary import summarize_plan
from dhp_sr.training.pruning import (
    convert_network,
    make_budgets,
    make_latency_benchmark,
    prune_for_trial,
)
from dhp_sr.utils.cost_kinds import reported_kinds
from dhp_sr.utils.devices import single_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.overwriting import check_outputs
from dhp_sr.utils.strict_json import JsonObject, finite
from dhp_sr.zoo.names import build_named, named_arguments
from dhp_sr.zoo.networks import EXAMPLE_SIDE, check_network_type
from dhp_sr.zoo.third_party import CHANNEL_ARGUMENTS
from dhp_sr.zoo.user_class import class_file

ARCH_ARGUMENTS = ("size", "exclude", "round_to", "min_width")
"""Arguments for --arch; an option file states them itself."""


def run_plan(arguments: argparse.Namespace, root: Path) -> None:
    """Run plan.py.

    Args:
        arguments: Parsed by `parsers.plan_parser`.
        root: Folder that relative paths of option files start from.

    Raises:
        UserError: Arguments contradict each other, the network cannot be planned, or a target
            cannot be met.
    """
    code = class_file(arguments.arch) if arguments.arch else None
    check_outputs({"--json": arguments.json}, [arguments.opt, code])
    keep_memory()
    with plain_warnings():
        plan = plan_from(arguments, root)
    # The plan is printed before an unmet target ends the command: it says why.
    print(plan_text(plan), end="")
    if arguments.json:
        write_json(arguments.json, plan)
    unmet = unmet_targets(plan)
    if unmet:
        raise UserError(f"{', '.join(unmet)} cannot be met, for the reason given above")


def plan_from(arguments: argparse.Namespace, root: Path) -> JsonObject:
    """Plan the network of a command line, from an option file or by name.

    Raises:
        UserError: Arguments contradict each other, or as for `plan_run` and `plan_arch`.
    """
    # Only what was given: the defaults are those of `plan_arch`.
    given = {}
    for name in ARCH_ARGUMENTS:
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    if bool(arguments.opt) == bool(arguments.arch):
        raise UserError("expected either -opt FILE or --arch NAME; see --help")
    if arguments.arch:
        if arguments.set:
            raise UserError(
                "--set: no effect with --arch; give the network's arguments as key=value"
            )
        return plan_arch(arguments.arch, arguments.arguments, **given)
    unused = [*(f"--{name}" for name in given), *arguments.arguments]
    if unused:
        raise UserError(
            f"{', '.join(unused)}: no effect with -opt, whose file says so; use --set, or --arch"
        )
    return plan_run(arguments.opt, arguments.set, root=root)


def plan_run(opt: str | Path, overrides: Sequence[str] = (), *, root: Path) -> JsonObject:
    """Plan the network of an option file, and try its targets with equal scores.

    Args:
        opt: The option file, with a section `compress`.
        overrides: `section.key=value` each.
        root: The project's folder.

    Returns:
        See `summarize_plan`, and `targets`: for each, kind, keep_ratio, whether it can be met,
        and what is kept or why not.

    Raises:
        UserError: The options are wrong, or the network cannot be built or traced.
    """
    options = resolve_paths(load_options(opt, overrides, check_network=check_network_type), root)
    compress = options.compress
    if compress is None:
        raise UserError(
            f"{opt}: expected a section compress to plan for; or name a network with --arch"
        )
    network = task_of(options).build_network(options)
    context = DistributedContext(single_device(options.num_gpu))
    network.to(context.device)
    hyper = convert_network(network, options, context.device)
    # None where no target is a latency: measuring takes minutes.
    latency_benchmark = make_latency_benchmark(network, options, context, None)
    if latency_benchmark is not None:
        hyper.use_latency(latency_benchmark)
    budgets = make_budgets(compress, hyper)
    rules = budgets[0]
    summary = summarize_plan(
        hyper,
        network,
        rules.round_to,
        rules.min_width,
        rules.kind,
        remove_blocks=rules.remove_blocks,
    )
    targets = [try_budget(hyper, budget) for budget in budgets]
    return finite({"name": options.name, **summary, "targets": targets})


def plan_arch(
    name: str,
    arguments: Sequence[str] = (),
    *,
    size: Sequence[int] | None = None,
    exclude: Sequence[str] = (),
    round_to: int = 8,
    min_width: int = 8,
) -> JsonObject:
    """Plan a network by its name.

    Args:
        name: As in `network_g.type`, or with a package before it: `basicsr:RCAN`,
            `torchvision:resnet18`.
        arguments: Arguments of its constructor, `key=value` each, the value in YAML.
        size: Height and width of the input; default: those that the network is meant for, or
            128 and 128.
        exclude: Names or patterns of layers that keep their widths.
        round_to: Widths of layers are multiples of this.
        min_width: No layer of a group is pruned below this.

    Returns:
        See `summarize_plan`.

    Raises:
        UserError: The name or an argument is unknown, or the network cannot be traced.
    """
    parsed = named_arguments(arguments)
    # Option files call the converted EDSR HyperEDSR; the plan is that of EDSR.
    if name not in ARCHS:
        name = name.removeprefix("Hyper")
    network = build_named(name, parsed)
    # Networks of other packages state their channels in an argument, if at all.
    channels = getattr(network, "in_channels", 3)
    for key in CHANNEL_ARGUMENTS:
        if not hasattr(network, "in_channels") and key in parsed:
            channels = parsed[key]
            break
    default_side = getattr(network, "input_size", EXAMPLE_SIDE)
    height, width = size or (default_side, default_side)
    if min(height, width) < 1:
        raise UserError(f"--size: expected numbers above 0, got {height} {width}")
    hyper = convert(network, torch.zeros(1, channels, height, width), exclude=tuple(exclude))
    summary = summarize_plan(hyper, network, round_to, min_width)
    return finite({"name": name, **summary, "targets": []})


def unmet_targets(plan: JsonObject) -> list[str]:
    """Return the targets of a plan that cannot be met, such as `macs 0.01`."""
    unmet = []
    for target in plan["targets"]:
        if not target["met"]:
            unmet.append(f"{target['kind']} {target['keep_ratio']:g}")
    return unmet


def try_budget(hyper: HyperNet, budget: Budget) -> JsonObject:
    """Allocate widths for a budget with equal scores; return what is kept, or why not."""
    target = {"kind": budget.kind, "keep_ratio": budget.keep_ratio}
    try:
        report = prune_for_trial(hyper, budget)
    except BudgetError as error:
        return {**target, "met": False, "text": str(error)}
    kept = {kind.name: report.achieved(kind.name) for kind in reported_kinds(budget.kind)}
    return {**target, "met": True, "kept": kept, "text": ""}
