"""The smallest network that loses no more than so many dB, from one search.

The widths for a budget, and the corrected cut to them, take seconds; so budgets are bisected on
held-out images. Finetuning improves what is found, so the bound is on the safe side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.config.schema import Options
from dhp_sr.data.sampler import train_batches
from dhp_sr.hyper import HyperNet
from dhp_sr.search import SearchSettings, build_search
from dhp_sr.tasks import task_of
from dhp_sr.utils.errors import UserError

LEVEL_DB = 30.0
"""PSNR of the original to the truth that is assumed where there are no truths."""

LARGEST_RATIO = 0.95
NUM_BISECTIONS = 5
GENERATIONS = 20
"""Choices of widths tried for each of the budgets; the run itself tries more."""

CORRECTION_BATCHES = 4


@dataclass(frozen=True)
class QualityBound:
    """What a loss of so many dB means for the scores on held-out images."""

    loss_db: float
    """That may be lost."""
    dense_db: float | None
    """PSNR of the original to the truths; None where there are none."""

    @property
    def least_db(self) -> float:
        """Least PSNR that is allowed: to the truths, or to the original's output.

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
                f"quality {self.loss_db:g}: at least {self.least_db:.2f} dB to the truths, where "
                f"the original has {self.dense_db:.2f} dB"
            )
        return (
            f"quality {self.loss_db:g}: at least {self.least_db:.2f} dB to the original's output, "
            f"which is {self.loss_db:g} dB lost at a level of {LEVEL_DB:g} dB to the truth"
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
        options: Of the run, with any target.
        loss_db: That may be lost on the held-out images.
        least: Least possible fraction.
        note: Takes lines for the user.

    Raises:
        UserError: Even the largest fraction loses more.
    """
    compress = options.compress
    assert compress is not None and compress.distill is not None
    task = task_of(options)
    test_set = task.test_sets(options)[0]
    key = task.main_score.key
    has_truths = compress.distill.task_loss
    dense_db = task.evaluate(network, test_set)[key] if has_truths else None
    bound = QualityBound(loss_db, dense_db)
    note(bound.describe())

    def budget(ratio: float) -> Budget:
        return Budget.from_target("macs", ratio, None, compress.round_to, compress.min_width)

    settings = SearchSettings(
        budget=budget(LARGEST_RATIO),
        iterations=compress.search_iter,
        seed=options.manual_seed,
        preset=compress.preset,
        method_options={**compress.method_options, "generations": GENERATIONS},
    )
    search = build_search("obs", hyper, settings)
    inputs = _training_inputs(options, compress.search_iter)
    for batch in inputs:
        search.observe(batch)
    calibration = inputs[:CORRECTION_BATCHES]
    mask = hyper.mask.clone()

    def quality(ratio: float) -> float:
        try:
            hyper.prune_to_budget(budget(ratio), search.scores_for(budget(ratio)))
        except BudgetError:
            return -math.inf
        score = task.evaluate(hyper.cut(calibration=calibration), test_set)[key]
        hyper.mask.copy_(mask)
        note(f"  keeping {ratio:.1%} of the MACs: {score:.2f} dB after the corrected cut")
        return score

    low, high = least, LARGEST_RATIO
    if quality(high) < bound.least_db:
        raise UserError(
            f"--target quality={loss_db:g}: even {LARGEST_RATIO:.0%} of the multiply-adds lose "
            "more before finetuning; allow more dB, or ask for macs"
        )
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        if quality(middle) >= bound.least_db:
            high = middle
        else:
            low = middle
    note(f"smallest that stays within it: {high:.1%} of the MACs")
    return round(high, 4)


def _training_inputs(options: Options, count: int) -> list[Tensor]:
    """Inputs of the first training batches of a run."""
    task = task_of(options)
    training: Any = options.datasets["train"]
    batches = train_batches(
        task.train_set(options),
        batch_size=training.batch_size_per_gpu,
        workers=0,
        seed=options.manual_seed,
        start_iteration=0,
    )
    return [next(batches)[task.batch_keys[0]] for _ in range(count)]
