"""A network whose weights are generated from latent vectors, one for each group of channels."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dhp_sr.hyper.parametrisation import Parametrisation
from dhp_sr.structure import Budget, BudgetReport, ChannelPlan, Cost, CostModel
from dhp_sr.structure.budget import fit, join, report, split
from dhp_sr.structure.cut import check_cut, cut


class HyperNet(nn.Module):
    """A plain network with generated, masked weights; made by `convert`.

    Every weight is a function of the latents of its output and input channels; weights, biases and norm vectors are
    multiplied by the masks, so the output is that of the pruned network, in training and in evaluation.
    """

    def __init__(
        self, network: nn.Module, plan: ChannelPlan, parametrisation: Parametrisation, example_input: Tensor
    ) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.parametrisation = parametrisation
        dtype, device = example_input.dtype, example_input.device
        self._latents = nn.ParameterList(
            nn.Parameter(torch.ones(group.width, dtype=dtype, device=device)) for group in plan.prunable
        )
        self.register_buffer("mask", torch.ones(plan.size, dtype=torch.bool, device=device))
        self._example_shape = tuple(example_input.shape)
        self._costs = CostModel(plan)
        self._dense_cost = self._costs.value(torch.ones(plan.size))
        self._places = _Places(plan, device)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the network with generated weights; same arguments as the network's own call."""
        return functional_call(self.network, self.generate(), inputs)

    def generate(self) -> dict[str, Tensor]:
        """Return every parameter of the plain network: generated where channels are prunable, and masked.

        Generation keeps the parameters' own precision, also under autocast.
        """
        with torch.autocast(self.mask.device.type, enabled=False):
            return self._generate()

    def _generate(self) -> dict[str, Tensor]:
        one = self.mask.new_ones(1)
        mask = torch.cat((self.mask, one))
        latent = torch.cat((*self._latents, one.to(self._latents[0].dtype))) if self.plan.size else one
        gates, scales = self._places.gather(mask), self._places.gather(latent * mask)
        own = dict(self.network.named_parameters())
        generated = self.parametrisation(own, scales, gates)
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
        return {group.name: latent for group, latent in zip(self.plan.prunable, self._latents, strict=True)}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Group name -> which channels are kept, bool, shape (width,)."""
        return split(self.plan, self.mask)

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
            chosen.update(_checked(known, name, torch.as_tensor(mask, dtype=torch.bool, device=self.mask.device)))
        self.mask.copy_(join(self.plan, chosen))

    def cost(self) -> Cost:
        """Cost of the masked network for the example input."""
        return self._costs.value(self.mask)

    def cost_of(self, mask: Tensor) -> Cost:
        """Cost that the network would have with another mask, shape (plan.size,)."""
        return self._costs.value(mask)

    def dense_cost(self) -> Cost:
        """Cost of the unpruned network for the example input."""
        return self._dense_cost

    def marginal_cost(self, kind: str) -> Tensor:
        """What one channel more costs as the masks are, as a fraction of the dense cost; shape (plan.size,)."""
        return self._costs.marginal(self.mask, kind) / getattr(self.dense_cost(), kind)

    def prune_to(
        self,
        *,
        macs: float | None = None,
        params: float | None = None,
        tolerance: float = 0.01,
        round_to: int = 8,
        min_width: int | None = None,
        scores: Mapping[str, Tensor] | None = None,
    ) -> BudgetReport:
        """Set the masks so that a budget is met.

        Args:
            macs: fraction of the multiply-adds to keep, in (0, 1]; or
            params: fraction of the parameters to keep.
            tolerance: largest distance from that fraction.
            round_to: kept widths are multiples of this, or the dense width.
            min_width: floor of every group; default: `round_to`.
            scores: group name -> (width,), larger = keep, comparable between groups; default: |latent|.

        Returns:
            What is kept.

        Raises:
            BudgetError: the budget cannot be met, with the reason.
            ValueError: not exactly one budget given.
        """
        if (macs is None) == (params is None):
            raise ValueError(f"give exactly one of macs, params; found macs={macs}, params={params}")
        kind, ratio = ("macs", macs) if params is None else ("params", params)
        budget = Budget(kind, ratio, tolerance, round_to, round_to if min_width is None else min_width)
        if scores is None:
            scores = {name: latent.detach().abs() for name, latent in self.latents.items()}
        self.mask.copy_(fit(self.plan, join(self.plan, scores), budget))
        return report(self.plan, self.mask, budget)

    def cut(self, *, check: bool = True) -> nn.Module:
        """Return the pruned network as a plain, smaller module of the same class, in eval mode.

        Args:
            check: compare it with the masked network on a random input of the example's shape.

        Raises:
            CutError: the cut network does not compute what the masked one does.
        """
        with torch.no_grad():
            small = cut(self.network, self.plan, self.mask, self.generate())
        if check:
            latent = self._latents[0] if len(self._latents) else next(self.parameters())
            check_cut(self, small, torch.rand(self._example_shape, dtype=latent.dtype, device=latent.device))
        for parameter in small.parameters():
            parameter.requires_grad_(True)
        return small

    def network_parameters(self) -> Iterator[nn.Parameter]:
        """Everything that learns, except the latents."""
        latents = {id(latent) for latent in self._latents}
        return (p for p in self.parameters() if id(p) not in latents and p.requires_grad)


class _Places(nn.Module):
    """Where in the flat vector the channels of every parameter's axes lie; equal indices are gathered once."""

    def __init__(self, plan: ChannelPlan, device: torch.device) -> None:
        super().__init__()
        self._slot: dict[str, dict[int, int]] = {}
        slots: dict[tuple[int, ...], int] = {}
        for axis in plan.axes:
            if axis.tensor in plan.parameters and bool((axis.index < plan.size).any()):
                slot = slots.setdefault(tuple(axis.index.tolist()), len(slots))
                self._slot.setdefault(axis.tensor, {})[axis.dim] = slot
        for index, slot in slots.items():
            self.register_buffer(f"index_{slot}", torch.tensor(index, device=device), persistent=False)

    def gather(self, flat: Tensor) -> dict[str, dict[int, Tensor]]:
        """Return parameter name -> axis -> the entries of `flat` along it."""
        gathered = [flat[index] for index in self.buffers()]
        return {name: {dim: gathered[slot] for dim, slot in dims.items()} for name, dims in self._slot.items()}


def _aligned(vector: Tensor, parameter: Tensor, dim: int) -> Tensor:
    return vector.reshape([-1 if axis == dim else 1 for axis in range(parameter.dim())])


def _checked(known: Mapping, name: str, mask: Tensor) -> dict[str, Tensor]:
    if name not in known:
        raise ValueError(f"no group is called {name!r}; the groups are {', '.join(known)}")
    group = known[name]
    if tuple(mask.shape) != (group.width,):
        raise ValueError(f"the mask of {name} must have shape ({group.width},), found {tuple(mask.shape)}")
    if not mask.any():
        raise ValueError(f"the mask of {name} keeps nothing; at least one channel must stay")
    if not group.prunable and not mask.all():
        raise ValueError(f"group {name} is pinned ({group.reason}) and cannot lose channels")
    return {name: mask} if group.prunable else {}
