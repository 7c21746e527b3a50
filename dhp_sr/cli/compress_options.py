"""The option file of a compression: what train.py would take to do the same."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.archs import ARCHS
from dhp_sr.cli.compress_request import QUALITY, Target
from dhp_sr.config import dump_options
from dhp_sr.config.checks import find_mistakes
from dhp_sr.config.schema import Options
from dhp_sr.hyper import HyperNet
from dhp_sr.training.pruning import prune_for_trial
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.checkpoints import Checkpoint

SEARCH_SAMPLES = 160
"""Inputs that the search needs: 128 for statistics and 32 for evaluation."""

LEARNING_RATE = 1e-3
DISTILL_WEIGHT = 3.0
"""Weight of the distance to the original's output beside that to a ground truth."""


@dataclass(frozen=True)
class Length:
    """Iterations of a run."""

    search_iter: int
    finetune_iter: int
    generations: int
    """Choices of widths that the search tries."""
    whole_images: bool = False
    """Whether the teacher runs over whole images before."""
    search_seconds: float = 0.0
    """Time of all that comes before finetuning, where it was measured."""
    step_seconds: float = 0.0
    """Time of a step of finetuning, where it was measured."""


def network_section(name: str, arguments: Mapping[str, object]) -> JsonObject:
    """Return the section `network_g` of a network by name."""
    # Our own networks are named directly in option files, all others below `Hyper`.
    if name in ARCHS:
        return {"type": f"Hyper{name}", **arguments}
    return {"type": "Hyper", "network": {"type": name, **arguments}}


@dataclass(frozen=True)
class WidthRules:
    """Widths that a run may choose."""

    round_to: int
    """Widths are multiples of this."""
    min_width: int
    """No layer of a prunable group is cut below this many channels."""
    tolerance: float | None = None
    """Largest distance from the target; None: that of the cost kind."""
    widths: Mapping[str, int] | None = None
    """Width of every prunable group, where the search chooses the channels alone."""
    remove_blocks: bool = False
    """Whether residual branches may be removed."""

    def budget(self, kind: str, keep_ratio: float) -> Budget:
        """Return the budget of a target under these rules."""
        return Budget.from_target(
            kind,
            keep_ratio,
            self.tolerance,
            self.round_to,
            self.min_width,
            remove_blocks=self.remove_blocks,
        )


