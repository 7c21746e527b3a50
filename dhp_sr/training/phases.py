"""Phases of a run: dense training, search, and finetuning of each pruned model.

    plain network --(Dense)--> convert --(Search)--> prune --(Finetune)--> first pruned model
                                                       '-----(Finetune)--> second pruned model

Each phase owns the network that it trains, with its optimizer and its moving average. On leaving
it hands over what the next one starts from. All phases share one interface, so nothing else in a
run has to know which of them it is in.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dhp_sr.config.schema import Options
from dhp_sr.cost.latency_benchmark import LatencyBenchmark
from dhp_sr.deploy import load_weights
from dhp_sr.hyper import HyperNet
from dhp_sr.search import Search as SearchMethod
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.loss import TrainingLoss
from dhp_sr.training.model_writer import ModelWriter
from dhp_sr.training.optimizers import (
    OptimizerState,
    build_optimizer,
    load_optimizer,
    named_state,
    set_learning_rate,
    transfer_state,
)
from dhp_sr.training.pruning import (
    PrunedModel,
    convert_network,
    make_budgets,
    prune_for_targets,
    restore_pruned_model,
    start_search,
)
from dhp_sr.training.schedule import PhaseName, PhaseSpan
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED, COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import load_values, stack_samples


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


@dataclass
class Handover:
    """What a phase starts from: the plain network, or the pruned models."""

    network: nn.Module | None = None
    """The plain network that the search converts."""
    optimizer_state: OptimizerState = field(default_factory=dict)
    """State of the optimizer that trained `network`."""
    pruned_models: list[PrunedModel] = field(default_factory=list)
    """One for each target, once the network is pruned."""


class Phase(ABC):
    """One phase: a network in training, with its optimizer.

    Attributes:
        network: The network that is trained, on the device of the run.
        optimizer: Of its weights.
        average: Moving average of the network; None where the phase keeps none.
        pruned_models: One for each target; empty before the network is pruned.
        search: The search method, during the search.
    """

    name: ClassVar[PhaseName]
    network: nn.Module
    optimizer: Optimizer
    average: AveragedModel | None = None
    pruned_models: Sequence[PrunedModel] = ()
    search: SearchMethod | None = None

    def __init__(self, resources: RunResources, span: PhaseSpan) -> None:
        self.resources = resources
        self.span = span

    @abstractmethod
    def enter(self, start: Handover) -> None:
        """Take over the network and make it ready for the first step."""

    @abstractmethod
    def leave(self) -> Handover:
        """Complete the phase; return what the next one starts from."""

    def step(self, images: Tensor, target: Tensor, iteration: int, rate: float) -> dict[str, float]:
        """Take one training step.

        Args:
            images: (N, C, h, w), on the device.
            target: What the output is compared with, on the device.
            iteration: Steps of the run before this one.
            rate: Learning rate.

        Returns:
            `loss`, `lr`, and the figures of the search.

        Raises:
            UserError: The loss is not finite. The weights are those of the step before.
        """
        set_learning_rate(self.optimizer, rate)
        self.network.zero_grad(set_to_none=True)
        self._prepare_step(iteration)
        loss = self.resources.loss(self._forward, images, target)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at iteration {iteration + 1} (phase {self.name}, learning "
                f"rate {rate:g}); lower train.optim_g.lr, set train.grad_clip or "
                "train.warmup_iter, and start again; this run is kept under another name"
            )
        loss.backward()
        return {"loss": value, "lr": rate, **self._update(iteration)}

    def network_for_validation(self) -> nn.Module:
        """Return the network whose scores count: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    def final_networks(self) -> list[nn.Module]:
        """Return the networks that the run hands over, one for each target."""
        return [self.network_for_validation()]

    def ratios(self) -> dict[str, float]:
        """Return the network's cost as fractions of the dense one's, by the columns of curves.csv."""
        return {kind.ratio_key: 1.0 for kind in ALWAYS_REPORTED}

    def describe_start(self) -> str:
        """Return a line for the log on what entering the phase did to the network, or nothing."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the phase as a tree of tensors and plain values."""
        average = None if self.average is None else dict(self.average.state_dict())
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load_state_dict(self, state: dict[str, Any], plain: nn.Module) -> None:
        """Enter the phase in a saved state, without those before it.

        Args:
            state: As `state_dict` returned it.
            plain: The plain network of a fresh run. Its weights do not matter, all that do are
                in the state; its structure is what a search converts.
        """
        self.enter(self._handover_from(state, plain))
        load_values(self.network, state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            load_values(self.average, state["average"])

    def _handover_from(self, state: dict[str, Any], plain: nn.Module) -> Handover:
        return Handover(plain)

    def _prepare_step(self, iteration: int) -> None:
        self.network.train()

    def _update(self, iteration: int) -> dict[str, float]:
        """Update the weights by their gradients; return figures for the log."""
        self._step_optimizer()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {}

    def _step_optimizer(self) -> None:
        limit = self.resources.options.train.grad_clip
        if limit is not None:
            nn.utils.clip_grad_norm_(self._trained_parameters(), limit)
        self.optimizer.step()

    def _trained_parameters(self) -> Iterable[nn.Parameter]:
        return self.network.parameters()

    def _begin(self, network: nn.Module, *, keep_average: bool) -> None:
        """Move a network to the device and give it an optimizer and, if wanted, an average."""
        resources, train = self.resources, self.resources.options.train
        self.network = resources.context.to_device(network, channels_last=train.channels_last)
        self.optimizer = build_optimizer(train.optim_g, self._trained_parameters())
        self._forward: Callable[[Tensor], Tensor] = self._distribute(self.network)
        if keep_average and train.ema_decay:
            # Buffers are averaged, too: with a norm's statistics left out, the average of a
            # network with BatchNorm would be worthless.
            self.average = AveragedModel(
                self.network,
                multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay),
                use_buffers=True,
            )
            self.average.requires_grad_(False)

    def _distribute(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that gradients are averaged over the processes of the run."""
        context = self.resources.context
        if context.world_size == 1:
            return network
        devices = [context.device] if context.device.type == "cuda" else None
        # In the search some weights get no gradient, such as those of fully masked channels.
        return DistributedDataParallel(
            network, device_ids=devices, find_unused_parameters=self.name == "search"
        )


class Dense(Phase):
    """Ordinary training of the plain network."""

    name = "dense"

    def enter(self, start: Handover) -> None:
        """Train the plain network; only a run that ends here keeps a moving average."""
        assert start.network is not None
        # An average is handed over at the end of a run. The search starts from the weights
        # themselves: the optimizer's state belongs to them.
        self._begin(start.network, keep_average=self.resources.options.compress is None)

    def leave(self) -> Handover:
        """Write the dense network, the origin and often the teacher of what follows."""
        self.resources.models.write_dense(self.network)
        self.resources.context.barrier()  # every process may read the file as the teacher
        return Handover(self.network, named_state(self.optimizer, self.network))


class Search(Phase):
    """Search for the channels to keep, on the converted network."""

    name = "search"
    network: HyperNet
    search: SearchMethod
    calibration: list[Tensor]
    """Inputs that the cut networks are corrected on, (C, H, W) each, on the CPU."""

    def enter(self, start: Handover) -> None:
        """Convert the plain network and start the search; the optimizer's state goes along."""
        assert start.network is not None
        resources = self.resources
        hyper = convert_network(start.network, resources.options, resources.context.device)
        self.search = start_search(hyper, resources.options, resources.latency_benchmark)
        self.calibration = []
        self._dense_values = dict(start.network.state_dict())
        self._begin(hyper, keep_average=False)
        if not self.search.trains_weights:
            # Frozen only now: the optimizer keeps their state for the finetuning.
            hyper.network.requires_grad_(False)
        resources.loss.load_teacher(resources.models.dense_file)
        transfer_state(start.optimizer_state, self.optimizer, hyper.network)

    def leave(self) -> Handover:
        """Prune the network once for every target."""
        compress = self.resources.options.compress
        assert compress is not None
        budgets = make_budgets(compress)
        batches, reference = None, None
        if compress.correction is not None:
            device = self.resources.context.device
            batches = [batch.to(device) for batch in stack_samples(self.calibration)]
            reference = self._read_dense_values()
        models = prune_for_targets(
            self.network,
            self.search,
            self.optimizer,
            budgets,
            calibration=batches,
            reference=reference,
        )
        return Handover(pruned_models=models)

    def ratios(self) -> dict[str, float]:
        """Return the masked network's cost as fractions of the dense one's."""
        return {kind.ratio_key: self.network.cost_ratio(kind.name) for kind in ALWAYS_REPORTED}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the phase, that of the search method included."""
        search = self.search.state_dict()
        return {**super().state_dict(), "search": search, "calibration": list(self.calibration)}

    def load_state_dict(self, state: dict[str, Any], plain: nn.Module) -> None:
        """Enter the phase in a saved state, see `Phase.load_state_dict`."""
        super().load_state_dict(state, plain)
        self.search.load_state_dict(state["search"])
        self.calibration = list(state["calibration"])

    def step(self, images: Tensor, target: Tensor, iteration: int, rate: float) -> dict[str, float]:
        """Take one training step, see `Phase.step`; keep the inputs that are needed later."""
        compress = self.resources.options.compress
        assert compress is not None
        missing = 0
        if compress.correction is not None:
            missing = compress.correction.samples - len(self.calibration)
        if missing > 0 or self.search.needs_inputs:
            # Every process sees images of its own, but all must prune and correct alike.
            shared = self.resources.context.broadcast(lambda: images.detach().cpu())
            self.search.observe(shared)
            self.calibration.extend(sample.clone() for sample in shared[: max(0, missing)])
        return super().step(images, target, iteration, rate)

    def _read_dense_values(self) -> Mapping[str, Tensor]:
        """Parameters of the dense network as it was when the search began."""
        file = self.resources.models.dense_file
        values: Mapping[str, Tensor] = self._dense_values
        if file is not None and file.is_file():
            # A resumed run has them in the file alone; one without a folder cannot be resumed.
            values = load_weights(file)
        return {name: value.to(self.network.mask.device) for name, value in values.items()}

    def _prepare_step(self, iteration: int) -> None:
        # With frozen weights, norms must not change their statistics either.
        self.network.train(self.search.trains_weights)
        self.search.prepare(iteration - self.span.start)

    def _update(self, iteration: int) -> dict[str, float]:
        if self.search.trains_weights:
            self._step_optimizer()
        return self.search.step(iteration - self.span.start)

    def _trained_parameters(self) -> Iterable[nn.Parameter]:
        return list(self.network.network_parameters())  # the search itself moves the latents


class Finetune(Phase):
    """Ordinary training of one pruned model."""

    name = "finetune"
    pruned_models: list[PrunedModel]

    @property
    def model(self) -> PrunedModel:
        """The pruned model that is trained."""
        return self.pruned_models[self.span.target]

    def enter(self, start: Handover) -> None:
        """Train the pruned model of this phase; the search's optimizer state goes along."""
        self.pruned_models = start.pruned_models
        self._begin(self.model.network, keep_average=True)
        transfer_state(self.model.optimizer_state, self.optimizer, self.network)
        self.model.optimizer_state = {}  # from now on it is the optimizer's
        self.resources.loss.load_teacher(self.resources.models.dense_file)

    def leave(self) -> Handover:
        """Write the final model of this target; other targets follow."""
        self.model.network = self.network_for_validation()
        self.resources.models.write_final(
            self.model.network,
            self.span.target,
            self.model,
            is_average=self.average is not None,
        )
        return Handover(pruned_models=self.pruned_models)

    def final_networks(self) -> list[nn.Module]:
        """Return the network of every target: finished, in training, or freshly pruned."""
        networks = [model.network for model in self.pruned_models]
        networks[self.span.target] = self.network_for_validation()
        return networks

    def ratios(self) -> dict[str, float]:
        """Return the pruned network's cost as fractions of the dense one's."""
        achieved = self.model.achieved
        return {kind.ratio_key: achieved.get(kind.ratio_key, 1.0) for kind in ALWAYS_REPORTED}

    def describe_start(self) -> str:
        """Return the kept fractions of the pruned model."""
        kept = []
        for kind in COST_KINDS.values():
            key = kind.measured_ratio_key if kind.is_measured else kind.ratio_key
            label = f"measured {kind.label}" if kind.is_measured else kind.label
            if key in self.model.achieved:
                kept.append(f"{self.model.achieved[key]:.2%} of the {label}")
        return "cut to " + ", ".join(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the phase, all pruned models included."""
        models = [model.state_dict() for model in self.pruned_models]
        return {**super().state_dict(), "pruned_models": models}

    def _handover_from(self, state: dict[str, Any], plain: nn.Module) -> Handover:
        resources = self.resources
        hyper = convert_network(plain, resources.options, resources.context.device)
        models = [restore_pruned_model(hyper, model) for model in state["pruned_models"]]
        return Handover(pruned_models=models)


PHASES: dict[PhaseName, type[Phase]] = {phase.name: phase for phase in (Dense, Search, Finetune)}
"""Name of a phase -> its class."""
