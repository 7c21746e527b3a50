"""Normalization layers over channels, in all the ways that people write them.

LayerNorm over the channels of (N, C, H, W) has no class in torch, so every project has its own:
two permutations around `F.layer_norm`, means and variances written out, a custom autograd
function. They are recognized by what they compute, and are then single operators.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhp_sr.graph.tracer import LEAF_TESTS
from dhp_sr.operators.channel_ids import varying_axes
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.kept_calls import keep_channels_of_call, keep_channels_of_module
from dhp_sr.operators.narrow import narrow
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import OpSpec, Unsupported

_TOLERANCE = 1e-9


def norm_axis(module: nn.Module, shape: Sequence[int]) -> int | None:
    """Return the axis of channels of a hand-written normalization over channels.

    A module is one if it has vectors of one length C and nothing else, returns the shape that it
    is given, commutes with permutations of the channels, runs at any width, and if a channel of its
    input has an effect on others of its result.

    Args:
        module: Any module.
        shape: Shape of its input.

    Returns:
        1 or the last axis; None for any other module.
    """
    width = width_of_vectors(module)
    if width is None or len(shape) not in (3, 4):
        return None
    # For images the channels lie along axis 1, for sequences and for channels-last along the last.
    for dim in (1, len(shape) - 1):
        if shape[dim] == width and _is_norm(module, len(shape), dim, width):
            return dim
    return None


def width_of_vectors(module: nn.Module) -> int | None:
    """Return the length of a module's vectors; None for one that holds anything else.

    A vector may be laid out as (C,), (C, 1, 1) or (1, C, 1, 1).
    """
    tensors = dict(module.named_parameters())
    is_candidate = (
        not type(module).__module__.startswith("torch.nn.")
        and not any(True for _ in module.children())
        and not dict(module.named_buffers())
        and 1 <= len(tensors) <= 3
    )
    if not is_candidate:
        return None
    lengths = set()
    for tensor in tensors.values():
        lengths.add(tensor.numel())
        if max(tensor.shape, default=0) != tensor.numel():
            return None
    if len(lengths) != 1 or lengths == {1}:
        return None
    return lengths.pop()


@torch.no_grad()
def _is_norm(module: nn.Module, rank: int, dim: int, width: int) -> bool:
    """Return whether a module behaves as a normalization over axis `dim`."""
    generator = torch.Generator().manual_seed(0)
    lengths = [2, 5, 3, 4][:rank]
    lengths[dim] = width
    example = torch.randn(lengths, generator=generator, dtype=torch.double)
    twin = copy.deepcopy(module).to("cpu", torch.double).eval()
    # Conversion starts with gains of 1 and biases of 0, with which permuted vectors look alike.
    for parameter in twin.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.double) + 0.5
    changed = example.clone()
    changed.select(dim, 0).add_(1)
    half = torch.randperm(width, generator=generator)[: (width + 1) // 2]
    order = torch.randperm(width, generator=generator)
    try:
        result = twin(example)
        # A permutation is a choice of all channels in another order.
        permuted = with_width(twin, order)(example.index_select(dim, order))
        halved = with_width(twin, half)(example.index_select(dim, half))
        result_of_changed = twin(changed)
    except Exception:  # whatever a module raises that is no such layer
        return False
    if not isinstance(result, Tensor) or result.shape != example.shape:
        return False
    expected = result.index_select(dim, order)
    is_equivariant = (permuted - expected).abs().max() < _TOLERANCE
    # Channel 0 alone was changed: in a normalization the others follow, with its statistics.
    effect_on_others = (result_of_changed - result).narrow(dim, 1, width - 1)
    mixes_channels = effect_on_others.abs().max() > 1e-6
    return bool(is_equivariant and mixes_channels and halved.shape[dim] == len(half))


def _long_axis(vector: Tensor) -> int:
    """Return the axis of a vector, which may be laid out as (C,), (C, 1, 1) or (1, C, 1, 1)."""
    sizes = list(vector.shape)
    return sizes.index(max(sizes))


def with_width(module: nn.Module, kept: Tensor) -> nn.Module:
    """Return a shallow copy of a normalization that has only some of its channels.

    Args:
        module: A normalization whose parameters hold an entry for each channel.
        kept: Indices of the channels.
    """
    axes = {}
    for name, tensor in module.named_parameters(recurse=False):
        axes[name, _long_axis(tensor)] = kept
    return narrow(module, axes)


def channel_norm_channels(op: OpContext) -> Tensor:
    """Keep the channels; the statistics are taken over those that are kept.

    Raises:
        Unsupported: The module is no normalization over channels.
    """
    assert op.module is not None, "registered for modules alone"
    dim = norm_axis(op.module, op.shape(op.source))
    if dim is None:
        raise Unsupported(f"operator {op.operator} at {op.layer} has no rule")
    return keep_statistics(op, dim)


def keep_statistics(op: OpContext, dim: int) -> Tensor:
    """Bind the vectors of a normalization over axis `dim`, and state over what it normalizes.

    In the masked network as in the cut one the statistics are those of the kept channels; with all
    channels kept that is the original.

    Raises:
        Unsupported: The plan was asked to pin such channels.
    """
    if op.module is None:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    vectors = {}
    for name, tensor in op.module.named_parameters(recurse=False):
        vectors[name, _long_axis(tensor)] = f"{op.layer}.{name}"
    channels = keep_channels_of_module(op, dim, vectors)
    for (_, axis), name in vectors.items():
        op.analysis.bind_axis(name, axis, channels)
    return op.broadcast_along(channels, dim)


def channel_norm_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a normalization over channels, if it is one for each pixel.

    Raises:
        Unbounded: The statistics are taken over pixels as well.
    """
    assert op.module is not None, "registered for modules alone"
    shape = op.shape(op.source)
    dim = norm_axis(op.module, shape)
    if dim is None or not _is_pixelwise(op.module, len(shape), dim):
        raise op.unbounded("takes statistics of the whole image")
    return mix_axes(op, op.field, [dim])


