"""Quantization to int8 within an allowed loss, which is measured in dB against float32.

Weights get a scale per output channel, activations one per tensor, calibrated on images (Jacob et
al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
2018). Activations outside the range that calibration saw are clipped, so the images matter.

    recipes (which layers, how many bits) -> fastest within the loss -> model
        | all lose more
        v
    quantization-aware finetuning -> the same recipes -> model, or an error that names layers
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import nn

from dhp_sr.deploy.int8_simulation import (
    CalibrationImage,
    Run,
    finetune_for_int8,
    layer_losses,
    mean_psnr,
)
from dhp_sr.deploy.recipes import OUTLIERS, RECIPES, Recipe
from dhp_sr.deploy.runner import Images
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.timing import relative_speeds, time_interleaved

DEFAULT_MAX_LOSS = 0.1
"""Largest loss in dB that is accepted unless the user says otherwise."""

DEFAULT_FINETUNE_STEPS = 300

UNLIKE_FACTOR = 2.0
"""How many times the allowed loss a recipe may lose on images unlike those of the calibration, as
long as another recipe loses less. For an RLFN calibrated on photographs the recipes that lost
0.09 and 0.03 dB on others of them lost 0.25 and 0.13 on drawn images, 0.22 and 0.08 on Set5."""

MIN_GAIN = 1.03
"""A recipe that loses more must be this much faster to be preferred."""

TIMED_ROUNDS = 15
MAX_LAYER_IMAGES = 4
"""Images that the loss of single layers is measured on: a pass per layer for each."""

NAMED_LAYERS = 5
"""Layers that an error names."""


@dataclass(frozen=True)
class Int8Options:
    """Choices of a quantization."""

    images: Sequence[CalibrationImage]
    """Images for calibration and for measuring the loss."""
    unlike: Sequence[CalibrationImage] = ()
    """Images of another kind, for measuring alone. The ranges were not calibrated on them, so they
    show what the user's other images may lose; see `UNLIKE_FACTOR`."""
    max_loss: float = DEFAULT_MAX_LOSS
    """Largest loss in dB."""
    finetune_steps: int = DEFAULT_FINETUNE_STEPS
    """Steps of quantization-aware finetuning, where every recipe loses more; 0: none."""
    size_multiple: int = 1
    """Sides of inputs are multiples of it."""
    least_side: int = 1
    """Smaller sides do not pass through the network."""
    report: Callable[[str], None] = lambda message: None
    """Takes a line for the user before something that takes minutes."""


Model = TypeVar("Model")
"""A model as the runtime that it is quantized for holds it."""


@dataclass(frozen=True)
class Quantized(Generic[Model]):
    """A quantized model and what it costs."""

    model: Model
    recipe: Recipe
    loss_db: float
    """PSNR of float32 less that of int8, mean over the images."""
    num_images: int
    finetune_steps: int = 0
    """Steps of quantization-aware finetuning before it."""
    float_name: str = "float32"
    """Number format of the rest when the loss was measured."""
    unlike_db: float | None = None
    """As `loss_db`, on images unlike those of the calibration; None: not measured."""

    @property
    def label(self) -> str:
        """The facts in a few words."""
        text = f"{self.loss_db:.3f} dB below fp32 on {self.num_images} image(s)"
        if self.unlike_db is not None:
            text += f" and {self.unlike_db:.3f} dB on drawn ones"
        if self.recipe.in_float != "none":
            layers = {"ends": "first and last", "first": "first"}[self.recipe.in_float]
            text += f", {layers} layer in {self.float_name}"
        if self.recipe.layers_only:
            text += f", sums and gates in {self.float_name}"
        if self.recipe.heavy_only:
            text += f", layers of few products in {self.float_name}"
        if self.recipe.needs_vnni:
            text += ", for processors with VNNI (weights of 7 bits lose more than --max_loss)"
        if self.recipe.clips:
            text += f", {OUTLIERS:.2%} of the activations clipped"
        if self.finetune_steps:
            text += f", after {self.finetune_steps} steps of quantization-aware finetuning"
        return text


Prepare = Callable[[nn.Module], Callable[[Recipe], Model | None]]
"""Exports a network, and returns a function that quantizes the export for the runtime, or returns
None for a recipe that is another one's twin for this network."""


