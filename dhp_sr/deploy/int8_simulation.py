"""Simulation of int8 in PyTorch: the loss of single layers, and quantization-aware finetuning.

Weights are rounded per output channel and the inputs of layers per tensor, as the quantizers of the
runtimes do. Layers have the names that the user knows, whatever a runtime calls them.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dhp_sr.deploy.runner import Images
from dhp_sr.utils.modules import call_input, deep_copy, replace_call_input

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers that are computed in int8."""

FINETUNE_BATCH = 8
FINETUNE_SIDE = 48
"""Height and width of the patches that are finetuned on, at most."""

LEARNING_RATE = 1e-4
_MAX_WEIGHT = 63
"""Largest weight in 7 bits, which every processor computes without overflow."""

Ranges = Mapping[str, tuple[float, float]]
"""Name of a layer -> smallest and largest value of its inputs."""

Run = Callable[[Images], Images]
"""Function that computes a network."""

_Args = tuple[Tensor, ...]
_Kwargs = dict[str, Tensor]


@dataclass(frozen=True)
class CalibrationImage:
    """An input of the network and the image that it should give."""

    lq: Tensor
    """(1, C, H, W) in [0, 1]."""
    gt: Tensor
    """(1, C, scale H, scale W) in [0, 1]."""


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

    Inputs are rounded between the extremes of each image, weights to 8 bits.
    """
    network = deep_copy(network).eval()

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
        handle = layer.register_forward_pre_hook(_round_input, with_kwargs=True)
        losses[name] = reference - mean_psnr(run, images)
        handle.remove()
        layer.weight.data = weight
    return losses


def round_weight(weight: Tensor, channel_axis: int) -> Tensor:
    """Round a weight to 255 symmetric levels per output channel."""
    other_axes = [axis for axis in range(weight.dim()) if axis != channel_axis]
    step = weight.abs().amax(other_axes, keepdim=True).clamp_min(1e-12) / 127
    return (weight / step).round() * step


def _round_input(layer: nn.Module, args: _Args, kwargs: _Kwargs) -> tuple[_Args, _Kwargs]:
    """Round a layer's input to 256 levels between its extremes, 0 included."""
    x = call_input(args, kwargs)
    low = x.min().clamp_max(0)
    step = ((x.max().clamp_min(0) - low) / 255).clamp_min(1e-12)
    return replace_call_input(args, kwargs, ((x - low) / step).round() * step + low)


