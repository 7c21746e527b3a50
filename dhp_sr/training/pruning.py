"""Steps between a dense network and its pruned models: convert, search, prune for every target.

All masks are chosen at the end of the search, from the same scores. The search goes down to the
smallest target, and its scores rank pruned channels by how late they were pruned, so every larger
target takes back those that were pruned last. Their weights are what they were at that moment;
finetuning fits them in again. Choosing a mask while the search passes a target would leave nothing
to fit in, but only methods that prune gradually pass any.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dhp_sr.allocation.budget import Budget, BudgetReport
from dhp_sr.allocation.removals import scores_with_removals
from dhp_sr.config.compress import Compress
from dhp_sr.config.schema import Options
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.deploy.timed_runtimes import timed_runtime
from dhp_sr.hyper import HyperNet, convert
from dhp_sr.metrics import complexity
from dhp_sr.search import Search, SearchSettings, build_search
from dhp_sr.surgery.cut import kept_entries
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.handover import GroupWidths, PrunedModel
from dhp_sr.training.optimizers import named_state, slice_state
from dhp_sr.utils.cost_kinds import COST_KINDS, DEFAULT_ROUND_TO
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree, load_values
from dhp_sr.zoo.networks import example_input


def convert_network(network: nn.Module, options: Options, device: torch.device) -> HyperNet:
    """Convert a plain network as the section `compress` says; the network is left as it was.

    Raises:
        UserError: The network cannot be traced, or a pattern of `exclude` names no layer.
    """
    compress = _compress(options)
    return convert(
        network,
        example_input(network).to(device),
        parametrisation=compress.parametrization,
        exclude=tuple(compress.exclude),
        prune_residual=compress.prunes_residual,
    )


def make_latency_benchmark(
    network: nn.Module, options: Options, context: DistributedContext, path: Path | None
) -> LatencyBenchmark | None:
    """Make the latency benchmark of a run; None where no target is a latency.

    Args:
        network: The plain network.
        options: The run's options, paths resolved.
        context: Rank 0 measures for all processes, on its device.
        path: File of layer times where `compress.latency_table` names none.
    """
    compress = options.compress
    if compress is None or not COST_KINDS[compress.targets[0].kind].is_measured:
        return None
    example = example_input(network)
    # The benchmark's input may be larger than the example's: small inputs hide memory traffic.
    if compress.latency_size:
        example = example.new_zeros(*example.shape[:2], *compress.latency_size)
    if compress.latency_table:
        path = Path(compress.latency_table)
    runtime = timed_runtime(compress.latency_runtime)
    # A network may well be trained on a graphics card for the processors of its users.
    device = context.device if runtime.is_torch else torch.device("cpu")
    return LatencyBenchmark(
        example.to(device),
        compress.latency_threads,
        path,
        context.broadcast,
        runtime=runtime,
    )


def make_budgets(compress: Compress, hyper: HyperNet) -> tuple[Budget, ...]:
    """Make the budgets of a run, in the order of its targets: the largest first.

    Args:
        compress: The run's options.
        hyper: The converted network; where `round_to` is not stated, times that it knows tell
            which widths its runtime computes best.
    """
    is_measured = COST_KINDS[compress.targets[0].kind].is_measured
    round_to = compress.round_to
    if round_to is None:
        round_to = hyper.costs.width_multiple if is_measured else DEFAULT_ROUND_TO
    budgets = []
    for target in compress.targets:
        budgets.append(
            Budget.from_target(
                target.kind,
                target.keep_ratio,
                compress.tolerance,
                round_to,
                compress.min_width,
                remove_blocks=compress.removes_blocks,
            )
        )
    return tuple(budgets)


def prune_for_trial(hyper: HyperNet, budget: Budget) -> BudgetReport:
    """Prune to a budget with equal scores: whether it can be met depends on the widths alone.

    Residual branches are removed only where the budget allows and needs it.

    Raises:
        BudgetError: The budget cannot be met; the masks stay as they were.
    """
    scores = hyper.default_scores()
    return hyper.prune_to_budget(
        budget, scores_with_removals(hyper.plan, scores, budget, hyper.costs)
    )


def start_search(
    hyper: HyperNet, options: Options, benchmark: LatencyBenchmark | None = None
) -> Search:
    """Make the search that `compress.method` names; it goes down to the smallest target.

    Args:
        hyper: The converted network.
        options: The run's options.
        benchmark: Measures latencies, where the targets are latencies.

    Raises:
        UserError: Method and preset do not fit, or the budget cannot be met.
    """
    compress = _compress(options)
    if benchmark is not None:
        hyper.use_latency(benchmark)
    settings = SearchSettings(
        budget=make_budgets(compress, hyper)[-1],
        iterations=compress.search_iter,
        seed=options.manual_seed,
        preset=compress.preset,
        method_options=compress.method_options,
    )
    return build_search(compress.method, hyper, settings)


MAX_MISCOUNT = 0.01
"""Largest relative difference of two counts of multiply-adds."""


def check_counters(network: nn.Module, hyper: HyperNet) -> None:
    """Compare the plan's multiply-adds with those that are counted as the network runs.

    Raises:
        UserError: They differ by more than `MAX_MISCOUNT`: a budget would be met on paper only.
    """
    if hyper.plan.training_time_form:
        return  # the network that is trained has other layers than the one that is counted
    counted = complexity(network, hyper.example_shape, hyper.plan.further_inputs).macs
    planned = hyper.dense_cost().macs
    if abs(counted - planned) > MAX_MISCOUNT * max(counted, planned):
        raise UserError(
            f"{type(network).__name__}: expected the plan's multiply-adds to be those of the "
            f"network, found {planned:,} in the plan and {counted:,} counted at "
            f"{hyper.example_shape}; an operator is counted wrongly, please report it"
        )


def prune_for_targets(
    hyper: HyperNet,
    search: Search,
    optimizer: Optimizer,
    budgets: Sequence[Budget],
    *,
    calibration: Sequence[Tensor] | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> list[PrunedModel]:
    """Cut a network for each budget; the masks of the last stay set.

    Args:
        hyper: The searched network.
        search: Its search.
        optimizer: Optimizer of the searched network; its state for the kept weights goes along.
        budgets: The largest first; the search has gone down to the last.
        calibration: Batches of inputs that every cut network is corrected on; None: no correction.
        reference: Parameters of the dense network that the correction aims at.

    Raises:
        BudgetError: A budget cannot be met.
        CutError: A cut network does not compute what the masked network does.
    """
    models = []
    for budget in budgets[:-1]:
        report = hyper.prune_to_budget(budget, search.scores_for(budget))
        models.append(_cut(hyper, report, optimizer, calibration, reference))
    # The search may have settled the smallest target itself, so `finish` sets its masks.
    models.append(_cut(hyper, search.finish(), optimizer, calibration, reference))
    return models


def _cut(
    hyper: HyperNet,
    report: BudgetReport,
    optimizer: Optimizer,
    calibration: Sequence[Tensor] | None,
    reference: Mapping[str, Tensor] | None,
) -> PrunedModel:
    # Copies on the CPU: the next target changes the masks, and states hold them for long.
    masks = {name: mask.detach().cpu().clone() for name, mask in hyper.masks.items()}
    groups: list[GroupWidths] = []
    for group in hyper.plan.groups:
        kept_width = group.width
        if group.name in masks:
            kept_width = int(masks[group.name].sum())
        groups.append(
            {
                "name": group.name,
                "before": group.width,
                "after": kept_width,
                "prunable": group.prunable,
                "reason": group.reason,
            }
        )
    network = hyper.cut(calibration=calibration, reference=reference)
    kept = kept_entries(hyper.plan, hyper.mask)
    state = slice_state(named_state(optimizer, hyper.network), hyper.network, kept)
    return PrunedModel(masks, report.reported_ratios(), groups, network, state)


def restore_pruned_model(hyper: HyperNet, state: StateTree) -> PrunedModel:
    """Make a pruned model from what `PrunedModel.state_dict` returned.

    Args:
        hyper: The converted network, with any weights; its masks are changed.
        state: The saved state.
    """
    # Masks and weights are enough: the structure of the cut follows from the masks.
    hyper.set_masks({name: mask.to(hyper.mask.device) for name, mask in state["masks"].items()})
    network = hyper.cut(check=False)  # it was checked when it was first cut
    load_values(network, state["network"])
    return PrunedModel(
        state["masks"], state["achieved"], state["groups"], network, state["optimizer_state"]
    )


def cuda_devices(device: torch.device) -> list[torch.device]:
    """Return the devices whose random state `torch.random.fork_rng` has to keep."""
    return [device] if device.type == "cuda" else []


def _compress(options: Options) -> Compress:
    assert options.compress is not None, "a run without the section compress has no search"
    return options.compress
