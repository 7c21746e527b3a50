"""Interpolation whose values do not depend on where in an image a tile begins."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class ExactInterpolation(TorchFunctionMode):
    """Interpolation by a whole number, with the same weights wherever a tile begins.

    PyTorch computes the weights of a pixel from its position, in float32, and sums in another
    order at the end of a row. The rounding differs from position to position, so a tile and the
    whole image would differ by one level now and then. Here the weights follow from the remainder
    of the position alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.interpolate:
            return func(*args, **kwargs)
        scale = _whole_scale(*args, **kwargs)
        if scale is None:
            return func(*args, **kwargs)
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        enlarged: Tensor = args[0] if args else kwargs["input"]
        for axis in (2, 3):
            enlarged = _enlarge_axis(enlarged, axis, scale, mode)
        return enlarged


_FIRST_TAPS = {"bilinear": 0, "bicubic": -1}
"""Mode -> position of the first pixel that is read, relative to the one before the new pixel."""
_BICUBIC = -0.75
"""Coefficient of the cubic kernel that PyTorch uses (Keys, 1981)."""


def _whole_scale(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> int | None:
    """Return by which whole number an image is enlarged; None: leave it to PyTorch.

    The arguments are those of `torch.nn.functional.interpolate`.
    """
    if mode not in _FIRST_TAPS or input.dim() != 4 or align_corners or antialias:
        return None
    if scale_factor is not None:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor,) * 2
    else:
        sizes = size if isinstance(size, tuple | list) else (size,) * 2
        factors = [new / old for new, old in zip(sizes, input.shape[2:], strict=True)]
    scale = int(factors[0])
    if scale < 2 or any(factor != scale for factor in factors):
        return None
    return scale


def _enlarge_axis(image: Tensor, axis: int, scale: int, mode: str) -> Tensor:
    """Enlarge a tensor (N, C, H, W) along an axis."""
    length = image.shape[axis]
    # In whole numbers: twice the scale times the position, in input pixels.
    position = 2 * torch.arange(length * scale) + 1 - scale
    if mode == "bilinear":
        position = position.clamp(min=0)
    before = position.div(2 * scale, rounding_mode="floor")
    fraction = (position - 2 * scale * before).double() / (2 * scale)
    enlarged: Tensor | None = None
    shape = [-1 if dim == axis else 1 for dim in range(4)]
    for tap, weight in enumerate(_tap_weights(fraction, mode), start=_FIRST_TAPS[mode]):
        index = (before + tap).clamp(0, length - 1).to(image.device)
        # Products and sums apart: a fused operation might round otherwise at the edge of a row.
        product = image.index_select(axis, index) * weight.to(image).reshape(shape)
        enlarged = product if enlarged is None else enlarged + product
    assert enlarged is not None
    return enlarged


def _tap_weights(fraction: Tensor, mode: str) -> list[Tensor]:
    """Return the weights of the pixels around a position, in their order."""
    if mode == "bilinear":
        return [1 - fraction, fraction]
    weights = []
    for distance in (1 + fraction, fraction, 1 - fraction, 2 - fraction):
        near = ((_BICUBIC + 2) * distance - (_BICUBIC + 3)) * distance * distance + 1
        far = ((distance - 5) * distance + 8) * distance - 4
        weights.append(torch.where(distance <= 1, near, _BICUBIC * far))
    return weights
