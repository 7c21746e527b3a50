"""HSN: a network that puts out the structure, trained through gates while the weights stand still.

    fixed inputs -> structure network -> logits -> gates -> task's loss of the gated network
                                               '-> gates -> cost -> budget's term

    J = L(gated network) + penalty * R(kept fraction, budget)

The weights and the statistics of norms are those of the network that the search begins with. What can be known of the
method is in its abstract and in later code of its authors; the paper's full text was not at hand. Where the sources
leave a choice, the parts say what they chose.

Reference: Gao et al., Model Compression via Hyper-Structure Network, 2020 (OpenReview Oc-Aedbjq0).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dhp_sr.allocation.budget import enforce_min_width, split_by_group
from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.gated import gate
from dhp_sr.search.base import Search, SearchSettings, gradients, set_latents
from dhp_sr.search.hsn.budget_regularizer import TERMS
from dhp_sr.search.hsn.gates import MEDIAN, Draw, draw, keep_probability
from dhp_sr.search.hsn.layer_scaling import LayerScaling
from dhp_sr.search.hsn.structure_network import StructureNetwork
from dhp_sr.utils.errors import UserError

MEMORY = 0.9
"""Of the running mean of gradient norms, per step."""
AMBIGUOUS = (0.05, 0.95)
"""Keep probabilities between these are not decided yet."""


@dataclass(frozen=True)
class HSNSettings:
    """The section `compress.hsn` of an option file; its documentation is there."""

    lr: float = 1e-3
    weight_decay: float = 1e-2
    temperature: float = 0.4
    offset: float = 3.0
    penalty: float | None = None
    balance: float = 1.0
    approach: float = 0.5
    budget_term: str = "two_sided"
    budget_gates: str = "mask"
    task_gates: str = "hard"
    layer_scaling: str = "loss"
    scaling_rate: float = 0.01


class HSN(Search):
    """Trains a structure network; the masks are what it would rather keep than cut.

    Ours, where the sources are silent or err:
    - The budget is a fraction of the whole network's cost, as everywhere here (their code leaves out what it cannot
      prune). A depthwise layer costs what its kept channels cost (theirs: their share squared).
    - Gates act where a channel is read, which equals a gate behind the activation (`hyper.gated`).
    - No group falls below `min_width`, in no draw, so that what is priced is what the cut will keep.
    - The mask is the median draw, without noise, of the last step (theirs draws again). The budget's term prices this
      mask, with the slopes of a second draw (theirs prices the draw, whose cost is another one while gates are
      undecided: on MobileNetV2 0.50 instead of 0.46).
    - All training images are used, not a small subset.
    """

    trains_weights = False

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        own = self._own = HSNSettings(**settings.own)
        if not hyper.plan.prunable:
            pinned = ", ".join(f"{group.name} ({group.reason})" for group in hyper.plan.groups)
            raise UserError(
                f"compress.method hsn: the network has no channels to prune; pinned: {pinned}"
            )
        try:
            gate(hyper)
        except ValueError as error:
            raise UserError(
                f"compress.method hsn: {error}; set compress.parametrization: factored"
            ) from error
        self.network = StructureNetwork(
            [group.width for group in hyper.plan.prunable], settings.seed
        )
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=own.lr, weight_decay=own.weight_decay
        )
        self._scaling = LayerScaling(self.network.layer, own.layer_scaling, own.scaling_rate)
        self._noise = torch.Generator().manual_seed(settings.seed)
        self._level: float | None = None
        """Running mean of the norm of the loss's gradient on the logits."""
        self._renew()

    def prepare(self, iteration: int) -> None:
        """Draw the gates that the next forward runs with."""
        self._task = self._draw(soft=self._own.task_gates == "soft")
        self.hyper.mask.fill_(True)
        set_latents(self.hyper, self._task.value)

    def step(self, iteration: int) -> dict[str, float]:
        """Take the slopes of the gates, draw others for the cost, and train the structure network."""
        task = gradients(self.hyper).cpu() * self._task.slope
        drawn = self._draw()
        kind, asked = self.settings.budget.kind, self._asked(iteration)
        dense = getattr(self.hyper.dense_cost(), kind)
        priced = self._mask() if self._own.budget_gates == "mask" else drawn.value
        kept = getattr(self.hyper.cost_of(priced), kind) / dense
        value, slope = TERMS[self._own.budget_term](kept, asked)
        marginal = (self.hyper.costs.marginal(drawn.value, kind) / dense).float()
        budget = slope * marginal * drawn.slope
        penalty = self._penalty(task, budget)
        self._update(task, penalty * budget)
        self._renew()
        figures = {
            "priced_ratio": kept,
            "asked_ratio": asked,
            "budget_term": value,
            "penalty": penalty,
        }
        return {**self.ratios(), **figures, **self._figures()}

    def _asked(self, iteration: int) -> float:
        """Return the kept fraction asked for: it falls from 1 to the budget on a line, then stays. The line is ours."""
        length = self._own.approach * self.settings.iterations
        done = min(1.0, iteration / length) if length else 1.0
        return 1 - (1 - self.settings.budget.keep_ratio) * done

    def _penalty(self, task: Tensor, budget: Tensor) -> float:
        """Return the weight of the budget's term: the one given, or the one that balances the two gradients.

        The second is ours. A loss's scale says little about its slope by the gates: with the weight that suits
        cross-entropy, a pixel loss 20 times smaller goes unheard until the budget is met, and what the optimizer keeps
        of the budget's large gradients holds the gates where they fell for long after.
        """
        norm = float(task.norm())
        self._level = norm if self._level is None else MEMORY * self._level + (1 - MEMORY) * norm
        if self._own.penalty is not None:
            return self._own.penalty
        size = float(budget.norm())
        return self._own.balance * self._level / size if size > 0 else 0.0

    def _draw(self, *, soft: bool = False) -> Draw:
        """Draw gates, at least `min_width` of each group open."""
        shifted = self._logits.detach() + self._own.offset
        drawn = draw(shifted, self._own.temperature, self._noise, soft=soft)
        forced = enforce_min_width(self.hyper.plan, drawn.score, self.settings.budget.min_width) & (
            drawn.score <= 0
        )
        return drawn._replace(value=drawn.value.masked_fill(forced, 1.0))

    def _update(self, task: Tensor, budget: Tensor) -> None:
        """Take one step of AdamW, given dL/dlogit and the penalty times dR/dlogit.

        The layers' factors act on the heads alone: what flows on into the recurrent part is the plain gradient.
        """
        heads = self.network.heads
        own, other = (
            torch.autograd.grad(self._logits, (*heads, self._leaf), one, retain_graph=True)
            for one in (task, budget)
        )
        rows = [torch.cat((one[0], one[1][:, None]), dim=1) for one in (own, other)]
        combined = self._scaling.combine(*rows)
        self._optimizer.zero_grad(set_to_none=True)
        self._states.backward(own[2] + other[2])
        heads[0].grad, heads[1].grad = combined[:, :-1].contiguous(), combined[:, -1].contiguous()
        self._optimizer.step()

    def _renew(self) -> None:
        """Take the logits of the network as it is now, and show the mask that they stand for."""
        self._states = self.network.states()
        self._leaf = self._states.detach().requires_grad_()
        self._logits = self.network.logits(self._leaf)
        set_latents(self.hyper, torch.ones(self.hyper.plan.size))
        self.hyper.mask.copy_(self._mask())

    def _mask(self) -> Tensor:
        return enforce_min_width(self.hyper.plan, self.scores(), self.settings.budget.min_width)

    def _figures(self) -> dict[str, float]:
        """Return the share of channels that are undecided, and each layer's width and factor."""
        probability = keep_probability(self._logits.detach() + self._own.offset)
        undecided = (probability > AMBIGUOUS[0]) & (probability < AMBIGUOUS[1])
        widths = {
            name: int(mask.sum())
            for name, mask in split_by_group(self.hyper.plan, self.hyper.mask.cpu()).items()
        }
        factors = self._scaling.factors.tolist()
        return {
            "undecided": float(undecided.float().mean()),
            "lr": self._own.lr,
            **{f"width/{name}": float(width) for name, width in widths.items()},
            **{f"scaling/{name}": factor for name, factor in zip(widths, factors, strict=True)},
        }

    def scores(self) -> Tensor:
        """Return logit + offset + the median of the noise: above 0, a channel is kept more often than not."""
        return self._logits.detach() + self._own.offset + MEDIAN

    def state_dict(self) -> dict[str, Any]:
        """Return the structure network, its optimizer, the factors, and where the noise is."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scaling": self._scaling.state_dict(),
            "noise": self._noise.get_state(),
            "level": self._level,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaling.load_state_dict(state["scaling"])
        self._noise.set_state(state["noise"])
        self._level = state["level"]
        self._renew()
