"""Post-training quantization to int8, with its loss measured in dB against float32.

Weights get a scale per output channel, activations one per tensor, calibrated on images (Jacob et
al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
2018). Activations outside the range that calibration saw are clipped, so the images matter.
"""

import contextlib
import copy
import io
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dhp_sr.deploy.pt2_export import quiet_exporters
from dhp_sr.deploy.runner import Images
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.timing import time_interleaved

if TYPE_CHECKING:
    import onnx

Run = Callable[[Images], Images]

DEFAULT_MAX_LOSS = 0.1
"""Largest loss in dB that is accepted unless the user says otherwise."""

MIN_GAIN = 1.03
"""A recipe that loses more must be this much faster to be preferred."""

TIMED_ROUNDS = 7
MAX_LAYER_IMAGES = 4
"""Images that the loss of single layers is measured on: a pass per layer for each."""

NAMED_LAYERS = 5
"""Layers that an error names."""

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers that are computed in int8."""


@dataclass(frozen=True)
class CalibrationImage:
    """An input of the network and the image that it should give."""

    lq: Tensor
    """(1, C, H, W) in [0, 1]."""
    gt: Tensor
    """(1, C, scale H, scale W) in [0, 1]."""


@dataclass(frozen=True)
class Recipe:
    """A way to quantize a network."""

    float_ends: bool
    """Leave the first and the last layer, the most sensitive, in float32."""
    needs_vnni: bool = False
    """Weights of 8 bits rather than 7. Processors without VNNI add products of pairs in 16 bits,
    where 8 bits overflow."""


RECIPES = (Recipe(float_ends=True), Recipe(float_ends=False))
"""For runtimes that take care of overflow themselves."""


@dataclass(frozen=True)
class Quantized:
    """A quantized model and what it costs."""

    model: Any
    recipe: Recipe
    loss_db: float
    """PSNR of float32 less that of int8, mean over the images."""
    num_images: int

    @property
    def label(self) -> str:
        """The facts in a few words."""
        text = f"{self.loss_db:.3f} dB below fp32 on {self.num_images} image(s)"
        if self.recipe.float_ends:
            text += ", first and last layer in float32"
        if self.recipe.needs_vnni:
            text += ", for processors with VNNI (weights of 7 bits lose more than --max_loss)"
        return text


def quantize(
    network: nn.Module,
    images: Sequence[CalibrationImage],
    make: Callable[[Recipe], Any],
    make_run: Callable[[Any], Run],
    max_loss: float,
    recipes: Sequence[Recipe] = RECIPES,
) -> Quantized:
    """Quantize a network for a runtime by the recipe that is fastest within the allowed loss.

    Args:
        network: The original in float32.
        images: For calibration and for measuring the loss.
        make: Quantizes for the runtime.
        make_run: Makes a function that computes a quantized model in the runtime.
        max_loss: Largest loss in dB.
        recipes: To be tried; a later one must be measurably faster to be preferred, and those
            that need VNNI are the last resort.

    Raises:
        UserError: Every recipe loses more; names the layers that cost most.
    """
    with torch.no_grad():
        reference = mean_psnr(lambda lq: network(torch.from_numpy(lq)).numpy(), images)
    losses = []
    best: Quantized | None = None
    best_run: Run | None = None
    for recipe in recipes:
        if best is not None and recipe.needs_vnni:
            continue
        model = make(recipe)
        run = make_run(model)
        loss = reference - mean_psnr(run, images)
        losses.append(loss)
        # "not <=" refuses NaN, too.
        if not loss <= max_loss:
            continue
        if best_run is None or _is_faster(run, best_run, images[0].lq.numpy()):
            best = Quantized(model, recipe, loss, len(images))
            best_run = run
    if best is None:
        raise UserError(_too_lossy(network, images, min(losses), max_loss))
    return best


def _is_faster(run: Run, other: Run, image: Images) -> bool:
    calls = {"run": partial(run, image), "other": partial(other, image)}
    times = time_interleaved(calls, torch.device("cpu"), TIMED_ROUNDS)
    return statistics.median(times["other"]) > MIN_GAIN * statistics.median(times["run"])


def _too_lossy(
    network: nn.Module, images: Sequence[CalibrationImage], loss: float, max_loss: float
) -> str:
    losses = layer_losses(network, images[:MAX_LAYER_IMAGES])
    worst = sorted(losses, key=losses.__getitem__, reverse=True)[:NAMED_LAYERS]
    listing = ", ".join(f"{name} {losses[name]:.3f}" for name in worst)
    return (
        f"not written: expected int8 at most {max_loss:g} dB below fp32 (--max_loss), got "
        f"{loss:.3f} dB on {len(images)} image(s); layers that cost most, each alone in int8, "
        f"in dB: {listing}"
    )


def mean_psnr(run: Run, images: Sequence[CalibrationImage]) -> float:
    """Return the mean PSNR of clipped results in dB, over all channels."""
    values = []
    for image in images:
        result = np.clip(run(image.lq.numpy()), 0, 1)
        error = float(np.mean((result - image.gt.numpy()) ** 2, dtype=np.float64))
        values.append(-10 * np.log10(max(error, 1e-12)))
    return float(np.mean(values))


@torch.no_grad()
def layer_losses(network: nn.Module, images: Sequence[CalibrationImage]) -> dict[str, float]:
    """Return the loss in dB of each layer when it alone is in int8, by its name.

    Simulated in PyTorch (weights per channel, inputs per tensor and image), so that layers have
    the names that the user knows, whatever the runtime calls them.
    """
    network = copy.deepcopy(network).eval()

    def run(lq: Images) -> Images:
        return network(torch.from_numpy(lq)).numpy()

    reference = mean_psnr(run, images)
    losses = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        weight = layer.weight.data
        # Output channels are the second axis of a transposed convolution.
        channel_axis = int(isinstance(layer, nn.ConvTranspose2d))
        layer.weight.data = round_weight(weight, channel_axis)
        handle = layer.register_forward_pre_hook(_round_input)
        losses[name] = reference - mean_psnr(run, images)
        handle.remove()
        layer.weight.data = weight
    return losses


def round_weight(weight: Tensor, channel_axis: int) -> Tensor:
    """Round a weight to 255 symmetric levels per output channel."""
    other_axes = [axis for axis in range(weight.dim()) if axis != channel_axis]
    step = weight.abs().amax(other_axes, keepdim=True).clamp_min(1e-12) / 127
    return (weight / step).round() * step


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Round a layer's input to 256 levels between its extremes, 0 included."""
    x = inputs[0]
    low = x.min().clamp_max(0)
    step = ((x.max().clamp_min(0) - low) / 255).clamp_min(1e-12)
    return (((x - low) / step).round() * step + low,)