def finetune_for_int8(
    network: nn.Module,
    images: Sequence[CalibrationImage],
    steps: int,
    *,
    size_multiple: int = 1,
    least_side: int = 1,
) -> nn.Module:
    """Finetune a copy of a network so that rounding to int8 changes its results less.

    Forward passes round weights and inputs of all layers but the first and the last; backward
    passes take rounding for the identity (straight-through estimator). The target is the result
    of the original, not the ground truth: int8 must not score better than it is because it saw
    the images that it is measured on.

    Args:
        network: In float32; left as it was.
        images: That patches are taken from.
        steps: Steps of Adam, with a learning rate that falls to zero.
        size_multiple: Sides of inputs are multiples of it.
        least_side: Smaller sides do not pass through the network.

    References:
        Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
            Only Inference, CVPR 2018.
        Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013.
    """
    original = deep_copy(network).eval().requires_grad_(False)
    tuned = deep_copy(network).eval().requires_grad_(True)
    ranges = input_ranges(original, images)
    inner = [*ranges][1:-1]
    optimizer = torch.optim.Adam(tuned.parameters(), LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    # Of its own: exporting must not move the random state of the program around it.
    generator = random.Random(0)
    side = _patch_side(images, size_multiple, least_side)
    with simulated_int8(tuned, {name: ranges[name] for name in inner}):
        for _ in range(steps):
            patches = _draw_patches(images, generator, side)
            with torch.no_grad():
                target = original(patches)
            loss = functional.mse_loss(tuned(patches), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    # Of the simulation, parameters have another order.
    result = deep_copy(network).eval().requires_grad_(False)
    result.load_state_dict(tuned.state_dict())
    return result


@torch.no_grad()
def input_ranges(
    network: nn.Module, images: Sequence[CalibrationImage]
) -> dict[str, tuple[float, float]]:
    """Return the range of each layer's inputs, the mean of the images' extremes.

    In the order in which the layers are first called.
    """
    extremes: dict[str, list[Tensor]] = {}

    def observe(name: str, layer: nn.Module, args: _Args, kwargs: _Kwargs) -> None:
        extremes.setdefault(name, []).append(torch.stack(call_input(args, kwargs).aminmax()))

    handles = []
    for name, layer in network.named_modules():
        if isinstance(layer, LAYERS):
            handles.append(
                layer.register_forward_pre_hook(partial(observe, name), with_kwargs=True)
            )
    for image in images:
        network(image.lq)
    for handle in handles:
        handle.remove()
    ranges = {}
    for name, pairs in extremes.items():
        low, high = torch.stack(pairs).mean(0).tolist()
        # Padding is zero, so zero must have an exact form.
        ranges[name] = (min(low, 0.0), max(high, 0.0))
    return ranges


@contextmanager
def simulated_int8(network: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Round weights to 7 bits and inputs to 8 bits in the layers named; gradients pass through."""
    handles = []
    layers = dict(network.named_modules())
    for name, limits in ranges.items():
        layer = layers[name]
        # Output channels are the second axis of a transposed convolution.
        rounding = _RoundedWeight(int(isinstance(layer, nn.ConvTranspose2d)))
        parametrize.register_parametrization(layer, "weight", rounding)
        handles.append(
            layer.register_forward_pre_hook(partial(_round_to_range, limits), with_kwargs=True)
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name in ranges:
            parametrize.remove_parametrizations(layers[name], "weight", leave_parametrized=False)


class _RoundedWeight(nn.Module):
    """A weight in 7 bits with a scale per output channel."""

    def __init__(self, channel_axis: int) -> None:
        super().__init__()
        self.channel_axis = channel_axis

    def forward(self, weight: Tensor) -> Tensor:
        other_axes = [axis for axis in range(weight.dim()) if axis != self.channel_axis]
        largest = weight.detach().abs().amax(other_axes).clamp_min(1e-12)
        zeros = torch.zeros(len(largest), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, largest / _MAX_WEIGHT, zeros, self.channel_axis, -_MAX_WEIGHT, _MAX_WEIGHT
        )


def _round_to_range(
    limits: tuple[float, float], layer: nn.Module, args: _Args, kwargs: _Kwargs
) -> tuple[_Args, _Kwargs]:
    low, high = limits
    step = max((high - low) / 255, 1e-12)
    zero_point = round(-low / step)
    x = call_input(args, kwargs)
    rounded = torch.fake_quantize_per_tensor_affine(x, step, zero_point, 0, 255)
    return replace_call_input(args, kwargs, rounded)


def _patch_side(images: Sequence[CalibrationImage], size_multiple: int, least_side: int) -> int:
    """Return the height and width of patches, which suit the smallest image and the network."""
    smallest = max(FINETUNE_SIDE, least_side)
    for image in images:
        smallest = min(smallest, *image.lq.shape[2:])
    return max(smallest // size_multiple, 1) * size_multiple


def _draw_patches(
    images: Sequence[CalibrationImage], generator: random.Random, side: int
) -> Tensor:
    """Cut random patches of a height and width."""
    patches = []
    for _ in range(FINETUNE_BATCH):
        lq = generator.choice(images).lq
        top = generator.randint(0, lq.shape[2] - side)
        left = generator.randint(0, lq.shape[3] - side)
        patches.append(lq[..., top : top + side, left : left + side])
    return torch.cat(patches)
