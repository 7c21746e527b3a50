"""Plain networks, one per file, on torch alone; they do not know that they will be pruned.

`ARCHS` names them, `build` constructs one. To add a network: a file and a row in the table.
"""

import inspect
from collections.abc import Mapping
from typing import Protocol, cast

from torch import nn

from dhp_sr.archs.densenet_cifar import DenseNet
from dhp_sr.archs.dncnn import DnCNN
from dhp_sr.archs.edsr import EDSR
from dhp_sr.archs.mobilenet_v1 import MobileNetV1
from dhp_sr.archs.mobilenet_v2 import MobileNetV2
from dhp_sr.archs.resnet_cifar import ResNet
from dhp_sr.archs.rlfn import RLFN
from dhp_sr.archs.srresnet import SRResNet
from dhp_sr.archs.unet import UNet
from dhp_sr.archs.vgg_cifar import VGG
from dhp_sr.utils.errors import UserError, nearest, unknown_name

__all__ = [
    "ARCHS",
    "EDSR",
    "RLFN",
    "VGG",
    "DenseNet",
    "DescribedNetwork",
    "DnCNN",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "SRResNet",
    "UNet",
    "build",
    "described",
]

ARCHS: dict[str, type[nn.Module]] = {
    "EDSR": EDSR,
    "SRResNet": SRResNet,
    "DnCNN": DnCNN,
    "UNet": UNet,
    "RLFN": RLFN,
    "ResNet": ResNet,
    "DenseNet": DenseNet,
    "VGG": VGG,
    "MobileNetV1": MobileNetV1,
    "MobileNetV2": MobileNetV2,
}
"""Name in option files and model files -> class."""


class DescribedNetwork(Protocol):
    """What every network says about itself in its attributes."""

    arguments: Mapping[str, object]
    """Arguments that it was constructed from."""
    task: str
    """`sr`, `denoise` or `classification`."""
    scale: int
    """Enlargement of height and width."""
    in_channels: int
    size_multiple: int
    """Height and width of the input must be multiples of it."""


def described(network: nn.Module) -> DescribedNetwork:
    """Return a network for access to its attributes, each of its own type.

    torch types every attribute of a module as `Tensor | Module`.
    """
    return cast(DescribedNetwork, network)


def build(type: str, **arguments: object) -> nn.Module:
    """Construct the network called `type`.

    Args:
        type: Key of `ARCHS`.
        **arguments: Arguments of the constructor; those left out take their defaults.

    Returns:
        The network with initial weights. The attributes of `DescribedNetwork` describe it; a
        classifier also has `num_classes` and `input_size`.

    Raises:
        UserError: The type or an argument is unknown, or the constructor refuses a value.
    """
    if type not in ARCHS:
        raise UserError(unknown_name("network type", type, ARCHS))
    known = list(inspect.signature(ARCHS[type]).parameters)
    # Before the constructor's TypeError, which would not suggest a name.
    for name in arguments:
        if name not in known:
            suggestion = f"{nearest(name, known)}; known: {', '.join(known)}"
            raise UserError(f"network {type} has no argument {name!r}{suggestion}")
    try:
        return ARCHS[type](**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"network {type} cannot be built from {arguments}: {error}") from error