@torch.no_grad()
def _is_pixelwise(module: nn.Module, rank: int, dim: int) -> bool:
    """Return whether no position of the result depends on another position."""
    twin = copy.deepcopy(module).to("cpu", torch.double).eval()
    lengths = [2, 5, 3, 4][:rank]
    lengths[dim] = next(twin.parameters()).numel()
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(lengths, generator=generator, dtype=torch.double)
    changed = example.clone()
    position = [slice(None) if axis == dim else 0 for axis in range(rank)]
    changed[tuple(position)] += torch.randn(lengths[dim], generator=generator, dtype=torch.double)
    difference = twin(changed) - twin(example)
    difference[tuple(position)] = 0
    return bool(difference.abs().max() < _TOLERANCE)


def neighbors_norm_channels(op: OpContext) -> Tensor:
    """Keep the channels; each is divided by what it and its kept neighbors are.

    Raises:
        Unsupported: There are several axes of channels, or they are to be pinned.
    """
    if varying_axes(op.ids[op.source]) != [1]:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    if op.module is not None:
        return op.broadcast_along(keep_channels_of_module(op, 1))
    return op.broadcast_along(keep_channels_of_call(op, 1, returns_channels=True))


def neighbors_norm_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of a normalization by neighboring channels."""
    return mix_axes(op, op.field, [1])


NEIGHBORS_NORM = OpSpec(
    "local response normalization",
    (nn.LocalResponseNorm, F.local_response_norm),
    channels=neighbors_norm_channels,
    receptive_field=neighbors_norm_field,
)

CHANNEL_NORM = OpSpec(
    "normalization over channels",
    (),
    channels=channel_norm_channels,
    receptive_field=channel_norm_field,
)
"""Stands for every module that is recognized by `norm_axis`."""

LEAF_TESTS.append(lambda module, shape: norm_axis(module, shape) is not None)
