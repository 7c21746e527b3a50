"""Which phase an iteration belongs to, and its learning rate: pure functions of the iteration.

    dense -> search -> finetune the first target's network -> finetune the second one's -> ...

Each target has a leg of its own after the cut. All legs are equally long, and each has the learning rates that a run
with one target has after its cut.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dhp_sr.config.compress import Scheduler
from dhp_sr.config.schema import Options
from dhp_sr.utils.errors import UserError

PhaseName = Literal["dense", "search", "finetune"]


def learning_rate(scheduler: Scheduler, base: float, step: int, length: int) -> float:
    """Return the learning rate of step `step` (from 0) of `length` steps, by closed formula.

    cosine: `eta_min + (base - eta_min) (1 + cos(pi step / length)) / 2`; multistep: `base gamma^(milestones reached)`.
    """
    if scheduler.type == "cosine":
        return (
            scheduler.eta_min
            + (base - scheduler.eta_min) * (1 + math.cos(math.pi * step / max(length, 1))) / 2
        )
    if scheduler.type == "multistep":
        return base * scheduler.gamma ** sum(
            milestone <= step for milestone in scheduler.milestones
        )
    return base


@dataclass(frozen=True)
class Schedule:
    """The phases of a run, in iterations counted from 0: dense -> search -> (cut) -> finetune.

    Attributes:
        total_iter: Iterations of all phases together, with one target.
        dense_iter: Iterations before the search; `total_iter` in a run without one.
        search_iter: Iterations of the search.
        searches: Whether there is a search; without, the whole run is one dense phase.
        base_lr: Learning rate before scheduling.
        late: The schedule of the run, or of finetuning alone where `early` is given.
        early: Own schedule of dense training and search.
        warmup_iter: Iterations of linear warm-up at the start.
        warms_again: Whether they are repeated after the cut, where the optimizer is fresh or the rate starts anew.
        legs: Networks to finetune, one for each target.
    """

    total_iter: int
    dense_iter: int
    search_iter: int
    searches: bool
    base_lr: float
    late: Scheduler
    early: Scheduler | None = None
    warmup_iter: int = 0
    warms_again: bool = False
    legs: int = 1

    @classmethod
    def from_options(cls, options: Options) -> "Schedule":
        """Read the phases from `compress` and `train`.

        Raises:
            UserError: dense training and search together are longer than the run.
        """
        train, compress = options.train, options.compress
        dense, search = (
            (compress.dense_iter, compress.search_iter) if compress else (train.total_iter, 0)
        )
        if dense + search > train.total_iter:
            raise UserError(
                f"expected compress.dense_iter (={dense}) + compress.search_iter (={search}) <= train.total_iter "
                f"(={train.total_iter}), found {dense + search}; lengthen the run or shorten the phases"
            )
        early = compress.scheduler if compress else None
        base = train.optim_g.lr
        late, warmup, legs = (
            train.scheduler,
            train.warmup_iter,
            len(compress.targets) if compress else 1,
        )
        again = early is not None or (compress is not None and compress.parametrization == "full")
        return cls(
            train.total_iter,
            dense,
            search,
            compress is not None,
            base,
            late,
            early,
            warmup,
            again,
            legs,
        )

    @property
    def cut_at(self) -> int:
        """The number of finished iterations at which the network is cut; beyond the run where there is no search."""
        return self.dense_iter + self.search_iter if self.searches else self.total_iter + 1

    @property
    def leg_iter(self) -> int:
        """Iterations of each leg."""
        return max(0, self.total_iter - self.cut_at)

    @property
    def end(self) -> int:
        """Iterations of the run, all legs included."""
        return self.total_iter + (self.legs - 1) * self.leg_iter

    @property
    def stages(self) -> tuple[int, ...]:
        """The numbers of finished iterations at which a network is finished, the run's end the last."""
        return tuple(self.total_iter + leg * self.leg_iter for leg in range(self.legs))

    def leg(self, iteration: int) -> int:
        """Return the leg of step `iteration`, from 0; before the cut the first one."""
        if iteration < self.cut_at or not self.leg_iter:
            return 0
        return min(self.legs - 1, (iteration - self.cut_at) // self.leg_iter)

    def phase(self, iteration: int) -> PhaseName:
        """Return the phase in which step `iteration` (from 0) is taken; at `end`, that in which the run ends."""
        if not self.searches or iteration < self.dense_iter:
            return "dense"
        return "search" if iteration < self.cut_at else "finetune"

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate of step `iteration` (from 0), warm-up included."""
        iteration -= self.leg(iteration) * self.leg_iter
        after_cut = iteration >= self.cut_at
        fresh_at = self.cut_at if after_cut else 0
        since = iteration - (fresh_at if self.warms_again else 0)
        warm = min(1.0, (since + 1) / self.warmup_iter) if self.warmup_iter else 1.0
        if self.early is None:
            return warm * learning_rate(self.late, self.base_lr, iteration, self.total_iter)
        length = self.total_iter - self.cut_at if after_cut else self.cut_at
        scheduler = self.late if after_cut else self.early
        return warm * learning_rate(scheduler, self.base_lr, iteration - fresh_at, length)
