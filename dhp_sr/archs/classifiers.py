"""What the networks that name images share."""

from torch import nn


def he_initialised(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers anew: normal, by the number of outputs for convolutions.

    Linear biases become zero; normalisations keep scale 1 and shift 0.

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
