"""Fourier transforms: linear, each channel by itself where they are taken over space."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dhp_sr.operators.context import NodeContext, OpContext
from dhp_sr.operators.elementwise import binary_channels, pointwise_field, unary_channels
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import OpSpec, Unsupported, spellings

_TRANSFORMS = (
    *(torch.fft.fft, torch.fft.ifft, torch.fft.rfft, torch.fft.irfft),
    *(torch.fft.fft2, torch.fft.ifft2, torch.fft.rfft2, torch.fft.irfft2),
    *(torch.fft.fftn, torch.fft.ifftn, torch.fft.rfftn, torch.fft.irfftn),
)

_SHIFTS = (torch.fft.fftshift, torch.fft.ifftshift)


def transform_channels(op: OpContext) -> Any:
    """Keep the channels of a transform over other axes.

    Raises:
        Unsupported: Channels are transformed.
    """
    for dim in _transformed_axes(op):
        if op.varies_along(op.source, dim):
            raise Unsupported(f"{op.operator} over channels at {op.layer}")
    return op.ids[op.source]


def _transformed_axes(op: NodeContext) -> Iterable[int]:
    rank = len(op.shape(op.source))
    is_shift = op.node.target in _SHIFTS
    dims = op.arg_value(1 if is_shift else 2, "dim")
    if isinstance(dims, int):
        return [dims]
    if dims is not None:
        return list(dims)
    if op.operator.endswith("fft2"):
        return [-2, -1]
    sizes = None if is_shift else op.arg_value(1, "s")
    if op.operator.endswith("fftn") or is_shift:
        # The last axes, as many as sizes are given; else all.
        return range(-(len(sizes) if sizes else rank), 0)
    return [-1]


def real_view_channels(op: OpContext) -> Tensor:
    """Keep the channels; real and imaginary parts lie along a new last axis."""
    return op.ids[op.source].unsqueeze(-1)


def complex_view_channels(op: OpContext) -> Tensor:
    """Keep the channels; real and imaginary parts lie along the last axis, which goes.

    Raises:
        Unsupported: The parts are different channels.
    """
    if op.varies_along(op.source, -1):
        raise Unsupported(f"channels become parts of complex numbers at {op.layer}")
    return op.ids[op.source].squeeze(-1)


OPS = (
    OpSpec("Fourier transform", _TRANSFORMS, transform_channels, whole_image_field),
    OpSpec("shift of frequencies", _SHIFTS, transform_channels, whole_image_field),
    OpSpec("complex number", spellings("complex", torch), binary_channels, pointwise_field),
    OpSpec(
        "part of a complex number",
        spellings("real imag angle conj", torch),
        channels=unary_channels,
        receptive_field=pointwise_field,
    ),
    OpSpec("view_as_real", (torch.view_as_real,), real_view_channels, whole_image_field),
    OpSpec("view_as_complex", (torch.view_as_complex,), complex_view_channels, whole_image_field),
)