def quantize(
    network: nn.Module,
    options: Int8Options,
    prepare: Prepare[Model],
    make_run: Callable[[Model], Run],
    recipes: Sequence[Recipe] = RECIPES,
) -> Quantized[Model]:
    """Quantize a network for a runtime by the recipe that is fastest within the allowed loss.

    Args:
        network: The original in float32.
        options: Choices.
        prepare: Exports a network, the original or a finetuned one.
        make_run: Makes a function that computes a quantized model in the runtime.
        recipes: To be tried; a later one must be measurably faster to be preferred, and those
            that need VNNI are the last resort.

    Raises:
        UserError: Every recipe loses more; names the layers that cost most.
    """
    references = _References(network, options)

    def measure(candidate: nn.Module) -> tuple[Quantized[Model] | None, float]:
        return _best_recipe(prepare(candidate), make_run, recipes, references, options)

    best, loss = measure(network)
    steps = options.finetune_steps
    if best is None and steps:
        options.report(
            f"int8 loses {loss:.3f} dB, more than {options.max_loss:g} (--max_loss): "
            f"{steps} steps of quantization-aware finetuning"
        )
        tuned = finetune_for_int8(
            network,
            options.images,
            steps,
            size_multiple=options.size_multiple,
            least_side=options.least_side,
        )
        best, loss_after = measure(tuned)
        loss = min(loss, loss_after)
        if best is not None:
            best = replace(best, finetune_steps=steps)
    if best is None:
        raise UserError(_too_lossy(network, loss, options))
    return best


class _References:
    """What the original scores, to say what a quantized network loses."""

    def __init__(self, network: nn.Module, options: Int8Options) -> None:
        self._options = options

        def run(lq: Images) -> Images:
            with torch.no_grad():
                return network(torch.from_numpy(lq)).numpy()

        self._psnr = mean_psnr(run, options.images)
        self._unlike_psnr = mean_psnr(run, options.unlike) if options.unlike else math.nan

    def loss(self, run: Run) -> float:
        """Loss in dB on the images of the calibration."""
        return self._psnr - mean_psnr(run, self._options.images)

    def unlike_loss(self, run: Run) -> float | None:
        """Loss in dB on images unlike those of the calibration; None where there are none."""
        unlike = self._options.unlike
        return self._unlike_psnr - mean_psnr(run, unlike) if unlike else None


def _best_recipe(
    make: Callable[[Recipe], Model | None],
    make_run: Callable[[Model], Run],
    recipes: Sequence[Recipe],
    references: _References,
    options: Int8Options,
) -> tuple[Quantized[Model] | None, float]:
    """Return the fastest model within the allowed loss, if any, and the least loss of all.

    Ranges clip, for all recipes, where the first one loses too much without it and less with it.
    """
    losses = []
    range_choices = [False, True]
    too_lossy: list[Recipe] = []
    best: Quantized[Model] | None = None
    best_run: Run | None = None
    for recipe in recipes:
        if best is not None and recipe.needs_vnni:
            continue
        if any(recipe.rounds_all_of(other) for other in too_lossy):
            continue
        made = []
        for clips in range_choices:
            chosen = replace(recipe, clips=clips)
            model = make(chosen)
            if model is None:
                break
            run = make_run(model)
            loss = references.loss(run)
            made.append((loss, chosen, model, run))
            if loss <= options.max_loss:
                break  # extremes suffice, and clip less of images unlike these
        if not made:
            continue
        # A loss that is no number is larger than any.
        loss, recipe, model, run = min(made, key=lambda entry: (math.isnan(entry[0]), entry[0]))
        range_choices = [recipe.clips]
        losses.append(loss)
        # "not <=" refuses NaN, too.
        if not loss <= options.max_loss:
            too_lossy.append(recipe)
            continue
        unlike_db = references.unlike_loss(run)
        found = Quantized(model, recipe, loss, len(options.images), unlike_db=unlike_db)
        if best is None or best_run is None or _is_better(found, run, best, best_run, options):
            best = found
            best_run = run
    return best, min(losses)


def _is_better(
    found: Quantized[Model],
    run: Run,
    best: Quantized[Model],
    best_run: Run,
    options: Int8Options,
) -> bool:
    """Whether a model holds on images unlike those of the calibration, or else is faster."""
    limit = UNLIKE_FACTOR * options.max_loss
    holds, best_holds = (
        quantized.unlike_db is None or quantized.unlike_db <= limit for quantized in (found, best)
    )
    if holds != best_holds:
        return holds
    return _is_faster(run, best_run, options.images[0].lq.numpy())


def _is_faster(run: Run, other: Run, image: Images) -> bool:
    calls = {"run": partial(run, image), "other": partial(other, image)}
    # Other work on the machine adds nothing to the processor time of a single thread.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    # In use a network follows itself: what the other left in the caches is no part of its time.
    device = torch.device("cpu")
    times = time_interleaved(calls, device, TIMED_ROUNDS, lead_in=1, clock=clock)
    return relative_speeds(times, "other")["run"] > MIN_GAIN


def _too_lossy(network: nn.Module, loss: float, options: Int8Options) -> str:
    losses = layer_losses(network, options.images[:MAX_LAYER_IMAGES])
    worst = sorted(losses, key=losses.__getitem__, reverse=True)[:NAMED_LAYERS]
    listing = ", ".join(f"{name} {losses[name]:.3f}" for name in worst)
    return (
        f"not written: expected int8 at most {options.max_loss:g} dB below fp32 (--max_loss), got "
        f"{loss:.3f} dB on {len(options.images)} image(s); layers that cost most, each alone in "
        f"int8, in dB: {listing}"
    )
