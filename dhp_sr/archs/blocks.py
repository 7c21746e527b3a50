"""Parts that several networks share."""

from collections.abc import Callable

from torch import nn


def upsampler(
    upscale: int, num_feat: int, activation: Callable[[], nn.Module] | None = None
) -> nn.Sequential:
    """Build the sub-pixel up-sampler: 3x3 convolutions, each followed by a PixelShuffle.

    Args:
        upscale: 3, or a power of two (one x2 stage per factor of two).
        num_feat: Channels that go in and come out.
        activation: Makes the module placed after each PixelShuffle; none by default.

    Returns:
        The stages in order, indexed as in BasicSR's `Upsample`.

    Raises:
        ValueError: `upscale` is neither 3 nor a power of two.

    Reference:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN, CVPR 2016.
    """
    layers: list[nn.Module] = []
    for factor in _factors(upscale):
        layers += [nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        if activation is not None:
            layers.append(activation())
    return nn.Sequential(*layers)


def _factors(upscale: int) -> list[int]:
    if isinstance(upscale, int) and upscale == 3:
        return [3]
    if isinstance(upscale, int) and upscale >= 2 and upscale & (upscale - 1) == 0:
        return [2] * (upscale.bit_length() - 1)
    raise ValueError(f"`upscale` (={upscale!r}) must be 3 or a power of two from 2")
