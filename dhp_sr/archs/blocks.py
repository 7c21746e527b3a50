"""Building blocks that several networks share: the sub-pixel upsampler, the base of classifiers."""

from collections.abc import Callable

from torch import nn

from dhp_sr.archs.arguments import require_integers

SMALL_IMAGE = 32
"""Height and width of CIFAR's images, in pixels."""


def upsampler(
    upscale: int, num_feat: int, activation: Callable[[], nn.Module] | None = None
) -> nn.Sequential:
    """Build the sub-pixel upsampler: 3x3 convolutions, each followed by a PixelShuffle.

    Args:
        upscale: 3, or a power of two (one x2 stage per factor of two).
        num_feat: Channels of input and output.
        activation: Makes the module after each PixelShuffle; default: none.

    Returns:
        The stages in order, indexed as in BasicSR's `Upsample`.

    Raises:
        ValueError: `upscale` is neither 3 nor a power of two.

    Reference:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        CNN, CVPR 2016.
    """
    # A power of two has a single bit set, so n & (n - 1) clears it.
    is_power_of_two = isinstance(upscale, int) and upscale >= 2 and upscale & (upscale - 1) == 0
    if upscale != 3 and not is_power_of_two:
        raise ValueError(f"`upscale` (={upscale!r}) must be 3 or a power of two from 2")
    factors = [3] if upscale == 3 else [2] * (upscale.bit_length() - 1)
    layers: list[nn.Module] = []
    for factor in factors:
        layers.append(nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1))
        layers.append(nn.PixelShuffle(factor))
        if activation is not None:
            layers.append(activation())
    return nn.Sequential(*layers)


class Classifier(nn.Module):
    """Base of the classification networks: the attributes that other packages read.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        input_size: Height and width in pixels of the images that the network is meant for.
        min_input_size: Smallest such size.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, *, num_in_ch: int, num_classes: int, input_size: int, min_input_size: int
    ) -> None:
        super().__init__()
        require_integers(num_in_ch=num_in_ch, num_classes=num_classes)
        require_integers(minimum=min_input_size, input_size=input_size)
        self.task = "classification"
        # Scale and multiple have a meaning for images alone; callers need not ask for the task.
        self.scale = 1
        self.in_channels = num_in_ch
        self.size_multiple = 1
        self.num_classes = num_classes
        self.input_size = input_size


def init_he(network: nn.Module) -> None:
    """Draw initial weights: He's normal distribution, by fan-out, for convolutions.

    Linear layers get a standard deviation of 0.01 and zero biases; normalizations keep scale 1 and
    shift 0.

    Reference:
        He et al., Delving Deep into Rectifiers, ICCV 2015, section 2.2.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def scaled_width(width: int, factor: float, multiple: int = 8) -> int:
    """Product of a width and a factor, rounded to a multiple.

    Reference:
        Sandler et al., MobileNetV2, CVPR 2018, the authors' code.
    """
    exact = width * factor
    rounded = max(int(exact + multiple / 2) // multiple * multiple, multiple)
    # Rounding down must not take away more than a tenth of the channels.
    if rounded < 0.9 * exact:
        rounded += multiple
    return rounded


def stem_stride(input_size: int) -> int:
    """Stride of the first convolution: 2 as for ImageNet, 1 for images as small as CIFAR's."""
    return 1 if input_size <= SMALL_IMAGE else 2
