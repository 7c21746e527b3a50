"""The option file of a compression: what train.py would take to do the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dhp_sr.archs import ARCHS
from dhp_sr.config import dump_options
from dhp_sr.config.checks import find_mistakes
from dhp_sr.config.schema import Options
from dhp_sr.hyper import HyperNet
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import UserError, unknown_name

QUALITY = "quality"
"""Target that is no cost: dB that may be lost."""

SEARCH_SAMPLES = 160
"""Inputs that the search needs: 128 for statistics and 32 for evaluation."""

LEARNING_RATE = 1e-3
DISTILL_WEIGHT = 3.0
"""Weight of the distance to the original's output beside that to the truth, where there is one."""


@dataclass(frozen=True)
class Target:
    """What is asked for: a cost kind and the fraction to keep, or a loss of quality in dB."""

    kind: str
    value: float

    @classmethod
    def from_text(cls, text: str) -> "Target":
        """Parse `macs=0.5` or `quality=0.1`.

        Raises:
            UserError: Another form, an unknown kind, or a value out of range.
        """
        kind, equals, value_text = text.partition("=")
        known = [*COST_KINDS, QUALITY]
        if not equals:
            raise UserError(f"--target: expected KIND=VALUE such as macs=0.5, got {text!r}")
        if kind not in known:
            raise UserError(f"--target: {unknown_name('kind', kind, known)}")
        try:
            value = float(value_text)
        except ValueError:
            value = -1.0
        if kind == QUALITY and not 0 < value < 100:
            raise UserError(f"--target quality: expected dB that may be lost, got {value_text!r}")
        if kind != QUALITY and not 0 < value < 1:
            raise UserError(
                f"--target {kind}: expected a fraction to keep, between 0 and 1, got {value_text!r}"
            )
        return cls(kind, value)

    @property
    def label(self) -> str:
        """Short form for names of runs, such as `macs0.5`."""
        return f"{self.kind}{self.value:g}"


@dataclass(frozen=True)
class Length:
    """Iterations of a run."""

    search_iter: int
    finetune_iter: int
    generations: int
    """Choices of widths that the search tries."""


def network_section(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `network_g` of a network by name."""
    if name in ARCHS:
        return {"type": f"Hyper{name}", **arguments}
    return {"type": "Hyper", "network": {"type": name, **arguments}}


def make_options(
    *,
    name: str,
    network: Mapping[str, Any],
    weights: Path,
    scale: int,
    datasets: Mapping[str, Mapping[str, Any]],
    has_truths: bool,
    target: Target,
    length: Length,
    rules: Mapping[str, Any],
    seed: int,
    experiments: Path,
) -> Options:
    """Make the options of a run that compresses a trained network.

    Args:
        name: Of the run.
        network: Section `network_g`.
        weights: File of the dense network.
        scale: Enlargement.
        datasets: Sections.
        has_truths: Whether the loss against the truth is added to that against the original.
        target: A cost kind.
        length: Iterations.
        rules: Further keys of `compress`: round_to, min_width, tolerance, obs.
        seed: Of everything random.
        experiments: Folder of runs.

    Raises:
        UserError: A value is out of range, such as a scale that option files do not know.
    """
    total = length.search_iter + length.finetune_iter
    rules = dict(rules)
    obs = {"generations": length.generations, **rules.pop("obs", {})}
    raw = {
        "name": name,
        "scale": scale,
        "manual_seed": seed,
        "network_g": dict(network),
        "datasets": {key: dict(section) for key, section in datasets.items()},
        "path": {"pretrain_network_g": str(weights), "experiments_root": str(experiments)},
        "compress": {
            "method": "obs",
            "target": {target.kind: target.value},
            "search_iter": length.search_iter,
            "correction": {},
            "distill": {"weight": DISTILL_WEIGHT if has_truths else 1.0, "task_loss": has_truths},
            "obs": obs,
            **rules,
        },
        "train": {
            "total_iter": total,
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


def _checked(raw: Mapping[str, Any]) -> Options:
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


def width_rules(hyper: HyperNet) -> dict[str, Any]:
    """Choose multiples of widths that suit a network: 8, and less for narrow ones.

    Raises:
        UserError: Nothing can be pruned.
    """
    widths = [group.width for group in hyper.plan.prunable]
    if not widths:
        raise UserError("nothing of this network can be pruned: " + _reasons(hyper))
    typical = sorted(widths)[len(widths) // 2]
    multiple = 1
    for candidate in (8, 4, 2):
        # A width of 52 is no multiple of 8, but about as many steps of 4.
        if typical >= 8 * candidate and typical % candidate == 0:
            multiple = candidate
            break
    return {"round_to": multiple, "min_width": multiple}


def _reasons(hyper: HyperNet) -> str:
    reasons = {group.reason for group in hyper.plan.groups if group.reason}
    return "; ".join(sorted(reasons))


def option_file_text(options: Options, command: str) -> str:
    """Return an option file with the command that made it."""
    return f"# made by: {command}\n{dump_options(options)}"
