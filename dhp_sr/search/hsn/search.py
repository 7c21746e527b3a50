"""HSN: a network that generates the structure, trained through gates while the weights are frozen.

    fixed inputs -> structure network -> logits -> gates -> loss of the gated network
                                               '-> gates -> cost -> cost regularizer

    J = L(gated network) + penalty * R(kept fraction, target)

Weights and norm statistics stay those of the network that the search starts from. The full text of
the paper was not at hand: what is known of the method is its abstract and later code of its
authors. Where these leave a choice, the modules of this package state what was chosen.

Reference:
    Gao et al., Model Compression via Hyper-Structure Network, 2020 (OpenReview Oc-Aedbjq0).
"""

from typing import final

import torch
from torch import Tensor

from dhp_sr.allocation.candidates import enforce_min_width
from dhp_sr.hyper import HyperNet
from dhp_sr.hyper.gated import use_gates
from dhp_sr.search.base import HSNSettings, Search, SearchSettings, latent_gradients, set_latents
from dhp_sr.search.hsn.objective import COST_REGULARIZERS, LayerScaling
from dhp_sr.search.hsn.structure import (
    GUMBEL_MEDIAN,
    GateSample,
    StructureNetwork,
    keep_probability,
    sample_gates,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree

EMA_DECAY = 0.9
"""Decay per step of the running mean of the loss gradient's norm."""

AMBIGUOUS = (0.05, 0.95)
"""A gate is ambiguous while its keep probability is between these."""


@final
class HSN(Search):
    """Trains a structure network; a channel is kept if its gate is open more often than not.

    Ours, where the sources are silent or err:

    - The budget is a fraction of the whole network's cost, as everywhere here; their code leaves
      out what it cannot prune. A depthwise layer costs what its kept channels cost; in theirs the
      square of their fraction.
    - Gates act where a channel is read, which equals a gate behind the activation (`hyper.gated`).
    - No group falls below `min_width`, in no sample, so the regularized cost is that of the cut.
    - The mask is the median sample, without noise, of the last step; theirs samples again. The
      regularizer has the cost of this mask and the gradient of a second sample. Theirs has the
      cost of the sample, which differs while gates are ambiguous: on MobileNetV2 that search ended
      at 0.50 instead of 0.46.
    - All training images are used, not a small subset.

    Args:
        hyper: Converted with parametrization `factored`, all latents at 1.
        settings: Budget, length and seed; `HSNSettings` as its `method_options`.

    Raises:
        UserError: The network has another parametrization.
    """

    trains_weights = False

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        options = HSNSettings(**settings.method_options)
        self._options = options
        # Weights that are frozen may be gated by latents that multiply them, see `Gated`.
        try:
            use_gates(hyper)
        except ValueError as error:
            raise UserError(
                f"compress.method hsn: {error}; set compress.parametrization: factored"
            ) from error
        widths = [group.width for group in hyper.plan.prunable]
        self.network = StructureNetwork(widths, settings.seed)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self._scaling = LayerScaling(
            self.network.layer_of_row, options.layer_scaling, options.scaling_lr
        )
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._loss_gradient_norm: float | None = None
        """Running mean of the norm of the loss's gradient on the logits; None before step 0."""
        self._refresh()

    def prepare(self, iteration: int) -> None:
        """Sample the gates of the next forward."""
        self._task_gates = self._sample(soft=self._options.task_gates == "soft")
        # Latents act as gates; a mask would stop the gradient of closed gates.
        self.hyper.mask.fill_(True)
        set_latents(self.hyper, self._task_gates.values)

    def step(self, iteration: int) -> dict[str, float]:
        """Train the structure network by the gradients of loss and cost on the logits.

        Raises:
            UserError: The gradient of the loss is not finite.
        """
        loss_gradient = latent_gradients(self.hyper, iteration).cpu()
        loss_gradient *= self._task_gates.gradients
        # Independent of the gates that the loss saw, as in the authors' code.
        cost_gates = self._sample()
        kind = self.settings.budget.kind
        dense_cost = self.hyper.dense_cost()[kind]
        regularized = self._mask() if self._options.cost_gates == "mask" else cost_gates.values
        kept_ratio = self.hyper.cost_ratio(kind, regularized)
        progress = iteration / self.settings.iterations
        target = target_schedule(
            progress, self.settings.budget.keep_ratio, self._options.target_ramp
        )
        # Chain rule: dR/dlogit = dR/dratio * dratio/dgate * dgate/dlogit.
        regularizer = COST_REGULARIZERS[self._options.cost_regularizer]
        value, derivative = regularizer(kept_ratio, target)
        marginal_cost = (self.hyper.costs.marginal(cost_gates.values, kind) / dense_cost).float()
        cost_gradient = derivative * marginal_cost * cost_gates.gradients
        penalty = self._penalty(loss_gradient, cost_gradient)
        self._update(loss_gradient, penalty * cost_gradient)
        self._refresh()
        return {
            **self.ratios(),
            "regularized_ratio": kept_ratio,
            "target_ratio": target,
            "cost_regularizer": value,
            "penalty": penalty,
            **self._gate_figures(),
        }

    def _penalty(self, loss_gradient: Tensor, cost_gradient: Tensor) -> float:
        """Return the weight of the regularizer: as given, or such that both gradients balance.

        Balancing is ours. The scale of a loss says little about its gradient on the gates: with
        the weight that suits cross-entropy, a pixel loss 20 times smaller has no influence until
        the budget is met, and the momentum left from the regularizer's large gradients keeps the
        gates where they fell for long after.
        """
        norm = float(loss_gradient.norm())
        if self._loss_gradient_norm is None:
            self._loss_gradient_norm = norm
        else:
            decayed = EMA_DECAY * self._loss_gradient_norm
            self._loss_gradient_norm = decayed + (1 - EMA_DECAY) * norm
        if self._options.penalty is not None:
            return self._options.penalty
        cost_gradient_norm = float(cost_gradient.norm())
        if cost_gradient_norm == 0:
            return 0.0
        return self._options.gradient_balance * self._loss_gradient_norm / cost_gradient_norm

    def _sample(self, *, soft: bool = False) -> GateSample:
        """Sample gates with at least the minimum width of each group open."""
        # Detached: gradients by the logits are put together in `step`, from those of the gates.
        biased_logits = self._logits.detach() + self._options.logit_bias
        sample = sample_gates(biased_logits, self._options.temperature, self._generator, soft=soft)
        min_width = self.settings.budget.min_width
        is_open = enforce_min_width(self.hyper.plan, sample.noisy_logits, min_width)
        forced_open = is_open & (sample.noisy_logits <= 0)
        return sample._replace(values=sample.values.masked_fill(forced_open, 1.0))

    def _update(self, loss_gradient: Tensor, cost_gradient: Tensor) -> None:
        """Take a step of AdamW.

        The factors of the layers act on the heads alone; the gradient that flows on into the
        recurrent network is the plain sum. So the graph is cut between the two at `_leaf_states`,
        and backward runs in two stages:

            recurrent network --> states | leaf states --> heads --> logits
              <--- 2. backward of the sum |  <--- 1. grad, for loss and cost separately

        Args:
            loss_gradient: (channels,) dL/dlogit.
            cost_gradient: (channels,) penalty * dR/dlogit.
        """
        direction, length = self.network.heads
        inputs = (direction, length, self._leaf_states)
        head_gradients = []
        state_gradients = []
        for gradient in (loss_gradient, cost_gradient):
            of_direction, of_length, of_states = torch.autograd.grad(
                self._logits, inputs, gradient, retain_graph=True
            )
            head_gradients.append(torch.cat((of_direction, of_length[:, None]), dim=1))
            state_gradients.append(of_states)
        combined = self._scaling.combine(*head_gradients)
        # Before the backward, whose gradients would be added to those of the last step.
        self._optimizer.zero_grad(set_to_none=True)
        self._states.backward(state_gradients[0] + state_gradients[1])
        # Those of the heads are set by hand: no backward reaches them.
        direction.grad = combined[:, :-1].contiguous()
        length.grad = combined[:, -1].contiguous()
        self._optimizer.step()

    def _refresh(self) -> None:
        """Compute the logits of the structure network as it is now, and set the mask they imply.

        Between steps the network is masked, not gated, so that validation, checkpoints and the cut
        see what would be kept.
        """
        self._states = self.network.states()
        self._leaf_states = self._states.detach().requires_grad_()
        self._logits = self.network.logits(self._leaf_states)
        set_latents(self.hyper, torch.ones(self.hyper.plan.size))
        self.hyper.mask.copy_(self._mask())

    def _mask(self) -> Tensor:
        return enforce_min_width(self.hyper.plan, self.scores(), self.settings.budget.min_width)

    def _gate_figures(self) -> dict[str, float]:
        """Return the share of ambiguous gates, and the width and factor of each group."""
        probability = keep_probability(self._logits.detach() + self._options.logit_bias)
        ambiguous = (probability > AMBIGUOUS[0]) & (probability < AMBIGUOUS[1])
        figures = {"ambiguous": float(ambiguous.float().mean()), "lr": self._options.lr}
        masks = self.hyper.plan.split(self.hyper.mask.cpu())
        for name, mask in masks.items():
            figures[f"width/{name}"] = float(mask.sum())
        for name, factor in zip(masks, self._scaling.factors.tolist(), strict=True):
            figures[f"scaling/{name}"] = factor
        return figures

    def scores(self) -> Tensor:
        """Return logit + bias + median noise: above 0 if a gate is open more often than not."""
        return self._logits.detach() + self._options.logit_bias + GUMBEL_MEDIAN

    def state_dict(self) -> StateTree:
        """Return the structure network, its optimizer, the factors, and the state of the noise."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "scaling": self._scaling.state_dict(),
            "generator": self._generator.get_state(),
            "loss_gradient_norm": self._loss_gradient_norm,
        }

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaling.load_state_dict(state["scaling"])
        # Only the state of the noise, not the current sample: `prepare` draws anew in every step.
        self._generator.set_state(state["generator"])
        self._loss_gradient_norm = state["loss_gradient_norm"]
        self._refresh()


def target_schedule(progress: float, keep_ratio: float, ramp: float) -> float:
    """Return the target fraction of the cost: linear from 1 to the budget, then constant.

    Args:
        progress: 0 at the start of the search, 1 at its end.
        keep_ratio: Kept fraction of the budget.
        ramp: Fraction of the search in which the target falls; 0: the budget from the start.
    """
    elapsed = min(1.0, progress / ramp) if ramp else 1.0
    return 1 - (1 - keep_ratio) * elapsed
