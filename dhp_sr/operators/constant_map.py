"""The module that a removed layer leaves behind: a constant, the same at every position."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dhp_sr.operators.channel_ids import lay_along
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.resampling import slide_windows
from dhp_sr.operators.spatial_layout import mix_axes
from dhp_sr.operators.spec import OpSpec, Shape, Shapes


class ConstantMap(nn.Module):
    """Takes the place of a layer whose output no longer depends on its input.

    A convolution without input channels computes its bias, at every position; one without output
    channels computes a map that is empty, but has a height and a width.

        input (N, any, H, W) -> strided positions (H', W') -> bias at each of them (N, C, H', W')

    Args:
        channels: C, may be 0.
        strides: Strides of the layer, one for each axis behind the channels: (1, 1) for a map
            (N, C, H, W), () where the channels come last, as in a linear layer.
        trainable: Whether the constant is a parameter; else it is a buffer.
        device: Device of the constant.
    """

    bias: Tensor | None
    """(C,); None for C = 0."""

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        *,
        trainable: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        if channels == 0:
            self.register_parameter("bias", None)
        elif trainable:
            self.bias = nn.Parameter(torch.empty(channels, device=device))
        else:
            self.register_buffer("bias", torch.empty(channels, device=device))

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return 0 if self.bias is None else len(self.bias)

    @property
    def channel_dim(self) -> int:
        """Axis of the channels, counted from the back."""
        return -1 - len(self.strides)

    def forward(self, x: Tensor) -> Tensor:
        """Return the constant at the strided positions of a value; nothing else of it is read."""
        positions = x.narrow(self.channel_dim, 0, 0)
        if any(stride > 1 for stride in self.strides):
            steps: tuple[Any, ...] = tuple(slice(None, None, stride) for stride in self.strides)
            positions = positions[(..., *steps)]
        if self.bias is None:
            # A copy here as well: an activation in place would write into a part of the input.
            return positions.clone()
        shape = list(positions.shape)
        shape[self.channel_dim] = len(self.bias)
        constant = self.bias.to(x.dtype).reshape(-1, *[1] * len(self.strides))
        # A copy: the forward may add to it in place.
        return constant.expand(shape).clone()

    def extra_repr(self) -> str:
        """Return the settings, for `print`."""
        return f"channels={self.channels}, strides={self.strides}"


def constant_channels(op: OpContext) -> Tensor:
    """Create the channels of the constant; none where it is empty."""
    module = op.module
    if module.bias is None:
        rank = op.value.dim()
        return lay_along(torch.zeros(0, dtype=torch.long), rank, module.channel_dim % rank)
    channels = op.analysis.new_out_channels(f"{op.layer}.bias", 0, module.channels, op.layer)
    return op.broadcast_along(channels, module.channel_dim)


def constant_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Return the field of the positions: the pixels themselves, though none of them is read."""
    if op.value.dim() == 4 and len(op.module.strides) == 2:
        return slide_windows(op, 1, op.module.strides, 0, 1)
    return mix_axes(op, op.field, [op.module.channel_dim])


def resize_constant(layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Accept any number of channels: the length of the bias says it all."""
    return {"bias": new["bias"]}


OPS = (
    OpSpec(
        "constant of a removed layer",
        (ConstantMap,),
        channels=constant_channels,
        receptive_field=constant_field,
        resize=resize_constant,
    ),
)
