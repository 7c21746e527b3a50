"""Value range of third-party networks: determined by trial on images, and adapted to [0, 1]."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dhp_sr.utils.errors import UserError

SCALE_ARGUMENT = "value_scale"
SHIFT_ARGUMENT = "value_shift"
"""Arguments beside those of a constructor that say how its values differ from [0, 1]."""

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean color of DIV2K, which networks of the EDSR family subtract outside of the network."""

IMPLAUSIBLE_DB = 24.0
PLAUSIBLE_DB = 18.0
CLEARLY_BETTER_DB = 3.0
"""Another range than [0, 1] is assumed only where outputs for that one are less like the inputs
than `IMPLAUSIBLE_DB`, and if it is better by `CLEARLY_BETTER_DB` and above `PLAUSIBLE_DB`. A
denoiser's outputs differ from its inputs by the noise, which is a little above 20 dB."""

MAX_PSNR_DB = 99.0


class RangeAdapter(nn.Module):
    """A network of another value range, taking and giving images in [0, 1].

        x -> (x - shift) * scale -> network -> / scale + shift -> y

    Args:
        network: Works on values `scale` times those outside.
        scale: 255 for a network of values from 0 to 255.
        shift: Subtracted from the input and added to the output: a value for all channels, or one
            per channel.
    """

    shift: Tensor

    def __init__(self, network: nn.Module, scale: float, shift: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.value_scale = scale
        # Not persistent: the numbers are arguments, and travel as such.
        shift_1C11 = torch.tensor(list(shift), dtype=torch.float32).view(1, -1, 1, 1)
        self.register_buffer("shift", shift_1C11, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (N, C, H, W) in [0, 1] to an image in [0, 1]."""
        return self.network((x - self.shift) * self.value_scale) / self.value_scale + self.shift


@dataclass(frozen=True)
class ValueRange:
    """Difference of a network's values from those of images in [0, 1]."""

    scale: float = 1.0
    shift: tuple[float, ...] = (0.0,)

    @property
    def is_plain(self) -> bool:
        """Whether values are in [0, 1]."""
        return self.scale == 1 and not any(self.shift)

    @property
    def arguments(self) -> dict[str, float | list[float]]:
        """Arguments beside the constructor's that `adapt_range` reads; none for [0, 1]."""
        if self.is_plain:
            return {}
        return {SCALE_ARGUMENT: float(self.scale), SHIFT_ARGUMENT: list(self.shift)}

    def describe(self) -> str:
        """Return a text such as `0 to 255, mean subtracted`."""
        text = f"0 to {self.scale:g}"
        return f"{text}, mean color subtracted" if any(self.shift) else text

    def apply(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Run a network of this range on images in [0, 1]."""
        shift = torch.tensor(self.shift).view(1, -1, 1, 1)
        return network((images - shift) * self.scale) / self.scale + shift


def adapt_range(
    build: Callable[[Mapping[str, object]], nn.Module], arguments: Mapping[str, object]
) -> nn.Module:
    """Construct a network, and adapt its range if the arguments ask for it.

    Args:
        build: Constructs it from the other arguments.
        arguments: These, and those of `ValueRange.arguments`.

    Raises:
        UserError: The range is no number above 0 and a list of numbers.
    """
    rest = dict(arguments)
    scale = rest.pop(SCALE_ARGUMENT, 1.0)
    shift = rest.pop(SHIFT_ARGUMENT, (0.0,))
    if not isinstance(scale, int | float) or scale <= 0:
        raise UserError(f"{SCALE_ARGUMENT}: expected a number above 0, got {scale!r}")
    if not isinstance(shift, list | tuple) or not shift:
        raise UserError(f"{SHIFT_ARGUMENT}: expected a list of numbers, got {shift!r}")
    for value in shift:
        if not isinstance(value, int | float):
            raise UserError(f"{SHIFT_ARGUMENT}: expected numbers, got {value!r}")
    # The constructor would refuse arguments that it does not know.
    network = build(rest)
    if ValueRange(scale, tuple(shift)).is_plain:
        return network
    return RangeAdapter(network, scale, shift)


@torch.no_grad()
def find_value_range(
    network: nn.Module, images: Sequence[Tensor], scale: int, channels: int
) -> tuple[ValueRange, float]:
    """Try value ranges on images, and return the one whose outputs look most like the inputs.

    A network in a wrong range is ruled by its biases, or sees nothing but noise.

    Args:
        network: In evaluation mode.
        images: (C, H, W) each, in [0, 1].
        scale: Enlargement; outputs are reduced by it before they are compared.
        channels: Channels of the images.

    Returns:
        The range, and the mean PSNR in dB between the reduced outputs and the inputs.
    """
    ranges = [ValueRange(), ValueRange(255.0)]
    # The mean is that of colors; gray networks that subtract one are not known.
    if channels == 3:
        ranges += [ValueRange(1.0, DIV2K_MEAN), ValueRange(255.0, DIV2K_MEAN)]
    scores = [_likeness_db(network, images, scale, candidate) for candidate in ranges]
    best = max(range(len(ranges)), key=lambda index: scores[index])
    is_better = scores[best] >= scores[0] + CLEARLY_BETTER_DB and scores[best] > PLAUSIBLE_DB
    # [0, 1] is by far the most common, so doubt decides for it.
    if scores[0] > IMPLAUSIBLE_DB or not is_better:
        best = 0
    return ranges[best], scores[best]


def _likeness_db(
    network: nn.Module, images: Sequence[Tensor], scale: int, value_range: ValueRange
) -> float:
    scores = []
    for image in images:
        output = value_range.apply(network, image[None])
        # Any enlargement that is not shifted becomes the input again under a mean over blocks.
        if scale > 1:
            output = functional.avg_pool2d(output, scale)
        error = float((output[0] - image).square().mean())
        # Values 255 times too large can overflow inside, for example in an attention.
        if not math.isfinite(error):
            return -math.inf
        scores.append(min(MAX_PSNR_DB, -10 * math.log10(max(error, 1e-12))))
    return sum(scores) / len(scores)
