"""Reachable cost and duration of a compression, worked out before it begins."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.cli.compress_options import SEARCH_SAMPLES, Length
from dhp_sr.deploy.model_info import ModelInfo
from dhp_sr.hyper import HyperNet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.pruning import prune_for_trial
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.devices import has_fast_bf16, select_device
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.utils.timing import time_interleaved

FINETUNE_SHARE = 0.75
"""Share of the time, at most: the rest is search, correction, scores and the report."""

RUN_SHARE = 0.93
"""Share of the time: search and finetuning together, before the scores and the report."""

SEARCH_SHARE = 0.3
"""Share of the time, at most, for trying choices of widths."""

MAX_GENERATIONS = 200
MIN_GENERATIONS = 20

# Both ratios below come from a profile of a search on DnCNN with 17 layers of 64 channels and
# patches of 48 pixels. Other networks differ: they only turn minutes into numbers of iterations.
PASSES_PER_GENERATION = 1.4
"""Forward passes of a batch of 16 that a choice of widths costs: 8 screening inputs and, for some,
all 32, with weights put together beside them."""

STATISTICS_PASSES = 30.0
"""Forward passes of a batch of 16 that the statistics and the orders of channels cost."""

WHOLE_IMAGES_SHARE = 0.5
"""The original runs over whole images, once, where that takes at most this share of the time that
it would take on all patches."""

MAX_OUTPUT_BYTES = 4 * 2**30
"""Space that its outputs may take."""

MIN_FINETUNE = 20
TIMED_STEPS = 3


def lines_before_start(summary: JsonObject, kind: str, keep_ratio: float | None) -> list[str]:
    """Say which share of a cost can be pruned, what is pinned and why, and the least possible cost.

    Args:
        summary: Result of `plan_summary.summarize_plan`.
        kind: The cost kind; of a latency the multiply-adds stand in.
        keep_ratio: Fraction to keep; None where quality decides.
    """
    kind = kind if kind in summary["lower_bound"] else "macs"
    label = COST_KINDS[kind].label
    bound = summary["lower_bound"][kind]
    removal = ""
    if summary["rules"]["remove_blocks"]:
        removal = ", residual branches removed"
    lines = [
        f"of the {label}, {1 - bound['kept']:.1%} can be pruned and {bound['kept']:.1%} is the "
        f"least possible ({bound['pinned']:.1%} pinned, {bound['min_width']:.1%} by minimum "
        f"widths{removal})"
    ]
    # By reason rather than by group: a deep network has dozens of groups and few reasons.
    reasons: dict[str, list[str]] = {}
    for group in summary["groups"]:
        if group["reason"]:
            reasons.setdefault(group["reason"], []).append(group["name"])
    for reason, names in reasons.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines.append(f"pinned: {shown}: {reason}")
    if keep_ratio is not None:
        lines.append(f"asked for: keep {keep_ratio:.1%}")
    return lines


def check_reachable(
    summary: JsonObject,
    kind: str,
    keep_ratio: float,
    without_branches: Callable[[], JsonObject] | None = None,
) -> None:
    """Check a target against the least possible cost.

    Args:
        summary: Result of `plan_summary.summarize_plan`.
        kind: The cost kind.
        keep_ratio: Fraction to keep.
        without_branches: Returns the same where residual branches may be removed, for advice;
            None: they may be already, or there are none.

    Raises:
        UserError: It is below.
    """
    # A latency is measured during the search; nothing is known about it yet.
    if kind not in summary["lower_bound"]:
        return
    least = summary["lower_bound"][kind]["kept"]
    if keep_ratio < least:
        advice = ""
        if without_branches is not None:
            fewest = without_branches()["lower_bound"][kind]["kept"]
            advice = f", or give --remove_blocks, with which it is {fewest:.4f}"
        raise UserError(
            f"--target {kind}={keep_ratio:g}: the least possible is {least:.4f}; "
            # Rounded up: the nearest hundredth may be below what is possible.
            f"ask for {math.ceil(least * 100) / 100:g} or more{advice}"
        )


@dataclass(frozen=True)
class StepTimes:
    """Seconds that the passes of a training batch take on this machine."""

    dense: float
    """Forward pass of the original in float32, as the search runs it."""
    teacher: float
    """The same in the precision of the training."""
    step: float
    """A step of finetuning, the teacher's pass included."""


