"""The plain networks, and the table that finds them by name."""

import inspect
from typing import Any

from torch import nn

from dhp_sr.archs.densenet_cifar import DenseNet
from dhp_sr.archs.dncnn import DnCNN
from dhp_sr.archs.edsr import EDSR
from dhp_sr.archs.mobilenet_v1 import MobileNetV1
from dhp_sr.archs.mobilenet_v2 import MobileNetV2
from dhp_sr.archs.resnet_cifar import ResNet
from dhp_sr.archs.srresnet import SRResNet
from dhp_sr.archs.unet import UNet
from dhp_sr.archs.vgg_cifar import VGG
from dhp_sr.utils.errors import UserError, nearest

ARCHS: dict[str, type[nn.Module]] = {
    "EDSR": EDSR,
    "SRResNet": SRResNet,
    "DnCNN": DnCNN,
    "UNet": UNet,
    "ResNet": ResNet,
    "DenseNet": DenseNet,
    "VGG": VGG,
    "MobileNetV1": MobileNetV1,
    "MobileNetV2": MobileNetV2,
}
"""Name in option and model files -> class. A new network is a file and a row here."""


def build(type: str, **arguments: Any) -> nn.Module:
    """Construct the network called `type`.

    Args:
        type: A key of `ARCHS`.
        **arguments: The constructor's arguments; those left out take their defaults.

    Returns:
        The network with fresh weights. Its attributes `arguments`, `scale`, `in_channels`, `size_multiple` (sides of
        the input must be multiples of it) and `task` ("sr", "denoise" or "classification") describe it; a classifier
        has `num_classes` and `input_size` too.

    Raises:
        UserError: the type or an argument is unknown, or the constructor refuses a value.
    """
    if type not in ARCHS:
        raise UserError(
            f"network type {type!r} is unknown{nearest(type, ARCHS)}; known: {', '.join(ARCHS)}"
        )
    known = list(inspect.signature(ARCHS[type]).parameters)
    for name in arguments:
        if name not in known:
            raise UserError(
                f"network {type} has no argument {name!r}{nearest(name, known)}; known: {', '.join(known)}"
            )
    try:
        return ARCHS[type](**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"network {type} cannot be built from {arguments}: {error}") from error