@dataclass(frozen=True)
class RunTemplate:
    """Everything about a run but its target, its length and its widths.

    Quality is bisected with the options of a trial run, so the same things are stated twice.
    """

    name: str
    network: JsonObject
    """Section `network_g`."""
    weights: Path
    """File of the dense network."""
    scale: int
    """Enlargement."""
    datasets: Mapping[str, JsonObject]
    has_truths: bool
    """Whether the loss against the ground truth is added to that against the original."""
    seed: int
    """Seed of everything random."""
    experiments: Path
    """Folder of runs."""
    runtime: str = "torch"
    """Program that a latency is measured in."""
    teacher: Path | None = None
    """Model file of the original, where the dense network of the run is another."""

    def of_network(
        self, checkpoint: Checkpoint, weights: Path | None = None, teacher: Path | None = None
    ) -> "RunTemplate":
        """Return the same for another dense network.

        Args:
            checkpoint: The network.
            weights: Its file; None: as before, for trials that read none.
            teacher: Model file of the original.
        """
        section = network_section(checkpoint.name, checkpoint.arguments)
        return replace(
            self, network=section, weights=weights or self.weights, teacher=teacher or self.teacher
        )

    def options(self, target: Target, length: Length, rules: WidthRules) -> Options:
        """Return the options of a run for a target, which is a cost kind.

        Raises:
            UserError: A value is out of range, such as a scale that option files do not know.
        """
        # Trained weights: there is no dense phase.
        total = length.search_iter + length.finetune_iter
        raw: JsonObject = {
            "name": self.name,
            "scale": self.scale,
            "manual_seed": self.seed,
            "network_g": dict(self.network),
            "datasets": {key: dict(section) for key, section in self.datasets.items()},
            "path": {
                "pretrain_network_g": str(self.weights),
                "experiments_root": str(self.experiments),
            },
            "compress": self._compress_section(target, length, rules),
            "train": {
                "total_iter": total,
                # At most a quarter of a short finetuning.
                "warmup_iter": min(50, length.finetune_iter // 4),
                "optim_g": {"type": "Muon", "lr": LEARNING_RATE},
                "scheduler": {"type": "cosine"},
                "channels_last": True,
            },
            # The held-out images are scored at the end; on the way they would only cost time.
            "val": {"val_freq": 10_000_000},
            "logger": {
                "print_freq": max(1, total // 20),
                "save_checkpoint_freq": max(1, total // 10),
                "use_tb_logger": False,
            },
        }
        return _checked(raw)

    def _compress_section(self, target: Target, length: Length, rules: WidthRules) -> JsonObject:
        # Without truths the original's output is the only target, so its weight has no meaning.
        distill_weight = DISTILL_WEIGHT if self.has_truths else 1.0
        teacher = None if self.teacher is None else str(self.teacher)
        measured = {}
        if COST_KINDS[target.kind].is_measured:
            # Multiples that suit the runtime are learned from the times of its layers.
            measured = {"latency_runtime": self.runtime, "round_to": None}
        return {
            "method": "obs",
            "target": {target.kind: target.value},
            "tolerance": rules.tolerance,
            "round_to": rules.round_to,
            "min_width": rules.min_width,
            "remove_blocks": rules.remove_blocks,
            "search_iter": length.search_iter,
            "correction": {},
            "distill": {
                "weight": distill_weight,
                "teacher": teacher,
                "task_loss": self.has_truths,
                "whole_images": length.whole_images,
            },
            "obs": {"generations": length.generations, "widths": rules.widths},
            **measured,
        }


def _checked(raw: JsonObject) -> Options:
    """Decode options that were put together here, with the checks of an option file.

    Raises:
        UserError: A value is out of range.
    """
    try:
        options = Options.model_validate(raw)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise UserError(f"the run that this needs is not possible: {details}") from None
    mistakes = find_mistakes(options)
    if mistakes:
        text = "; ".join(f"{'.'.join(map(str, keys))}: {message}" for keys, message in mistakes)
        raise UserError(f"the run that this needs is not possible: {text}")
    return options


WIDE = 48
"""Channels from which a convolution in bf16 takes less time with a multiple of 16."""

MANY_GROUPS = 12
"""Groups from which steps of 16 leave enough choices of widths."""


def width_rules(hyper: HyperNet, target: Target, *, remove_blocks: bool = False) -> WidthRules:
    """Choose multiples of widths that suit a network: 16 for wide ones, and less for narrow ones.

    Args:
        hyper: The converted network; its masks are changed and restored.
        target: Steps of 16 are for those that they come close to.
        remove_blocks: Whether residual branches may be removed.

    Raises:
        UserError: Nothing can be pruned.
    """
    widths = [group.width for group in hyper.plan.prunable]
    if not widths:
        reasons = {group.reason for group in hyper.plan.groups if group.reason}
        raise UserError(f"nothing of this network can be pruned: {'; '.join(sorted(reasons))}")
    # By the median: a few narrow layers, such as those of an attention, must not decide.
    typical = sorted(widths)[len(widths) // 2]
    wide = WidthRules(16, 16, remove_blocks=remove_blocks)
    # A width of 52 is none of the multiples, but may be kept.
    if typical >= WIDE and len(widths) >= MANY_GROUPS and _reaches(hyper, wide, target):
        return wide
    multiple = 1
    for candidate in (8, 4, 2):
        # A width of 52 is no multiple of 8, but about as many steps of 4.
        if typical >= 8 * candidate and typical % candidate == 0:
            multiple = candidate
            break
    return WidthRules(multiple, multiple, remove_blocks=remove_blocks)


def _reaches(hyper: HyperNet, rules: WidthRules, target: Target) -> bool:
    """Return whether there are widths under some rules that meet a target within its tolerance."""
    # The multiples that suit a latency are learned; how much a quality costs is not known yet.
    if target.kind == QUALITY:
        budgets = [rules.budget("macs", keep_ratio) for keep_ratio in (0.75, 0.5, 0.25)]
    elif COST_KINDS[target.kind].is_measured:
        return False
    else:
        budgets = [rules.budget(target.kind, target.value)]
    mask = hyper.mask.clone()
    try:
        for budget in budgets:
            prune_for_trial(hyper, budget)
    except BudgetError:
        return False
    finally:
        hyper.mask.copy_(mask)
    return True


def option_file_text(options: Options, command: str) -> str:
    """Return an option file with the command that made it."""
    return f"# made by: {command}\n{dump_options(options)}"