def plan_length(
    times: StepTimes,
    info: ModelInfo,
    *,
    patch: int,
    batch_size: int,
    minutes: float,
    spent_minutes: float = 0.0,
    input_pixels: int | None = None,
) -> Length:
    """Turn minutes into iterations.

    Args:
        times: Times of the passes.
        info: Description of the network.
        patch: Height and width of training inputs.
        batch_size: Batch size of the training.
        minutes: For everything.
        spent_minutes: Those that are over.
        input_pixels: Pixels of all inputs that patches are cut from; None: new at every visit.

    Raises:
        UserError: There is no time for a useful run.
    """
    seconds = 60 * (minutes - spent_minutes)
    batch_factor = batch_size / 16
    statistics = STATISTICS_PASSES * times.dense / batch_factor
    generation = PASSES_PER_GENERATION * times.dense / batch_factor
    # The search takes its share first, within bounds; finetuning gets what is left.
    generations = int((SEARCH_SHARE * seconds - statistics) / generation)
    generations = max(MIN_GENERATIONS, min(MAX_GENERATIONS, generations))
    search_iter = -(-SEARCH_SAMPLES // batch_size)
    # A search step runs the dense network forward and backward, about three passes, and the
    # teacher.
    search = statistics + generations * generation + search_iter * 4 * times.dense
    step = times.step
    finetune = _finetune_steps(seconds, search, step)
    # Over whole images the teacher computes in float32.
    teaching = _teaching_seconds(info, input_pixels, times.dense / (batch_size * patch**2))
    whole_images = teaching < WHOLE_IMAGES_SHARE * finetune * times.teacher
    if whole_images:
        search += teaching
        step -= times.teacher
        finetune = _finetune_steps(seconds, search, step)
    if finetune < MIN_FINETUNE:
        needed = spent_minutes + (search + MIN_FINETUNE * step) / RUN_SHARE / 60
        raise UserError(
            f"--minutes {minutes:g}: no time; on this machine a step takes {step:.2f} s "
            f"and the search about {search / 60:.1f} minutes: give {needed + 0.1:.1f} minutes "
            "or more"
        )
    return Length(search_iter, finetune, generations, whole_images, search, step)


def describe_length(length: Length) -> str:
    """Return a line about how long a run takes."""
    minutes = (length.search_seconds + length.finetune_iter * length.step_seconds) / 60
    text = (
        f"expected: {minutes:.1f} minutes and the scores; {length.search_iter} + "
        f"{length.finetune_iter} iterations of {length.step_seconds:.2f} s, "
        f"{length.generations} choices of widths"
    )
    if length.whole_images:
        text += "; the original runs over whole images, once"
    return text


def _finetune_steps(seconds: float, search: float, step_seconds: float) -> int:
    """Return the number of finetuning steps that fit after the seconds of the search."""
    return int(min(FINETUNE_SHARE * seconds, RUN_SHARE * seconds - search) / step_seconds)


def _cut_to(hyper: HyperNet, budget: Budget) -> nn.Module:
    """Return a network of the size of a budget; the masks stay as they are."""
    mask = hyper.mask.clone()
    # With equal scores: the time depends on the number of channels alone, not on which are pruned.
    prune_for_trial(hyper, budget)
    small = hyper.cut(check=False).train()
    hyper.mask.copy_(mask)
    return small


def _teaching_seconds(info: ModelInfo, input_pixels: int | None, seconds_per_pixel: float) -> float:
    """Seconds that the original takes over whole images; infinite where they cannot be used."""
    if input_pixels is None:
        return math.inf
    channels = info.out_channels or info.in_channels
    # In half precision.
    if 2 * channels * info.scale**2 * input_pixels > MAX_OUTPUT_BYTES:
        return math.inf
    return seconds_per_pixel * input_pixels


def measure_steps(
    hyper: HyperNet, network: nn.Module, budget: Budget, patch: int, batch_size: int
) -> StepTimes:
    """Time a few steps with a network that is cut to a budget, as the training takes them.

    They are taken on the device that the run will choose. The fastest of a few counts: the others
    had to wait for the machine. The images are noise: the time of a layer does not depend on the
    values. Features lie in memory as in the training, channels last, in which a step in bf16 may
    take half as long.

    Args:
        hyper: The converted network; its masks are changed and restored.
        network: The plain network, the teacher.
        budget: Budget of the run; of a latency, the same fraction of multiply-adds stands in.
        patch: Height and width of the inputs.
        batch_size: Batch size of the training.
    """
    device = select_device("auto")
    context = DistributedContext(device)
    student = context.to_device(_cut_to(hyper, budget), channels_last=True)
    teacher = context.to_device(deep_copy(network), channels_last=True)
    original = context.to_device(deep_copy(network), channels_last=False)
    images = torch.rand(batch_size, hyper.plan.example_shape[1], patch, patch)
    searched = context.to_device(images, channels_last=False)
    trained = context.to_device(images, channels_last=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))
    with torch.no_grad():
        target = original(searched)

    def run_original() -> None:
        with torch.no_grad():
            original(searched)

    def run_teacher() -> None:
        with torch.no_grad(), autocast:
            teacher(trained)

    def run_student() -> None:
        # The optimizer's step is not timed: it is small beside a pass of a batch.
        with autocast:
            output = student(trained)
        nn.functional.l1_loss(output.float(), target).backward()

    passes = {"original": run_original, "teacher": run_teacher, "student": run_student}
    samples = time_interleaved(passes, device, rounds=TIMED_STEPS, warm_up=1)
    seconds = {name: min(milliseconds) / 1000 for name, milliseconds in samples.items()}
    step = seconds["teacher"] + seconds["student"]
    return StepTimes(seconds["original"], seconds["teacher"], step)
