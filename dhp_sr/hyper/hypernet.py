"""Hyper network: a network whose weights are generated from a latent vector per channel group."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.allocation.allocate import allocate_measured_widths, allocate_widths
from dhp_sr.allocation.budget import Budget, BudgetReport
from dhp_sr.channels.plan import ChannelPlan, Group
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.cost.model import Cost, CostModel
from dhp_sr.hyper.channel_index import ChannelIndex, align_to_axis
from dhp_sr.hyper.parametrization import Parametrization
from dhp_sr.surgery.correct import CorrectionReport, correct
from dhp_sr.surgery.cut import check_cut, cut
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import load_values, parameter_names_by_path


class HyperNet(nn.Module):
    """A plain network with generated, masked weights; made by `convert`.

        latents, masks -> parametrization -> weights -> forward of the plain network

    Every weight is a function of the latents of its output and input channels. Weights, biases and
    norm vectors are multiplied by the masks, so the output is that of the pruned network, in
    training and in evaluation.

    Args:
        network: The plain network; the hyper network keeps it and changes its parameters.
        plan: Its plan.
        parametrization: Generates its weights from the latents.
        example_input: One input; costs are counted for it.
        frozen: Names of the parameters that stay frozen, in a cut network as well.
    """

    mask: Tensor
    """Kept channels of all prunable groups, concatenated; bool, shape (plan.size,)."""

    def __init__(
        self,
        network: nn.Module,
        plan: ChannelPlan,
        parametrization: Parametrization,
        example_input: Tensor,
        *,
        frozen: Collection[str] = (),
    ) -> None:
        super().__init__()
        # Not read from requires_grad later: a parametrization may freeze what it generates, and a
        # search may freeze all weights for a while.
        self._frozen = frozenset(frozen)
        self.network = network
        self.plan = plan
        self.parametrization = parametrization
        # A list, not a ParameterDict: names of groups have dots, which keys of modules must not.
        self._latents = nn.ParameterList()
        for group in plan.prunable:
            self._latents.append(nn.Parameter(example_input.new_ones(group.width)))
        mask = torch.ones(plan.size, dtype=torch.bool, device=example_input.device)
        self.register_buffer("mask", mask)
        self.example_shape = tuple(example_input.shape)
        self.correction_report: CorrectionReport | None = None
        self._latency_benchmark: LatencyBenchmark | None = None
        self._costs = CostModel(plan)
        self._channel_index = ChannelIndex(plan, example_input.device)
        self._canonical_names = parameter_names_by_path(network)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the network with generated weights; it takes the same arguments as the network."""
        generated = self.generate()
        weights = {name: generated[first] for name, first in self._canonical_names.items()}
        # Parameters that two modules share are given under both names. With tie_weights=True,
        # functional_call would find them itself, but leave generated tensors behind in a module
        # that has two names.
        return functional_call(self.network, weights, inputs, tie_weights=False)

    def generate(self) -> dict[str, Tensor]:
        """Return all parameters of the plain network, generated and masked, by name.

        Weights keep their precision, under autocast as well.
        """
        # Autocast would run the einsum of the full parametrization in half precision.
        with torch.autocast(self.mask.device.type, enabled=False):
            # A last entry stands for all pinned channels: kept, with a latent of 1.
            kept = self.mask.new_ones(1)
            mask = torch.cat((self.mask, kept))
            latent = kept
            # torch.cat does not take an empty list of latents.
            if self.plan.size:
                latent = torch.cat((*self._latents, kept.to(self._latents[0].dtype)))
            masks = self._channel_index.gather(mask)
            # Masks multiply the latents as well, so that a pruned channel is 0 for every
            # parametrization whatever its latent is, and its gradient is 0 with it.
            scales = self._channel_index.gather(latent * mask)
            weights: dict[str, Tensor] = dict(self.network.named_parameters())
            generated = self.parametrization(weights, scales, masks)
            for name, weight in weights.items():
                if name in generated:
                    continue
                # Biases and norm vectors: a pruned channel must not be shifted away from 0, or
                # the masked network would not be the cut one.
                for dim, axis_mask in masks.get(name, {}).items():
                    aligned = align_to_axis(axis_mask.to(weight.dtype), weight.dim(), dim)
                    weight = weight * aligned
                generated[name] = weight
            return generated

    @property
    def latents(self) -> Mapping[str, nn.Parameter]:
        """Group name -> latent vector, shape (width,)."""
        names = [group.name for group in self.plan.prunable]
        return dict(zip(names, self._latents, strict=True))

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Group name -> kept channels, bool, shape (width,)."""
        return self.plan.split(self.mask)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Choose the channels to keep.

        Args:
            masks: Group name -> bool tensor of shape (width,), True = keep. Groups that are not
                named keep their masks. Pinned groups may be named, with all channels kept.

        Raises:
            ValueError: An unknown group, a wrong shape, a mask that keeps nothing, or a mask that
                prunes a pinned group.
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
        self.mask.copy_(self.plan.join(new_masks))

    @property
    def costs(self) -> CostModel:
        """Cost as a function of masks."""
        return self._costs

    def cost(self) -> Cost:
        """Return the cost of the masked network for the example input."""
        return self._costs.value(self.mask)

    def cost_of(self, mask: Tensor) -> Cost:
        """Return the cost that the network would have with another mask, shape (plan.size,)."""
        return self._costs.value(mask)

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
        round_to: int = 8,
        min_width: int | None = None,
        scores: Mapping[str, Tensor] | None = None,
        **keep_ratio: float | None,
    ) -> BudgetReport:
        """Set the masks so that a budget is met, as in `hyper.prune_to(macs=0.5)`.

        Args:
            tolerance: Largest distance from the fraction to keep, for latency as a fraction of it.
                Default: 0.01; for latency 0.05, so that 0.5 is met by 0.475 to 0.525.
            round_to: Kept widths of layers are multiples of this, or the dense width.
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
            latents = {name: latent.detach().abs() for name, latent in self.latents.items()}
            scores = self.plan.join(latents)
        if tuple(scores.shape) != (self.plan.size,) or not torch.isfinite(scores).all():
            shape = tuple(scores.shape)
            raise ValueError(f"expected finite scores of shape ({self.plan.size},), found {shape}")
        if not COST_KINDS[budget.kind].is_measured:
            self.mask.copy_(allocate_widths(self.plan, scores, budget, self._costs))
            return BudgetReport.from_mask(self.plan, self.mask, budget, self._costs)
        if budget.kind not in self._costs.kinds:
            self.use_latency(LatencyBenchmark(self.random_input()))
        # Each measurement sets the masks and cuts a network; after a failure the previous masks
        # must be back, for a caller may go on with another budget.
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

    def _measured_latency_ratio(self, mask: Tensor) -> float:
        """Return the time of the network cut to a mask, as a fraction of the dense network's."""
        assert self._latency_benchmark is not None, "costs with latency come from a benchmark"
        self.mask.copy_(mask)
        return self._latency_benchmark.ratio(self.cut(check=False), self.network)

    def cut(self, *, calibration: Sequence[Tensor] | None = None, check: bool = True) -> nn.Module:
        """Return the pruned network as a plain, smaller module, in eval mode.

        It is of the network's class. If the class's forward states channel numbers that no longer
        hold, it runs a traced forward with the right ones instead (`surgery.rewrite`). Parameters
        that were frozen before `convert` are frozen, all others are not.

        Args:
            calibration: Batches of inputs, each (N, C, H, W). With them, the layers behind pruned
                channels are re-solved by least squares, so that the outputs come close to those of
                this network without masks; no training (`surgery.correct`). What was done is in
                `correction_report`.
            check: Compare it with the masked network on a random input of the example's shape.

        Raises:
            CutError: The cut network does not compute what the masked one does.
            ValueError: `calibration` is empty.
        """
        with torch.no_grad():
            values = self.generate()
            if calibration is not None:
                values, self.correction_report = correct(
                    self.network,
                    self.plan,
                    self.mask,
                    values,
                    calibration,
                    reference=self._generate_unmasked(),
                )
            small = cut(self.network, self.plan, self.mask, values)
        if check:
            masked: nn.Module = self
            if calibration is not None:  # the masked network is now one with corrected weights
                masked = copy.deepcopy(self.network)
                load_values(masked, values, strict=False)
            check_cut(masked, small, self.random_input())
        for name, parameter in small.named_parameters():
            parameter.requires_grad_(name not in self._frozen)
        return small

    def _generate_unmasked(self) -> dict[str, Tensor]:
        """Parameters of the dense network with the present weights and latents."""
        mask = self.mask.clone()
        self.mask.fill_(True)
        try:
            return self.generate()
        finally:
            self.mask.copy_(mask)

    def random_input(self) -> Tensor:
        """Return a random input of the example's shape, in [0, 1)."""
        like = self._latents[0] if len(self._latents) else next(self.parameters())
        return torch.rand(self.example_shape, dtype=like.dtype, device=like.device)

    def network_parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters that are trained, except the latents."""
        latents = {id(latent) for latent in self._latents}
        for parameter in self.parameters():
            if id(parameter) not in latents and parameter.requires_grad:
                yield parameter


def _check_mask(group: Group, mask: Tensor) -> None:
    """Refuse a mask that does not suit its group."""
    shape = tuple(mask.shape)
    if shape != (group.width,):
        raise ValueError(
            f"the mask of {group.name} must have shape ({group.width},), found {shape}"
        )
    if not mask.any():
        raise ValueError(f"the mask of {group.name} keeps no channel")
    if not group.prunable and not mask.all():
        raise ValueError(f"group {group.name} is pinned ({group.reason}) and cannot be pruned")
