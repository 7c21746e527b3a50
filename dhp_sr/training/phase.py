"""Interface of a phase, and what all phases have in common: a network in training."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dhp_sr.config.schema import Options
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.search import Search as SearchMethod
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.handover import Handover, PrunedModel
from dhp_sr.training.loss import TrainingLoss
from dhp_sr.training.model_writer import ModelWriter
from dhp_sr.training.optimizers import build_optimizer, load_optimizer, set_learning_rate
from dhp_sr.training.schedule import PhaseName, PhaseSpan
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree, load_values


@dataclass(frozen=True)
class RunResources:
    """Objects that all phases of a run share."""

    options: Options
    """Paths resolved."""
    context: DistributedContext
    loss: TrainingLoss
    models: ModelWriter
    latency_benchmark: LatencyBenchmark | None
    """Where the targets are latencies."""


class MovingAverage(AveragedModel):
    """Exponential moving average of a network and of the statistics of its norms.

    Args:
        network: The network, as it is when the average begins.
        decay: Decay per step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(
            network,
            multi_avg_fn=get_ema_multi_avg_fn(decay),
            # Without the statistics of its norms the average of a network with BatchNorm would
            # compute something else than the network.
            use_buffers=True,
        )
        self.requires_grad_(False)
        self._is_averaged: list[bool] = []
        """Whether each buffer is: means of indices are cut off to whole numbers, which moves some
        of them, and the mean of infinities, as in a mask of an attention, is no number."""
        for buffer in self.module.buffers():
            is_finite = bool(torch.isfinite(buffer).all())
            self._is_averaged.append(buffer.is_floating_point() and is_finite)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a step of the average."""
        super().update_parameters(model)
        buffers = zip(self.module.buffers(), model.buffers(), self._is_averaged, strict=True)
        for averaged, current, is_averaged in buffers:
            if not is_averaged:
                averaged.copy_(current)


class Phase(ABC):
    """A phase: a network in training, with its optimizer.

    Attributes:
        network: The network that is trained, on the device of the run.
        optimizer: Optimizer of its weights.
        average: Moving average of the network; None where the phase keeps none.
        pruned_models: One for each target; empty before the network is pruned.
        search: The search method, during the search.
    """

    name: ClassVar[PhaseName]
    network: nn.Module
    optimizer: Optimizer
    average: MovingAverage | None = None
    pruned_models: Sequence[PrunedModel] = ()
    search: SearchMethod | None = None

    def __init__(self, resources: RunResources, span: PhaseSpan) -> None:
        self.resources = resources
        self.span = span

    # ---- the interface

    @abstractmethod
    def enter(self, start: Handover) -> None:
        """Take over the network and make it ready for the first step."""

    @abstractmethod
    def leave(self) -> Handover:
        """Complete the phase; return what the next phase starts from."""

    def step(
        self,
        images: Tensor,
        target: Tensor,
        iteration: int,
        rate: float,
        taught: Tensor | None = None,
    ) -> dict[str, float]:
        """Take a training step.

        Args:
            images: (N, C, h, w), on the device.
            target: Target that the output is compared with, on the device.
            iteration: Steps of the run before this step.
            rate: Learning rate.
            taught: The teacher's output, where it was computed before.

        Returns:
            `loss`, `lr`, and the figures of the search.

        Raises:
            UserError: The loss is not finite. The weights are those of the step before.
        """
        self.observe(images)
        set_learning_rate(self.optimizer, rate)
        self.network.zero_grad(set_to_none=True)
        self.prepare_step(iteration)
        loss = self.resources.loss(self._forward, images, target, taught)
        # The check costs a synchronization with the device, but after the update of the weights
        # it would come too late: the newest state must be a usable one.
        # The mean over the processes, so that all of them see the loss of the whole batch, and all
        # of them stop where it is not finite in any of them.
        value = self.resources.context.mean(loss.item())
        if not math.isfinite(value):
            raise self._divergence(f"the loss is {value} at iteration {iteration + 1}", rate)
        loss.backward()
        return {"loss": value, "lr": rate, **self.update(iteration)}

    def check_weights(self, finished: int) -> None:
        """Check that all weights are finite, before they are scored, pruned or written.

        The gradient of a finite loss may be not a number, as that of a root at zero is. The loss of
        the next step tells, but there may be a state or a model file before it.

        Args:
            finished: Steps of the run so far.

        Raises:
            UserError: Some are not.
        """
        for name, parameter in self.network.named_parameters():
            # What nobody trains, such as the mask of an attention, may hold infinities.
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                fact = f"{name} holds values that are not finite after iteration {finished}"
                raise self._divergence(fact, self.optimizer.param_groups[0]["lr"])

    def network_for_validation(self) -> nn.Module:
        """Return the network whose scores count: the moving average where there is any."""
        return self.network if self.average is None else self.average.module

    def final_networks(self) -> list[nn.Module]:
        """Return the networks that the run hands over, in the order of the targets."""
        return [self.network_for_validation()]

    def ratios(self) -> dict[str, float]:
        """Return the network's cost relative to the dense network, by columns of curves.csv."""
        return {kind.ratio_key: 1.0 for kind in ALWAYS_REPORTED}

    def describe_start(self) -> str:
        """Return a line for the log on what entering the phase did to the network, or nothing."""
        return ""

    def state_dict(self) -> StateTree:
        """Return the state of the phase as a tree of tensors and plain values."""
        state = {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = dict(self.average.state_dict())
        return state

    def load_state_dict(self, state: StateTree, plain: nn.Module) -> None:
        """Enter the phase in a saved state, without the phases before it.

        Args:
            state: As `state_dict` returned it.
            plain: The plain network of a fresh run. Its weights do not matter, since all that
                do are in the state; its structure is what a search converts.
        """
        # Entering builds everything the state is loaded into, in the same order as in an
        # uninterrupted run: parameters must keep their numbers in the optimizer's state.
        self.enter(self.restore_handover(state, plain))
        load_values(self.network, state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            load_values(self.average, state["average"])

    # ---- steps that a phase may do differently

    def restore_handover(self, state: StateTree, plain: nn.Module) -> Handover:
        """Rebuild the handover that the phase was entered with, from a saved state."""
        return Handover(plain)

    def observe(self, images: Tensor) -> None:  # noqa: B027 - most phases need no inputs
        """Look at the inputs of a step, (N, C, h, w), before anything else."""

    def prepare_step(self, iteration: int) -> None:
        """Make the network ready for the forward pass of a step."""
        self.network.train()

    def update(self, iteration: int) -> dict[str, float]:
        """Update the weights by their gradients; return figures for the log."""
        self._step_optimizer()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {}

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the optimizer updates."""
        return self.network.parameters()

    # ---- helpers

    def _divergence(self, fact: str, rate: float) -> UserError:
        """Return the error of a training that diverged."""
        return UserError(
            f"{fact} (phase {self.name}, learning rate {rate:g}); lower train.optim_g.lr, set "
            "train.grad_clip or train.warmup_iter, and start again; this run is kept under another "
            "name"
        )

    def _step_optimizer(self) -> None:
        limit = self.resources.options.train.grad_clip
        if limit is not None:
            nn.utils.clip_grad_norm_(self.trained_parameters(), limit)
        self.optimizer.step()

    def _begin(self, network: nn.Module, *, keep_average: bool) -> None:
        """Move a network to the device and give it an optimizer and, if wanted, an average."""
        context, train = self.resources.context, self.resources.options.train
        self.network = context.to_device(network, channels_last=train.channels_last)
        # After the move, which may replace parameters: an optimizer refers to the objects.
        self.optimizer = build_optimizer(train.optim_g, self.trained_parameters())
        self._forward: Callable[[Tensor], Tensor] = context.average_gradients(self.network)
        if keep_average and train.ema_decay:
            self.average = MovingAverage(self.network, train.ema_decay)
