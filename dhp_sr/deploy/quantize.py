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
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import nn

from dhp_sr.deploy.int8_simulation import (
    CalibrationImage,
    Run,
    finetune_for_int8,
    layer_losses,
    mean_psnr,
)
from dhp_sr.deploy.runner import Images
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.timing import time_interleaved

DEFAULT_MAX_LOSS = 0.1
"""Largest loss in dB that is accepted unless the user says otherwise."""

DEFAULT_FINETUNE_STEPS = 300

MIN_GAIN = 1.03
"""A recipe that loses more must be this much faster to be preferred."""

TIMED_ROUNDS = 7
MAX_LAYER_IMAGES = 4
"""Images that the loss of single layers is measured on: a pass per layer for each."""

NAMED_LAYERS = 5
"""Layers that an error names."""


FloatLayers = Literal["ends", "first", "none"]
"""Layers left in float32 whatever they cost, or in what the runtime computes instead of it, here
and below: the first and the last, the first alone, none."""


@dataclass(frozen=True)
class Recipe:
    """A way to quantize a network."""

    in_float: FloatLayers
    """The first and the last layer are the most sensitive, the first more so."""
    needs_vnni: bool = False
    """Weights of 8 bits rather than 7, which overflow on processors without VNNI."""
    layers_only: bool = False
    """Quantize what goes into convolutions and products alone: additions, gates and resized maps,
    which hold the residual features, stay in float32."""
    heavy_only: bool = False
    """Leave layers in float32 that use each value of their input less than `MIN_REUSE` times."""
    clips: bool = False
    """Let the range of an activation end where all but `OUTLIERS` of its values lie, rather than at
    the extremes: a few values far out would coarsen the steps of all others."""

    def rounds_all_of(self, other: "Recipe") -> bool:
        """Whether it rounds all that another one does, to as many bits: it loses no less."""
        order = get_args(FloatLayers)
        return (
            self.needs_vnni == other.needs_vnni
            and order.index(self.in_float) >= order.index(other.in_float)
            and self.layers_only <= other.layers_only
            and self.heavy_only <= other.heavy_only
        )


OUTLIERS = 1e-4
"""Share of an activation's values that a range that clips leaves out."""

MIN_REUSE = 100
"""Products per value of a layer's input from which int8 pays: rounding the inputs of a convolution
of 1 x 1 to 48 channels takes as long as its products in int8 save. A convolution of 3 x 3 to 16
channels has 144."""

_AMOUNTS: tuple[dict[str, bool], ...] = (
    {"layers_only": True, "heavy_only": True},
    {"layers_only": True},
    {},
)
"""What recipes round besides the first and the last layer, the least first."""

RECIPES = (
    *(Recipe(ends, **amount) for ends in get_args(FloatLayers) for amount in _AMOUNTS),
    *(Recipe("ends", **amount, needs_vnni=True) for amount in _AMOUNTS),
)


@dataclass(frozen=True)
class Int8Options:
    """Choices of a quantization."""

    images: Sequence[CalibrationImage]
    """Images for calibration and for measuring the loss."""
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

    @property
    def label(self) -> str:
        """The facts in a few words."""
        text = f"{self.loss_db:.3f} dB below fp32 on {self.num_images} image(s)"
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
    images = options.images
    with torch.no_grad():
        reference = mean_psnr(lambda lq: network(torch.from_numpy(lq)).numpy(), images)

    def measure(candidate: nn.Module) -> tuple[Quantized[Model] | None, float]:
        return _best_recipe(prepare(candidate), make_run, recipes, reference, options)

    best, loss = measure(network)
    steps = options.finetune_steps
    if best is None and steps:
        options.report(
            f"int8 loses {loss:.3f} dB, more than {options.max_loss:g} (--max_loss): "
            f"{steps} steps of quantization-aware finetuning"
        )
        tuned = finetune_for_int8(
            network,
            images,
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


def _best_recipe(
    make: Callable[[Recipe], Model | None],
    make_run: Callable[[Model], Run],
    recipes: Sequence[Recipe],
    reference: float,
    options: Int8Options,
) -> tuple[Quantized[Model] | None, float]:
    """Return the fastest model within the allowed loss, if any, and the least loss of all.

    Ranges clip, for all recipes, where the first one loses too much without it and less with it.
    """
    images = options.images
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
            loss = reference - mean_psnr(run, images)
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
        if best_run is None or _is_faster(run, best_run, images[0].lq.numpy()):
            best = Quantized(model, recipe, loss, len(images))
            best_run = run
    return best, min(losses)


def _is_faster(run: Run, other: Run, image: Images) -> bool:
    calls = {"run": partial(run, image), "other": partial(other, image)}
    # Other work on the machine adds nothing to the processor time of a single thread.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    # In use a network follows itself: what the other left in the caches is no part of its time.
    device = torch.device("cpu")
    times = time_interleaved(calls, device, TIMED_ROUNDS, lead_in=1, clock=clock)
    return statistics.median(times["other"]) > MIN_GAIN * statistics.median(times["run"])


def _too_lossy(network: nn.Module, loss: float, options: Int8Options) -> str:
    losses = layer_losses(network, options.images[:MAX_LAYER_IMAGES])
    worst = sorted(losses, key=losses.__getitem__, reverse=True)[:NAMED_LAYERS]
    listing = ", ".join(f"{name} {losses[name]:.3f}" for name in worst)
    return (
        f"not written: expected int8 at most {options.max_loss:g} dB below fp32 (--max_loss), got "
        f"{loss:.3f} dB on {len(options.images)} image(s); layers that cost most, each alone in "
        f"int8, in dB: {listing}"
    )
