"""A network whose weights are generated from latent vectors, one for each group of channels."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.allocation.allocate import allocate_measured_widths, allocate_widths
from dhp_sr.allocation.budget import Budget, BudgetReport, join_groups, split_by_group
from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.cost.model import Cost, CostModel
from dhp_sr.hyper.channel_index import Places
from dhp_sr.hyper.parametrization import Parametrization
from dhp_sr.surgery.cut import check_cut, cut
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import parameter_names_by_path


class HyperNet(nn.Module):
    """A plain network with generated, masked weights; made by `convert`.

    Every weight is a function of the latents of its output and input channels; weights, biases and norm vectors are
    multiplied by the masks, so the output is that of the pruned network, in training and in evaluation.

    Attributes:
        mask: (plan.size,) bool, the channels kept, groups one after the other.
    """

    mask: Tensor

    def __init__(
        self,
        network: nn.Module,
        plan: ChannelPlan,
        parametrization: Parametrization,
        example_input: Tensor,
        *,
        frozen: Collection[str] = (),
    ) -> None:
        """Take over the parts.

        Args:
            network: the plain network.
            plan: its plan.
            parametrization: how its weights follow from the latents.
            example_input: one input; costs are counted for it.
            frozen: names of the parameters that its author wants frozen, in a cut network too.
        """
        super().__init__()
        self._frozen = frozenset(frozen)
        self.network = network
        self.plan = plan
        self.parametrization = parametrization
        dtype, device = example_input.dtype, example_input.device
        self._latents = nn.ParameterList(
            nn.Parameter(torch.ones(group.width, dtype=dtype, device=device))
            for group in plan.prunable
        )
        self.register_buffer("mask", torch.ones(plan.size, dtype=torch.bool, device=device))
        self.example_shape = tuple(example_input.shape)
        self._latency_benchmark: LatencyBenchmark | None = None
        self._set_costs(CostModel(plan))
        self._places = Places(plan, device)
        self._places_of_parameters = parameter_names_by_path(network)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the network with generated weights; same arguments as the network's own call."""
        generated = self.generate()
        values = {name: generated[first] for name, first in self._places_of_parameters.items()}
        # each module once: functional_call's own tying leaves generated values in a module that has two names
        return functional_call(self.network, values, inputs, tie_weights=False)

    def generate(self) -> dict[str, Tensor]:
        """Return every parameter of the plain network: generated where channels are prunable, and masked.

        Generation keeps the parameters' own precision, also under autocast.
        """
        with torch.autocast(self.mask.device.type, enabled=False):
            return self._generate()

    def _generate(self) -> dict[str, Tensor]:
        one = self.mask.new_ones(1)
        mask = torch.cat((self.mask, one))
        latent = (
            torch.cat((*self._latents, one.to(self._latents[0].dtype))) if self.plan.size else one
        )
        gates, scales = self._places.gather(mask), self._places.gather(latent * mask)
        own: dict[str, Tensor] = dict(self.network.named_parameters())
        generated = self.parametrization(own, scales, gates)
        for name, parameter in own.items():
            if name in generated:
                continue
            for dim, gate in gates.get(name, {}).items():
                parameter = parameter * _aligned(gate.to(parameter.dtype), parameter, dim)
            generated[name] = parameter
        return generated

    @property
    def latents(self) -> Mapping[str, nn.Parameter]:
        """Group name -> its latent vector, shape (width,)."""
        return {
            group.name: latent
            for group, latent in zip(self.plan.prunable, self._latents, strict=True)
        }

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Group name -> which channels are kept, bool, shape (width,)."""
        return split_by_group(self.plan, self.mask)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Choose the channels to keep.

        Args:
            masks: group name -> bool tensor of shape (width,), True = keep. Groups that are not named stay as they are.

        Raises:
            ValueError: an unknown group, a wrong shape, an empty mask, or a cut in a pinned group.
        """
        known = {group.name: group for group in self.plan.groups}
        chosen = dict(self.masks)
        for name, mask in masks.items():
            chosen.update(
                _checked(
                    known, name, torch.as_tensor(mask, dtype=torch.bool, device=self.mask.device)
                )
            )
        self.mask.copy_(join_groups(self.plan, chosen))

    def use_latency(self, latency_benchmark: LatencyBenchmark) -> None:
        """Take latencies into the costs, as this benchmark measures them."""
        self._latency_benchmark = latency_benchmark
        self._set_costs(CostModel(self.plan, latency_benchmark.table(self.network)))

    @property
    def costs(self) -> CostModel:
        """The cost as a function of the masks."""
        return self._costs

    def _set_costs(self, costs: CostModel) -> None:
        self._costs = costs

    def cost(self) -> Cost:
        """Cost of the masked network for the example input."""
        return self._costs.value(self.mask)

    def cost_of(self, mask: Tensor) -> Cost:
        """Cost that the network would have with another mask, shape (plan.size,)."""
        return self._costs.value(mask)

    def cost_ratio(self, kind: str, mask: Tensor | None = None) -> float:
        """Return the kept fraction of the dense cost with a mask, shape (plan.size,); default: the one that is set."""
        return self._costs.ratio(self.mask if mask is None else mask, kind)

    def dense_cost(self) -> Cost:
        """Cost of the unpruned network for the example input."""
        return self._costs.dense

    def marginal_cost(self, kind: str) -> Tensor:
        """What one channel more costs as the masks are, as a fraction of the dense cost; shape (plan.size,)."""
        return self._costs.marginal(self.mask, kind) / self._costs.dense[kind]

    def prune_to(
        self,
        *,
        tolerance: float | None = None,
        round_to: int = 8,
        min_width: int | None = None,
        scores: Mapping[str, Tensor] | None = None,
        **keep_ratio: float | None,
    ) -> BudgetReport:
        """Set the masks so that a budget is met: `hyper.prune_to(macs=0.5)`.

        Args:
            keep_ratio: exactly one cost kind of `COST_KINDS` and the fraction of the dense network's cost to keep, in
                (0, 1]. `macs`: multiply-adds; `params`: parameters; `latency`: measured time: networks are cut and
                timed until it is met, unless `use_latency` said otherwise at the example's size, on its device, with
                one CPU thread.
            tolerance: largest distance from that fraction, for latency as a fraction of it; default: 0.01, for latency
                0.05, so that half the time is met by 0.475 to 0.525.
            round_to: kept widths of layers are multiples of this, or the dense width.
            min_width: minimum width of every layer of a group; default: `round_to`.
            scores: group name -> (width,), larger = keep, comparable between groups; default: |latent|.

        Returns:
            What is kept.

        Raises:
            BudgetError: the budget cannot be met, with the reason.
            TypeError: a keyword that is no cost kind.
            ValueError: not exactly one budget given.
        """
        kinds = ", ".join(COST_KINDS)
        for name in keep_ratio:
            if name not in COST_KINDS:
                raise TypeError(f"prune_to: expected a cost kind of {kinds}, found {name!r}")
        given = {kind: ratio for kind, ratio in keep_ratio.items() if ratio is not None}
        if len(given) != 1:
            named = ", ".join(f"{kind}={ratio}" for kind, ratio in given.items())
            raise ValueError(f"give exactly one of {kinds}; found {named or 'none'}")
        ((kind, ratio),) = given.items()
        budget = Budget.from_target(kind, ratio, tolerance, round_to, min_width)
        return self.prune_to_budget(
            budget, None if scores is None else join_groups(self.plan, scores)
        )

    def prune_to_budget(self, budget: Budget, scores: Tensor | None = None) -> BudgetReport:
        """Set the masks so that a budget is met.

        Args:
            budget: made by `Budget.from_target`.
            scores: (plan.size,), larger = keep, comparable between groups; default: |latent|.

        Returns:
            What is kept.

        Raises:
            BudgetError: the budget cannot be met, with the reason.
            ValueError: scores of another shape, or not finite.
        """
        if scores is None:
            latents = {name: latent.detach().abs() for name, latent in self.latents.items()}
            scores = join_groups(self.plan, latents)
        if tuple(scores.shape) != (self.plan.size,) or not torch.isfinite(scores).all():
            raise ValueError(
                f"expected finite scores of shape ({self.plan.size},), found {tuple(scores.shape)}"
            )
        if not COST_KINDS[budget.kind].is_measured:
            self.mask.copy_(allocate_widths(self.plan, scores, budget, self._costs))
            return BudgetReport.from_mask(self.plan, self.mask, budget, self._costs)
        if budget.kind not in self._costs.kinds:
            self.use_latency(LatencyBenchmark(self.random_input()))
        before = self.mask.clone()
        try:
            mask, measured = allocate_measured_widths(
                self.plan, scores, budget, self._costs, self._measure, before
            )
        except UserError:
            self.mask.copy_(before)
            raise
        self.mask.copy_(mask)
        return BudgetReport.from_mask(self.plan, self.mask, budget, self._costs, measured)

    def _measure(self, mask: Tensor) -> float:
        """Return the time of the network cut to a mask, as a fraction of the dense one's; the mask stays set."""
        assert self._latency_benchmark is not None, "costs with latency come from a benchmark"
        self.mask.copy_(mask)
        return self._latency_benchmark.ratio(self.cut(check=False), self.network)

    def cut(self, *, check: bool = True) -> nn.Module:
        """Return the pruned network as a plain, smaller module of the same class, in eval mode.

        Where the class's forward states numbers of channels that no longer hold, the module runs a traced forward with
        the right ones (`structure.rewrite.RewrittenNetwork`). Parameters that were frozen before `convert` are frozen.

        Args:
            check: compare it with the masked network on a random input of the example's shape.

        Raises:
            CutError: the cut network does not compute what the masked one does.
        """
        with torch.no_grad():
            small = cut(self.network, self.plan, self.mask, self.generate())
        if check:
            check_cut(self, small, self.random_input())
        for name, parameter in small.named_parameters():
            parameter.requires_grad_(name not in self._frozen)
        return small

    def random_input(self) -> Tensor:
        """Return a random input of the example's shape, in [0, 1)."""
        latent = self._latents[0] if len(self._latents) else next(self.parameters())
        return torch.rand(self.example_shape, dtype=latent.dtype, device=latent.device)

    def network_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that learns, except the latents."""
        latents = {id(latent) for latent in self._latents}
        return (p for p in self.parameters() if id(p) not in latents and p.requires_grad)


def _aligned(vector: Tensor, parameter: Tensor, dim: int) -> Tensor:
    return vector.reshape([-1 if axis == dim else 1 for axis in range(parameter.dim())])


def _checked(known: Mapping, name: str, mask: Tensor) -> dict[str, Tensor]:
    if name not in known:
        raise ValueError(f"no group is called {name!r}; the groups are {', '.join(known)}")
    group = known[name]
    if tuple(mask.shape) != (group.width,):
        raise ValueError(
            f"the mask of {name} must have shape ({group.width},), found {tuple(mask.shape)}"
        )
    if not mask.any():
        raise ValueError(f"the mask of {name} keeps nothing; at least one channel must stay")
    if not group.prunable and not mask.all():
        raise ValueError(f"group {name} is pinned ({group.reason}) and cannot lose channels")
    return {name: mask} if group.prunable else {}
