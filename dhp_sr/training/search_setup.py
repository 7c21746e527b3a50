"""From the options to a hyper network and its search, and the rehearsal of both before any training."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.config.compress import Compress
from dhp_sr.config.schema import Options
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.deploy import load_model
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.search import Search, SearchSettings, build_search
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.networks import example_input


def convert_plain(network: nn.Module, options: Options, place: DistributedContext) -> HyperNet:
    """Convert a plain network as `compress` says; it is left as it was."""
    compress, example = options.compress, example_input(network).to(place.device)
    return convert(
        network,
        example,
        parametrisation=compress.parametrization,
        exclude=tuple(compress.exclude),
        prune_residual=compress.prunes_residual,
    )


def make_latency_benchmark(
    network: nn.Module, options: Options, place: DistributedContext, path: Path | None
) -> LatencyBenchmark | None:
    """Return what measures latencies as `compress` says; None where no target is one of latency.

    Args:
        network: The plain network.
        options: The run's options, paths resolved.
        place: Where to measure; among several processes the first one does.
        path: The file of layer times where `compress.latency_table` names none.
    """
    compress = options.compress
    if compress is None or not COST_KINDS[compress.targets[0].kind].is_measured:
        return None
    example = example_input(network)
    if compress.latency_size:
        example = example.new_zeros(*example.shape[:2], *compress.latency_size)
    path = Path(compress.latency_table) if compress.latency_table else path
    return LatencyBenchmark(
        example.to(place.device), compress.latency_threads, path, place.broadcast
    )


def make_budgets(compress: Compress) -> tuple[Budget, ...]:
    """Make the budgets of a run from its options, one for each target, the largest first."""
    rules = (compress.tolerance, compress.round_to, compress.min_width)
    return tuple(
        Budget.from_target(target.kind, target.keep_ratio, *rules) for target in compress.targets
    )


def begin_search(
    hyper: HyperNet, options: Options, latency_benchmark: LatencyBenchmark | None = None
) -> Search:
    """Make the search that `compress` names; it runs down to the smallest target."""
    compress = options.compress
    if latency_benchmark is not None:
        hyper.use_latency(latency_benchmark)
    settings = SearchSettings(
        budget=make_budgets(compress)[-1],
        iterations=compress.search_iter,
        seed=options.manual_seed,
        preset=compress.preset,
        method_options=compress.method_options,
    )
    return build_search(compress.method, hyper, settings)


def rehearse(
    network: nn.Module,
    options: Options,
    place: DistributedContext,
    latency_benchmark: LatencyBenchmark | None = None,
) -> None:
    """Convert, prune and cut a copy, so that what would fail after hours of training fails before them.

    Layer times are measured once, and written when the search begins: the run has no folder yet.

    Raises:
        UserError: the network cannot be traced, the budget cannot be met, method and preset do not fit, a pattern
            excludes nothing, a cut network computes something else, or the teacher's file does not fit.
    """
    compress = options.compress
    cuda = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):  # the run draws what it would have drawn without a rehearsal
        hyper = convert_plain(network, options, place)
        begin_search(
            hyper, options, replace(latency_benchmark, path=None) if latency_benchmark else None
        )
        for budget in make_budgets(compress):
            hyper.prune_to_budget(budget)
        _try_cut(hyper)
    if compress.distill and compress.distill.teacher:
        open_teacher(compress.distill.teacher, options)


def _try_cut(hyper: HyperNet) -> None:
    """Cut every other channel of all groups, for the search may take some of any, and compare as every cut does."""
    hyper.set_masks(
        {group.name: torch.arange(group.width) % 2 == 0 for group in hyper.plan.prunable}
    )
    hyper.cut()


def open_teacher(path: str, options: Options) -> nn.Module:
    """Load `compress.distill.teacher`.

    Raises:
        UserError: the file is no model, or one for other images.
    """
    teacher = load_model(path)
    try:
        task_of(options).check_fit(teacher, "the teacher", options)
    except UserError as error:
        raise UserError(f"compress.distill.teacher: {path} does not fit: {error}") from error
    return teacher
