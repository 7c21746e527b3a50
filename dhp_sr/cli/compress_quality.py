"""The smallest network that loses no more than so many dB, from one search.

The widths for a budget, and the corrected cut to them, take seconds; so budgets are bisected on
held-out images. Finetuning improves what is found, so the bound is on the safe side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.config.schema import Options
from dhp_sr.data.sampler import train_batches
from dhp_sr.hyper import HyperNet
from dhp_sr.search import SearchSettings, build_search
from dhp_sr.tasks import task_of
from dhp_sr.utils.cost_kinds import DEFAULT_ROUND_TO
from dhp_sr.utils.errors import UserError

LEVEL_DB = 30.0
"""PSNR of the original that is assumed where there are no ground truths to measure it with."""

LARGEST_RATIO = 0.95
NUM_BISECTIONS = 5
GENERATIONS = 20
"""Choices of widths tried for each of the budgets; the run itself tries more."""

CORRECTION_BATCHES = 4


@dataclass(frozen=True)
class QualityBound:
    """Lower bound of the scores on held-out images that an allowed loss in dB stands for."""

    loss_db: float
    """Loss that is allowed."""
    dense_db: float | None
    """PSNR of the original to the ground truths; None where there are none."""

    @property
    def least_db(self) -> float:
        """Least PSNR that is allowed: to the ground truths, or to the original's output.

        A difference from the original that is independent of the original's own error adds to the
        squared error: a loss of q dB at level L is a PSNR of L - 10 log10(10^(q/10) - 1).
        """
        if self.dense_db is not None:
            return self.dense_db - self.loss_db
        return LEVEL_DB - 10 * math.log10(10 ** (self.loss_db / 10) - 1)

    def describe(self) -> str:
        """Say the level."""
        if self.dense_db is not None:
            return (
                f"quality {self.loss_db:g}: at least {self.least_db:.2f} dB to the ground truths, "
                f"where the original has {self.dense_db:.2f} dB"
            )
        return (
            f"quality {self.loss_db:g}: at least {self.least_db:.2f} dB to the original's output, "
            f"which is {self.loss_db:g} dB lost at a level of {LEVEL_DB:g} dB to the ground truth"
        )


def find_keep_ratio(
    hyper: HyperNet,
    network: nn.Module,
    options: Options,
    loss_db: float,
    least: float,
    note: Callable[[str], None],
) -> float:
    """Bisect the fraction of multiply-adds to keep.

    Args:
        hyper: The converted network; its masks are changed and restored.
        network: The original.
        options: Options of the run, with any target.
        loss_db: That may be lost on the held-out images.
        least: Least possible fraction.
        note: Takes lines for the user.

    Raises:
        UserError: Even the largest fraction loses more.
    """
    held_out = HeldOutScore(options)
    dense_db = held_out.measure(network) if held_out.has_truths else None
    # Truths that the original made itself: what is lost against them is lost against its output.
    if dense_db is not None and math.isinf(dense_db):
        dense_db = None
    bound = QualityBound(loss_db, dense_db)
    note(bound.describe())
    cuts = CorrectedCuts(hyper, options)

    def is_enough(ratio: float) -> bool:
        small = cuts.cut(ratio)
        if small is None:
            return False
        score = held_out.measure(small)
        note(f"  keeping {ratio:.1%} of the MACs: {score:.2f} dB after the corrected cut")
        return score >= bound.least_db

    low, high = least, LARGEST_RATIO
    if not is_enough(high):
        raise UserError(
            f"--target quality={loss_db:g}: even {LARGEST_RATIO:.0%} of the multiply-adds lose "
            "more before finetuning; allow more dB, or ask for macs"
        )
    # `high` is always enough: what is returned has been measured, never extrapolated.
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    note(f"smallest that stays within it: {high:.1%} of the MACs")
    return round(high, 4)


class HeldOutScore:
    """PSNR on the held-out images of a run: to the truths, or to the original's output.

    Args:
        options: Options of the run.
    """

    def __init__(self, options: Options) -> None:
        assert options.compress is not None and options.compress.distill is not None
        self.has_truths = options.compress.distill.task_loss
        self._task = task_of(options)
        self._test_set = self._task.test_sets(options)[0]

    def measure(self, network: nn.Module) -> float:
        """Return the mean PSNR of a network in dB."""
        return self._task.evaluate(network, self._test_set)[self._task.main_score.key]


class CorrectedCuts:
    """Networks cut to any budget from a single set of statistics, and corrected.

    Args:
        hyper: The converted network; its masks are changed by every cut, and restored.
        options: Options of the run.
        inputs: Inputs of its first training batches; None: they are read.
    """

    def __init__(
        self, hyper: HyperNet, options: Options, inputs: Sequence[Tensor] | None = None
    ) -> None:
        assert options.compress is not None
        self._hyper = hyper
        self._compress = options.compress
        settings = SearchSettings(
            budget=self._budget(LARGEST_RATIO),
            iterations=self._compress.search_iter,
            seed=options.manual_seed,
            preset=self._compress.preset,
            method_options={**self._compress.method_options, "generations": GENERATIONS},
        )
        self._search = build_search("obs", hyper, settings)
        # The same batches that the run itself will see, so that its search decides alike.
        inputs = inputs or training_inputs(options, self._compress.search_iter)
        for batch in inputs:
            self._search.observe(batch)
        self._calibration = inputs[:CORRECTION_BATCHES]

    def cut(self, ratio: float) -> nn.Module | None:
        """Return the network that keeps this fraction of the multiply-adds; None: there is none."""
        budget = self._budget(ratio)
        mask = self._hyper.mask.clone()
        try:
            self._hyper.prune_to_budget(budget, self._search.scores_for(budget))
            return self._hyper.cut(calibration=self._calibration)
        except BudgetError:
            return None
        finally:
            self._hyper.mask.copy_(mask)

    def _budget(self, ratio: float) -> Budget:
        compress = self._compress
        round_to = compress.round_to or DEFAULT_ROUND_TO
        return Budget.from_target(
            compress.targets[0].kind,
            ratio,
            compress.tolerance,
            round_to,
            compress.min_width,
            remove_blocks=compress.removes_blocks,
        )


def training_inputs(options: Options, count: int) -> list[Tensor]:
    """Return the inputs of the first training batches of a run."""
    task = task_of(options)
    training = options.train_data
    batches = train_batches(
        task.train_set(options),
        batch_size=training.batch_size_per_gpu,
        workers=0,
        seed=options.manual_seed,
        start_iteration=0,
    )
    return [next(batches)[task.batch_keys[0]] for _ in range(count)]
