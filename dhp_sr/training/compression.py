"""The network of a run in its three states: plain, with latents, and cut.

    plain network --(dense)--> convert --(search)--> cut --(finetune)--> plain, smaller network
                                                      |--(finetune)--> another, for the next target

Each state has its own optimizer. `advance` moves from state to state, `step` takes one training step.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dhp_sr.config.schema import Options
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.losses import Objective
from dhp_sr.training.optimizers import (
    build_optimizer,
    carry_moments,
    give_moments,
    restore,
    set_learning_rate,
)
from dhp_sr.training.pruned_models import Leg, cut_legs, restore_leg
from dhp_sr.training.schedule import PhaseName, Schedule
from dhp_sr.training.search_setup import (
    begin_search,
    convert_plain,
    make_budgets,
    make_latency_benchmark,
    rehearse,
)
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import load_values
from dhp_sr.zoo.networks import load_file


class Compression:
    """A network in training, from dense to cut.

    Attributes:
        network: What is trained now: a plain network, or a HyperNet during the search.
        phase: The phase that `network` is in.
        average: The moving average of the network to be handed over, else None.
        legs: The cut networks, one for each target; empty before the cut.
        leg: Which of them is trained.
    """

    def __init__(
        self,
        options: Options,
        place: DistributedContext,
        dense_file: Path,
        keep_dense: Callable[[nn.Module], None] = lambda _: None,
        keep_leg: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Build the plain network, or load it from `path.pretrain_network_g`.

        Args:
            options: The run's options, paths resolved.
            place: Where to compute.
            dense_file: The dense network as it was when the search began; read where it is the teacher.
            keep_dense: Called with the plain network when the search begins, to write `dense_file`.
            keep_leg: Called with the number of a leg that is finished while others follow.

        Raises:
            UserError: the network cannot be built, or the weights do not fit it.
        """
        self.options, self.place, self.dense_file = options, place, dense_file
        self.keep_dense, self.keep_leg = keep_dense, keep_leg
        self.schedule = Schedule.from_options(options)
        self.task = task_of(options)
        self.objective = Objective(options, place)
        self.average: AveragedModel | None = None
        self.search: Any = None
        self.legs: list[Leg] = []
        self.leg = 0
        network = self.task.build_network(options)
        pretrained = options.path.pretrain_network_g
        if pretrained:
            load_file(network, pretrained)
        table = (
            dense_file.parent.parent / "latency_table.json"
            if dense_file.parent.parent.name
            else None
        )
        self.latency_benchmark = make_latency_benchmark(network, options, place, table)
        self._enter("dense", network)

    @property
    def report(self) -> dict[str, Any]:
        """Facts of the network that is finetuned, see `Leg.report`; empty before the cut."""
        return self.legs[self.leg].report if self.legs else {}

    def rehearse(self) -> None:
        """Convert, prune and cut a copy, so that what would fail after hours of training fails before them.

        Raises:
            UserError: the network cannot be traced, the budget cannot be met, method and preset do not fit, a pattern
                excludes nothing, a cut network computes something else, or the teacher's file does not fit.
        """
        if self.options.compress is not None:
            rehearse(self.network, self.options, self.place, self.latency_benchmark)

    def advance(self, iteration: int) -> list[PhaseName]:
        """Bring the network into the state for step `iteration` (from 0); return the phases entered on the way."""
        entered: list[PhaseName] = []
        wanted = self.schedule.phase(iteration)
        if self.phase == "dense" and wanted != "dense":
            self.keep_dense(self.network)
            self.place.barrier()
            self._begin_search()
            entered.append("search")
        if self.phase == "search" and wanted == "finetune":
            self.legs = cut_legs(
                self.network, self.search, self.optimizer, make_budgets(self.options.compress)
            )
            self._finetune(0)
            entered.append("finetune")
        while self.phase == "finetune" and self.leg < self.schedule.leg(iteration):
            self.legs[self.leg].network = self.for_validation()
            self.keep_leg(self.leg)
            self._finetune(self.leg + 1)
            entered.append("finetune")
        return entered

    def step(self, batch: dict[str, Any], iteration: int) -> dict[str, float]:
        """Take training step `iteration` (from 0).

        Args:
            batch: the task's two `batch_keys`: images (N, C, h, w), and what the output is compared with.
            iteration: The number of steps taken before.

        Returns:
            loss, lr, and what the search reports.

        Raises:
            UserError: the loss is not finite. The weights are those of the step before.
        """
        channels_last = self.options.train.channels_last
        images, truth = (
            self.place.to_device(batch[key], channels_last=channels_last)
            for key in self.task.batch_keys
        )
        rate = self.schedule.learning_rate(iteration)
        set_learning_rate(self.optimizer, rate)
        trains = self.search is None or self.search.trains_weights
        self.network.train(trains)
        self.network.zero_grad(set_to_none=True)
        if self.search is not None:
            self.search.prepare(iteration - self.schedule.dense_iter)
        loss = self.objective(self.forward, images, truth)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at iteration {iteration + 1} (phase {self.phase}, learning rate {rate:g}); lower "
                "train.optim_g.lr, set train.grad_clip or train.warmup_iter, and start again; this run is kept under "
                "another name"
            )
        loss.backward()
        if trains:
            self._step_weights()
        log = {"loss": value, "lr": rate}
        if self.search is not None:
            log |= self.search.step(iteration - self.schedule.dense_iter)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return log

    def _step_weights(self) -> None:
        if self.options.train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._trained(), self.options.train.grad_clip)
        self.optimizer.step()

    def ratios(self) -> dict[str, float]:
        """Return the network's cost now, as fractions of the dense one's, by the keys of the curves."""
        if self.phase == "search":
            return {kind.ratio_key: self.network.cost_ratio(kind.name) for kind in ALWAYS_REPORTED}
        return {kind.ratio_key: self.report.get(kind.ratio_key, 1.0) for kind in ALWAYS_REPORTED}

    def for_validation(self) -> nn.Module:
        """Return the network whose scores count: the moving average where there is one."""
        return self.network if self.average is None else self.average.module

    def finals(self) -> list[nn.Module]:
        """Return the networks to hand over, one for each leg; the dense one of a run without search."""
        networks = [leg.network for leg in self.legs] or [self.network]
        networks[self.leg] = self.for_validation()
        return networks

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on, as a tree of tensors and plain values."""
        return {
            "phase": self.phase,
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "search": self.search.state_dict() if self.search is not None else None,
            "average": dict(self.average.state_dict()) if self.average is not None else None,
            "legs": [leg.state_dict() for leg in self.legs],
            "leg": self.leg,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, whatever phase it is of; to be called on a fresh object."""
        if state["phase"] == "search":
            self._begin_search()
        if state["phase"] == "finetune":
            hyper = convert_plain(self.network, self.options, self.place)
            self.legs = [restore_leg(hyper, leg) for leg in state["legs"]]
            self._finetune(state["leg"])
        load_values(self.network, state["network"])
        restore(self.optimizer, state["optimizer"])
        if self.search is not None:
            self.search.load_state_dict(state["search"])
        if self.average is not None:
            load_values(self.average, state["average"])

    def _begin_search(self) -> None:
        plain, moments = self.network, self.optimizer
        hyper = convert_plain(plain, self.options, self.place)
        self.search = begin_search(hyper, self.options, self.latency_benchmark)
        self._enter("search", hyper)
        self.objective.meet_teacher(self.dense_file)
        carry_moments(moments, plain, self.optimizer, hyper.network)

    def _finetune(self, leg: int) -> None:
        self.search, self.leg = None, leg
        self._enter("finetune", self.legs[leg].network)
        give_moments(self.optimizer, self.network, self.legs[leg].moments)
        self.legs[leg].moments = {}
        self.objective.meet_teacher(self.dense_file)

    def _enter(self, phase: PhaseName, network: nn.Module) -> None:
        """Make `network` the one that is trained, with an optimizer of its own."""
        self.phase, self.network = (
            phase,
            self.place.to_device(network, channels_last=self.options.train.channels_last),
        )
        self.optimizer = build_optimizer(self.options.train.optim_g, self._trained())
        if phase == "search" and not self.search.trains_weights:
            self.network.network.requires_grad_(
                False
            )  # the optimizer keeps their moments for the finetuning
        self.forward: Callable[[Tensor], Tensor] = self._distribute(self.network)
        decay = self.options.train.ema_decay
        if decay and (phase == "finetune" or not self.schedule.searches):
            self.average = AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
            )
            self.average.requires_grad_(False)

    def _trained(self) -> list[nn.Parameter]:
        return list(
            self.network.network_parameters()
            if self.phase == "search"
            else self.network.parameters()
        )

    def _distribute(self, network: nn.Module) -> nn.Module:
        if self.place.world_size == 1:
            return network
        devices = [self.place.device] if self.place.device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=devices, find_unused_parameters=self.phase == "search"
        )
