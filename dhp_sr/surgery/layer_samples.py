"""Layers with a weight as regressions: which inputs each output position reads.

A convolution, a transposed convolution and a linear layer are all linear in their weight. For some
positions of the output, the rows of features here times the flattened weight are the layer's output
without its bias.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.surgery.least_squares import Solution
from dhp_sr.utils.modules import out_dim

Layer = _ConvNd | nn.Linear
"""Any of the classes in `LAYERS`; torch's base class of convolutions types their attributes."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)


def layer_of_weight(network: nn.Module, weight: str) -> Layer | None:
    """Layer that holds a weight of this name; None if it is no layer of `LAYERS`.

    Args:
        network: The network.
        weight: Such as `body.0.weight`.
    """
    path, _, leaf = weight.rpartition(".")
    module = network.get_submodule(path)
    if leaf != "weight" or type(module) not in LAYERS:
        return None
    assert isinstance(module, Layer)
    return module


def is_transposed(layer: Layer) -> bool:
    """Whether the weight of a layer holds input channels first: (in, out, ...)."""
    return isinstance(layer, _ConvTransposeNd)


def in_dim(layer: Layer) -> int:
    """Axis of the weight that holds the input channels (of a group)."""
    return 1 - out_dim(layer)


def kernel_size(layer: Layer) -> tuple[int, ...]:
    """Size of a layer's kernel along each axis; () for a linear layer."""
    return () if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)


def num_groups(layer: Layer) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return 1 if isinstance(layer, nn.Linear) else layer.groups


def num_positions(layer: Layer, output: Tensor) -> int:
    """Number of positions in a sample of a layer's output."""
    if isinstance(layer, nn.Linear):
        return output.numel() // output.shape[-1]
    return output.numel() // len(output)


def num_features(layer: Layer, in_channels: int) -> int:
    """Number of inputs that an output value of a layer reads."""
    return in_channels * math.prod(kernel_size(layer))


def choose_positions(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `wanted` of `count` positions, at random without repetition."""
    if count <= wanted:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted]


def sample_features(
    layer: Layer, sample: Tensor, output: Tensor, channels: Tensor, positions: Tensor
) -> Tensor:
    """Features of a sample at some output positions.

    Args:
        layer: One of `LAYERS`.
        sample: The layer's input without the batch axis: (C, H, W) for a convolution in two
            dimensions, (..., C) for a linear layer.
        output: The layer's output for it; its shape gives the positions.
        channels: Indices of the input channels that count.
        positions: (rows,) flat indices of output positions.

    Returns:
        (rows, len(channels) * kernel size), channels first, as a flattened kernel has them.
    """
    if isinstance(layer, nn.Linear):
        return sample.reshape(-1, sample.shape[-1])[positions][:, channels]
    spatial = tuple(output.shape[1:])
    windows = _windows(layer, sample[channels], spatial)
    at: tuple[Tensor, ...] = torch.unravel_index(positions, spatial)
    # Advanced indices behind the leading slice: (channels, rows, *kernel).
    index: tuple[slice | Tensor, ...] = (slice(None), *at)
    return windows[index].transpose(0, 1).flatten(1)


def sample_outputs(layer: Layer, sample: Tensor, channels: Tensor, positions: Tensor) -> Tensor:
    """Values (rows, len(channels)) of a layer's output, or of its targets, at the positions."""
    if isinstance(layer, nn.Linear):
        return sample.reshape(-1, sample.shape[-1])[positions][:, channels]
    return sample.flatten(1)[:, positions][channels].T


def as_matrix(layer: Layer, weight: Tensor) -> Tensor:
    """Reshape a weight to (out, features), as `sample_features` has them; inverts `as_kernel`."""
    if is_transposed(layer):
        # As the kernel of the plain convolution that equals it, see `_zero_stuffed`.
        weight = weight.transpose(0, 1).flip(dims=tuple(range(2, weight.dim())))
    return weight.flatten(1)


def as_kernel(layer: Layer, coefficients_OF: Tensor) -> Tensor:
    """Reshape coefficients (out, features) like the weight: (out, in, ...), or (in, out, ...)."""
    out_channels = len(coefficients_OF)
    kernel = coefficients_OF.reshape(out_channels, -1, *kernel_size(layer))
    if not is_transposed(layer):
        return kernel
    spatial_axes = tuple(range(2, kernel.dim()))
    return kernel.flip(dims=spatial_axes).transpose(0, 1)


def _windows(layer: _ConvNd, sample: Tensor, spatial: Sequence[int]) -> Tensor:
    """View (channels, *positions, *kernel) of a convolution's inputs; only padding copies.

    Along one axis, with stride 2 and dilation 1, windows of 3 lie on the same memory:

        padded       0 a b c d e 0
        window 0     0 a b            the next window starts 2 entries further,
        window 1         b c d        the next tap of a window 1 entry
        window 2             d e 0
    """
    if isinstance(layer, _ConvTransposeNd):
        padded = _zero_stuffed(layer, sample, spatial)
        stride: tuple[int, ...] = (1,) * len(spatial)
    else:
        # torch's own order of padding, the last axis first; F.pad calls zero padding "constant".
        mode = {"zeros": "constant"}.get(layer.padding_mode, layer.padding_mode)
        padded = F.pad(sample[None], layer._reversed_padding_repeated_twice, mode=mode)[0]
        stride = layer.stride
    padded = padded.contiguous()
    channel_step, *steps = padded.stride()
    # Neighboring windows lie a stride apart, neighboring taps within a window a dilation.
    between = [step * jump for step, jump in zip(steps, stride, strict=True)]
    within = [step * gap for step, gap in zip(steps, layer.dilation, strict=True)]
    shape = (len(padded), *spatial, *layer.kernel_size)
    return padded.as_strided(shape, (channel_step, *between, *within))


def _zero_stuffed(layer: _ConvTransposeNd, sample: Tensor, spatial: Sequence[int]) -> Tensor:
    """Input of the plain convolution, with the kernel flipped, that equals a transposed one.

    Zeros go between the entries and around them. Stride 2, kernel 3, padding 1, output padding 1:

        a b c   ->   0 a 0 b 0 c 0 0        windows of 3: 6 outputs
    """
    sizes = sample.shape[1:]
    stuffed = [(size - 1) * step + 1 for size, step in zip(sizes, layer.stride, strict=True)]
    spread = sample.new_zeros(len(sample), *stuffed)
    every = tuple(slice(None, None, step) for step in layer.stride)
    spread[(slice(None), *every)] = sample
    padding: list[int] = []
    for axis in reversed(range(len(sizes))):  # F.pad begins with the last axis
        # A transposed convolution has no padding by name: its sizes are numbers.
        overlap = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        before = overlap - int(layer.padding[axis])
        # From the output's size: a call may state that, and the padding behind with it.
        padding += [before, spatial[axis] + overlap - before - stuffed[axis]]
    return F.pad(spread, padding)


def add_to_layer(layer: Layer, solution: Solution, kept_in: Tensor, outs: Tensor) -> None:
    """Add coefficients and intercepts to some channels of a layer's weight and bias."""
    rows = outs
    columns = kept_in
    if is_transposed(layer):
        rows = kept_in
        columns = outs
    change = as_kernel(layer, solution.coefficients).to(layer.weight)
    layer.weight[rows[:, None], columns] += change
    if layer.bias is not None:
        layer.bias[outs] += solution.intercepts.to(layer.bias)
