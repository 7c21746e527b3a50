"""Masks over a channel plan: their cost, and the budget that sets them."""

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dhp_sr.allocation.allocate import allocate_measured_widths, allocate_widths
from dhp_sr.allocation.budget import Budget, BudgetReport
from dhp_sr.channels.plan import ChannelPlan, Group
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.cost.model import Cost, CostModel
from dhp_sr.utils.cost_kinds import COST_KINDS, DEFAULT_ROUND_TO
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.network_io import Example, inputs_of


class MaskedNetwork(nn.Module):
    """Base class of a network with a mask for each group of channels.

    Holds the masks, tells what a network masked by them costs, and sets them to a budget. How masks
    act on the forward, and the cut, are the subclass's.

    Args:
        network: The plain network.
        plan: Its plan.
        example_input: An input, or the tuple of the network's inputs, whose size the costs are
            counted for.
    """

    mask: Tensor
    """Kept channels of all prunable groups, concatenated; bool, shape (plan.size,)."""

    def __init__(self, network: nn.Module, plan: ChannelPlan, example_input: Example) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        image = inputs_of(example_input)[0]
        mask = torch.ones(plan.size, dtype=torch.bool, device=image.device)
        self.register_buffer("mask", mask)
        self.example_shape = tuple(image.shape)
        self._latency_benchmark: LatencyBenchmark | None = None
        self._costs = CostModel(plan)

    @abstractmethod
    def cut(self, *, check: bool = True) -> nn.Module:
        """Return the pruned network as a plain, smaller module, in eval mode."""

    @abstractmethod
    def random_inputs(self) -> tuple[Tensor, ...]:
        """Return a random image of the example's shape, and the network's fixed further inputs."""

    @abstractmethod
    def default_scores(self) -> Tensor:
        """Return the scores, shape (plan.size,), by which channels are kept if none are given."""

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Group name -> kept channels, bool, shape (width,)."""
        return self.plan.split(self.mask)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Choose the channels to keep.

        Args:
            masks: Group name -> bool tensor of shape (width,), True = keep. Groups that are not
                named keep their masks. Pinned groups may be named, with all channels kept. A mask
                that keeps nothing removes the residual branch of a `removable` group.

        Raises:
            ValueError: An unknown group, a wrong shape, a mask that prunes a pinned group, or one
                that keeps nothing of a group that is not removable, or not alone; the message
                says why.
        """
        groups = {group.name: group for group in self.plan.groups}
        new_masks = dict(self.masks)
        for name, values in masks.items():
            if name not in groups:
                known = ", ".join(groups)
                raise ValueError(f"no group is called {name!r}; the groups are {known}")
            mask = torch.as_tensor(values, dtype=torch.bool, device=self.mask.device)
            _check_mask(groups[name], mask)
            if groups[name].prunable:
                new_masks[name] = mask
        joined = self.plan.join(new_masks)
        # Checked together: the groups of a branch are removed together.
        self.plan.removed_branches(joined)
        self.mask.copy_(joined)

    @property
    def costs(self) -> CostModel:
        """Cost as a function of masks."""
        return self._costs

    def cost(self) -> Cost:
        """Return the cost of the masked network for the example input."""
        return self._costs.value(self.mask)

    def dense_cost(self) -> Cost:
        """Return the cost of the unpruned network for the example input."""
        return self._costs.dense

    def cost_ratio(self, kind: str, mask: Tensor | None = None) -> float:
        """Return the kept fraction of the dense network's cost.

        Args:
            kind: Key of `COST_KINDS`.
            mask: (plan.size,); default: the masks that are set.
        """
        return self._costs.ratio(self.mask if mask is None else mask, kind)

    def marginal_cost(self, kind: str) -> Tensor:
        """Return the cost of adding a channel at the current masks, shape (plan.size,).

        Args:
            kind: Key of `COST_KINDS`.

        Returns:
            Fractions of the dense network's cost.
        """
        return self._costs.marginal(self.mask, kind) / self._costs.dense[kind]

    def use_latency(self, latency_benchmark: LatencyBenchmark) -> None:
        """Add latencies to the costs, measured by this benchmark."""
        self._latency_benchmark = latency_benchmark
        self._costs = CostModel(self.plan, latency_benchmark.lut(self.network))

    def prune_to(
        self,
        *,
        tolerance: float | None = None,
        round_to: int | None = None,
        min_width: int | None = None,
        scores: Mapping[str, Tensor] | None = None,
        **keep_ratio: float | None,
    ) -> BudgetReport:
        """Set the masks so that a budget is met, as in `hyper.prune_to(macs=0.5)`.

        Args:
            tolerance: Largest distance from the fraction to keep, for latency as a fraction of it.
                Default: 0.01; for latency 0.05, so that 0.5 is met by 0.475 to 0.525.
            round_to: Kept widths of layers are multiples of this, or the dense width. Default: 8;
                for latency, what the measured times of the layers show.
            min_width: Minimum width of every layer of a prunable group; default: `round_to`.
            scores: Group name -> (width,), larger = keep, comparable between groups; default:
                |latent|.
            **keep_ratio: A single kind of `COST_KINDS`, and the fraction of the dense network's
                cost to keep, in (0, 1]. `macs`: multiply-adds. `params`: parameters. `latency`:
                measured time; networks are cut and timed until it is met, by the benchmark given
                to `use_latency`, or at the example's size, on its device, with 1 CPU thread.

        Returns:
            The kept widths, and the cost reached.

        Raises:
            BudgetError: The budget cannot be met, with the reason.
            TypeError: A keyword that is no cost kind.
            ValueError: No budget or several are given, or scores of a wrong shape.
        """
        kinds = ", ".join(COST_KINDS)
        for name in keep_ratio:
            if name not in COST_KINDS:
                raise TypeError(f"prune_to: expected a cost kind of {kinds}, found {name!r}")
        given = {kind: ratio for kind, ratio in keep_ratio.items() if ratio is not None}
        if len(given) != 1:
            raise ValueError(f"expected a single budget of {kinds}, found {given or 'none'}")
        kind, ratio = next(iter(given.items()))
        self._ensure_known(kind)
        if round_to is None:
            is_measured = COST_KINDS[kind].is_measured
            round_to = self._costs.width_multiple if is_measured else DEFAULT_ROUND_TO
        budget = Budget.from_target(kind, ratio, tolerance, round_to, min_width)
        flat_scores = None if scores is None else self.plan.join(scores)
        return self.prune_to_budget(budget, flat_scores)

    def prune_to_budget(self, budget: Budget, scores: Tensor | None = None) -> BudgetReport:
        """Set the masks so that a budget is met.

        Args:
            budget: Made by `Budget.from_target`.
            scores: (plan.size,), larger = keep, comparable between groups; default: |latent|.

        Returns:
            The kept widths, and the cost reached.

        Raises:
            BudgetError: The budget cannot be met, with the reason; the masks stay as they were.
            ValueError: Scores of another shape, or not finite.
        """
        if scores is None:
            scores = self.default_scores()
        if tuple(scores.shape) != (self.plan.size,) or not torch.isfinite(scores).all():
            shape = tuple(scores.shape)
            raise ValueError(f"expected finite scores of shape ({self.plan.size},), found {shape}")
        if not COST_KINDS[budget.kind].is_measured:
            self.mask.copy_(allocate_widths(self.plan, scores, budget, self._costs))
            return BudgetReport.from_mask(self.plan, self.mask, budget, self._costs)
        self._ensure_known(budget.kind)
        # Each measurement sets the masks and cuts a network; after a failure the previous masks
        # must be back, for a caller may try another budget.
        mask_before = self.mask.clone()
        try:
            mask, measured = allocate_measured_widths(
                self.plan, scores, budget, self._costs, self._measured_latency_ratio, mask_before
            )
        except UserError:
            self.mask.copy_(mask_before)
            raise
        self.mask.copy_(mask)
        return BudgetReport.from_mask(self.plan, self.mask, budget, self._costs, measured)

    def _ensure_known(self, kind: str) -> None:
        """Measure the layers at the example's size if a kind of cost needs it and nothing has."""
        if COST_KINDS[kind].is_measured and kind not in self._costs.kinds:
            self.use_latency(LatencyBenchmark(self.random_inputs()))

    def _measured_latency_ratio(self, mask: Tensor) -> float:
        """Return the time of the network cut to a mask, as a fraction of the dense network's."""
        assert self._latency_benchmark is not None, "costs with latency come from a benchmark"
        self.mask.copy_(mask)
        return self._latency_benchmark.ratio(self.cut(check=False), self.network)


def _check_mask(group: Group, mask: Tensor) -> None:
    """Refuse a mask that does not suit its group."""
    shape = tuple(mask.shape)
    if shape != (group.width,):
        raise ValueError(
            f"the mask of {group.name} must have shape ({group.width},), found {shape}"
        )
    if not group.prunable and not mask.all():
        raise ValueError(f"group {group.name} is pinned ({group.reason}) and cannot be pruned")
