"""Schedule of a run: its phases and its learning rate, as pure functions of the iteration.

    dense -> search -> finetune the first pruned model -> finetune the second -> ...

With several targets the network is searched once and pruned once for each of them. All pruned
models are finetuned for the same number of iterations, with the learning rates that a run with
a single target has after its search.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dhp_sr.config.schema import Options
from dhp_sr.config.section import Scheduler
from dhp_sr.utils.errors import UserError

PhaseName = Literal["dense", "search", "finetune"]


@dataclass(frozen=True)
class PhaseSpan:
    """Iterations of a phase."""

    name: PhaseName
    start: int
    """Number of finished iterations at which the phase begins."""
    end: int
    """Number of finished iterations at which it ends."""
    target: int = 0
    """Index of the pruned model that is finetuned, from 0; 0 in the other phases."""


@dataclass(frozen=True)
class Schedule:
    """Phases and learning rates of a run; steps are counted from 0."""

    total_iter: int
    """Iterations of all phases together, with a single target."""
    dense_iter: int
    """Iterations before the search; `total_iter` in a run without a search."""
    search_iter: int
    """Iterations of the search."""
    has_search: bool
    """Whether there is a search; otherwise the whole run is a dense phase."""
    base_lr: float
    """Learning rate before scheduling."""
    scheduler: Scheduler
    """Scheduler of the run, or of finetuning alone where `search_scheduler` is given."""
    search_scheduler: Scheduler | None = None
    """Scheduler of dense training and search together."""
    warmup_iter: int = 0
    """Iterations of linear warm-up at the start."""
    rewarm: bool = False
    """Whether the warm-up is repeated when finetuning begins."""
    num_targets: int = 1
    """Number of pruned models."""

    @classmethod
    def from_options(cls, options: Options) -> "Schedule":
        """Read the phases from the sections `compress` and `train`.

        Raises:
            UserError: Dense training and search together are longer than the run.
        """
        train, compress = options.train, options.compress
        if compress is None:
            # The whole run is dense training, so that nothing below has to ask for a search.
            return cls(
                total_iter=train.total_iter,
                dense_iter=train.total_iter,
                search_iter=0,
                has_search=False,
                base_lr=train.optim_g.lr,
                scheduler=train.scheduler,
                warmup_iter=train.warmup_iter,
            )
        before_pruning = compress.dense_iter + compress.search_iter
        if before_pruning > train.total_iter:
            raise UserError(
                f"expected compress.dense_iter (={compress.dense_iter}) + compress.search_iter "
                f"(={compress.search_iter}) <= train.total_iter (={train.total_iter}), got "
                f"{before_pruning}; lengthen the run or shorten the phases"
            )
        # Weights of the parametrization "full" are outputs of hypernetworks, so the optimizer
        # state of the search says nothing about the pruned weights and finetuning starts cold.
        starts_cold = compress.parametrization == "full"
        return cls(
            total_iter=train.total_iter,
            dense_iter=compress.dense_iter,
            search_iter=compress.search_iter,
            has_search=True,
            base_lr=train.optim_g.lr,
            scheduler=train.scheduler,
            search_scheduler=compress.scheduler,
            warmup_iter=train.warmup_iter,
            rewarm=starts_cold or compress.scheduler is not None,
            num_targets=len(compress.targets),
        )

    @property
    def prune_at(self) -> int:
        """Finished iterations at which the network is pruned; beyond the run without a search."""
        if not self.has_search:
            return self.total_iter + 1
        return self.dense_iter + self.search_iter

    @property
    def finetune_iter(self) -> int:
        """Iterations that each pruned model is finetuned for."""
        return max(0, self.total_iter - self.prune_at)

    @property
    def end(self) -> int:
        """Iterations of the run, those of all pruned models included."""
        return self.total_iter + (self.num_targets - 1) * self.finetune_iter

    @property
    def spans(self) -> tuple[PhaseSpan, ...]:
        """The phases in their order, with a finetuning phase for each target."""
        if not self.has_search:
            return (PhaseSpan("dense", 0, self.total_iter),)
        spans = [
            PhaseSpan("dense", 0, self.dense_iter),
            PhaseSpan("search", self.dense_iter, self.prune_at),
        ]
        for target in range(self.num_targets):
            start = self.prune_at + target * self.finetune_iter
            spans.append(PhaseSpan("finetune", start, start + self.finetune_iter, target))
        return tuple(spans)

    @property
    def milestones(self) -> tuple[int, ...]:
        """Finished iterations at which a final network is complete; the last is `end`."""
        return tuple(
            self.total_iter + index * self.finetune_iter for index in range(self.num_targets)
        )

    def target_index(self, iteration: int) -> int:
        """Return the index of the pruned model that step `iteration` trains; 0 before pruning."""
        if iteration < self.prune_at or not self.finetune_iter:
            return 0
        return min(self.num_targets - 1, (iteration - self.prune_at) // self.finetune_iter)

    def phase(self, iteration: int) -> PhaseName:
        """Return the phase of step `iteration`; for `end` that in which the run ends."""
        if not self.has_search or iteration < self.dense_iter:
            return "dense"
        return "search" if iteration < self.prune_at else "finetune"

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate of step `iteration`, warm-up included."""
        # Every target repeats the iterations of the first.
        iteration -= self.target_index(iteration) * self.finetune_iter
        is_pruned = iteration >= self.prune_at
        phase_start = 0
        if is_pruned:
            phase_start = self.prune_at

        warmup = 1.0
        if self.warmup_iter:
            warm_since = phase_start if self.rewarm else 0
            warmup = min(1.0, (iteration - warm_since + 1) / self.warmup_iter)

        # A single scheduler spans the run; two of them split it where the network is pruned.
        scheduler = self.scheduler
        step = iteration
        length = self.total_iter
        if self.search_scheduler is not None and is_pruned:
            step = iteration - phase_start
            length = self.finetune_iter
        elif self.search_scheduler is not None:
            scheduler = self.search_scheduler
            length = self.prune_at
        return warmup * learning_rate(scheduler, self.base_lr, step, length)


def learning_rate(scheduler: Scheduler, base: float, step: int, length: int) -> float:
    """Return the learning rate of a step by a closed formula.

    cosine: `eta_min + (base - eta_min) (1 + cos(pi step / length)) / 2` (Loshchilov and Hutter,
    SGDR, ICLR 2017, equation 5, without restarts); multistep: `base gamma^(milestones reached)`.

    A formula has no state, so a resumed run needs none and cannot drift from a straight run.

    Args:
        scheduler: Its type and parameters.
        base: Learning rate at the start.
        step: Step, from 0.
        length: Number of steps that the scheduler spans.
    """
    if scheduler.type == "cosine":
        fraction = (1 + math.cos(math.pi * step / max(length, 1))) / 2
        return scheduler.eta_min + (base - scheduler.eta_min) * fraction
    if scheduler.type == "multistep":
        reached = sum(milestone <= step for milestone in scheduler.milestones)
        return base * scheduler.gamma**reached
    return base
