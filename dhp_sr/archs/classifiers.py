"""What the networks that name pictures share."""

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
