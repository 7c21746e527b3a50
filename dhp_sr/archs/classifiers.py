"""What the networks that name images share."""

from torch import nn

from dhp_sr.archs.arguments import require_integers


class Classifier(nn.Module):
    """A network that names images: what others ask of it, checked and kept.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        input_size: Side in pixels of the images that it is meant for.
        least: Smallest such side.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, *, num_in_ch: int, num_classes: int, input_size: int, least: int) -> None:
        super().__init__()
        require_integers(num_in_ch=num_in_ch, num_classes=num_classes)
        require_integers(least=least, input_size=input_size)
        self.scale, self.in_channels, self.size_multiple, self.task = (
            1,
            num_in_ch,
            1,
            "classification",
        )
        self.num_classes, self.input_size = num_classes, input_size


def he_initialized(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers anew: normal, by the number of outputs for convolutions.

    Linear biases become zero; normalizations keep scale 1 and shift 0.

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
    """Return `width` times `factor` as a multiple of `multiple`, never more than a tenth below that product.

    Reference:
        Sandler et al., MobileNetV2, CVPR 2018, the authors' code: widths that processors like.
    """
    exact = width * factor
    rounded = max(int(exact + multiple / 2) // multiple * multiple, multiple)
    return rounded if rounded >= 0.9 * exact else rounded + multiple


def stem_stride(input_size: int) -> int:
    """Return the stride of the first convolution: small images are not made smaller still."""
    return 1 if input_size <= SMALL else 2


SMALL = 32
"""Side in pixels (CIFAR's)."""
