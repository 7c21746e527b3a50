"""Channels that other pruning libraries keep, as masks of ours.

A library prunes a copy of the network whose biases hold the numbers of their channels, and so say
afterwards which ones are left. Cut, correction and finetuning are ours then, as for every method.
Both need a package of their own: torch-pruning 1.6.1 and torch-kirigami 0.2.1.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.errors import UserError

STEP = 1e-6
"""Difference of neighboring biases in the marked copy: no part of any norm of the weights."""
NUM_TRIALS = 12
"""Fractions tried until the multiply-adds are right: neither library has them as its budget."""

Prune = Callable[[nn.Module, Tensor, float], None]
"""(network, input, fraction of the parameters or channels to keep): prunes in place."""


def prune_by_torch_pruning(network: nn.Module, example: Tensor, keep: float) -> None:
    """Global group magnitude, the default of Torch-Pruning (Fang et al., CVPR 2023)."""
    import torch_pruning

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    torch_pruning.pruner.BasePruner(
        network,
        example.repeat(2, 1, 1, 1),  # of one sample, the features pass through views of no layer
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1 - keep,
        global_pruning=True,
        max_pruning_ratio=0.9,
        ignored_layers=convolutions[-1:],  # it makes the output
    ).step()


def prune_by_kirigami(network: nn.Module, example: Tensor, keep: float) -> None:
    """Greedy group magnitude with a budget of parameters, the quick start of torch-kirigami."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import Greedy, GroupMagnitude, ParameterBudget, Pruner

    num_params = sum(parameter.numel() for parameter in network.parameters())
    pruner = Pruner(network, graph=DependencyGraph.build(network, args=(example,)))
    pruner.prune(
        pruner.discover_candidates(),
        budget=ParameterBudget(max_params=round(keep * num_params)),
        strategy=Greedy(GroupMagnitude(p=2)),
    )


LIBRARIES: dict[str, Prune] = {
    "torch-pruning": prune_by_torch_pruning,
    "torch-kirigami": prune_by_kirigami,
}


def set_masks_of_library(
    library: str, network: nn.Module, hyper: HyperNet, budget: Budget, example: Tensor
) -> float:
    """Let a library choose the channels at a budget; return the kept fraction of its cost.

    Args:
        library: of `LIBRARIES`.
        network: plain and trained; it is not changed.
        hyper: its hyper network, whose masks are set.
        budget: of multiply-adds; its `margin` says how close is close enough.
        example: input, (1, C, H, W).

    Raises:
        UserError: the library cannot prune the network, not to this budget, or keeps channels that
            depend on each other in different ways.
    """
    # Multiply-adds follow the parameters, and the square of the channels.
    power = 0.5 if library == "torch-pruning" else 1.0
    keep = budget.keep_ratio**power
    for _ in range(NUM_TRIALS):
        hyper.set_masks(_kept_channels(library, network, hyper, example, keep))
        ratio = hyper.cost_ratio(budget.kind)
        if abs(ratio - budget.keep_ratio) <= budget.margin:
            return ratio
        keep *= (budget.keep_ratio / ratio) ** power
    raise UserError(
        f"{library}: expected {budget.keep_ratio:g} of the {budget.kind}, came to {ratio:.3f}"
    )


def _kept_channels(
    library: str, network: nn.Module, hyper: HyperNet, example: Tensor, keep: float
) -> dict[str, Tensor]:
    """Return group name -> mask, after a library has pruned a marked copy."""
    marked = copy.deepcopy(network).eval()
    for layer in marked.modules():
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.data = STEP * torch.arange(1.0, len(bias) + 1)
    try:
        LIBRARIES[library](marked, example, keep)
    except Exception as error:  # whatever another library raises
        raise UserError(f"{library}: {type(error).__name__}: {error}") from error
    # 1 kept, 0 removed, -1 not known yet; an entry more for the pinned channels.
    flat = torch.full((hyper.plan.size + 1,), -1)
    for axis in hyper.plan.axes:
        if not axis.tensor.endswith(".bias"):
            continue
        kept = torch.zeros(len(axis.index), dtype=flat.dtype)
        kept[(marked.get_parameter(axis.tensor).detach() / STEP).round().long() - 1] = 1
        known = flat[axis.index]
        if ((known >= 0) & (known != kept)).any():
            raise UserError(f"{library}: {axis.tensor} keeps other channels than its group")
        flat[axis.index] = kept
    if (flat[:-1] < 0).any():
        raise UserError(f"{library}: expected a bias in every group, to mark its channels")
    if flat[-1] == 0:
        raise UserError(f"{library}: it prunes channels that are pinned here")
    return hyper.plan.split(flat[:-1] > 0)