ONNX_RECIPES = (*RECIPES, Recipe(float_ends=True, needs_vnni=True))


def quantize_onnx(
    content: bytes, images: Sequence[CalibrationImage], recipe: Recipe
) -> "onnx.ModelProto":
    """Quantize an ONNX model for onnxruntime, as pairs of QuantizeLinear and DequantizeLinear."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    # Parsed each time: the quantizer changes the model that it is given.
    model = onnx.load_model_from_string(content)
    input_name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            image = next(self.remaining, None)
            # The quantizer's sign for the end.
            if image is None:
                return None
            return {input_name: image.lq.numpy()}

    layers = [node.name for node in model.graph.node if node.op_type in _ONNX_LAYERS]
    with _quiet("root", "nncf"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not recipe.needs_vnni,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[layers[0], layers[-1]] if recipe.float_ends else [],
            # The mean of the images' extremes: a single outlier would coarsen every other value.
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load_model(path)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress what the libraries log, warn about themselves and print as progress."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with quiet_exporters(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_ONNX_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPENVINO_LAYERS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)


def quantize_openvino(model: Any, images: Sequence[CalibrationImage], recipe: Recipe) -> Any:
    """Quantize an OpenVINO model by NNCF, with correction of the biases.

    Raises:
        UserError: nncf is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise UserError(
            "--int8 for OpenVINO needs the package nncf, which is not installed: "
            "pip install 'dhp_sr[openvino]'"
        ) from error
    layers = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _OPENVINO_LAYERS:
            layers.append(operation.get_friendly_name())
    ignored = None
    if recipe.float_ends:
        # A set: a network may have a single layer.
        ignored = nncf.IgnoredScope(names=sorted({layers[0], layers[-1]}))
    inputs = [image.lq.numpy() for image in images]
    with _quiet("nncf"):
        return nncf.quantize(
            model, nncf.Dataset(inputs), subset_size=len(inputs), ignored_scope=ignored
        )
