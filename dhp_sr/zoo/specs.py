"""Networks of BasicSR and torchvision that model files may name; see `deploy/origins.py`.

The entry points call `register_known`. It imports neither package; a constructor does, once a file or an option asks
for one of its networks.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dhp_sr.basicsr_adapter.shim import build_basicsr_network, prepare_torchvision
from dhp_sr.deploy import register
from dhp_sr.utils.errors import UserError

BASICSR = ("EDSR", "MSRResNet", "RCAN", "RRDBNet", "SRVGGNetCompact", "ECBSR", "RIDNet")
TORCHVISION = (
    *(
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
    ),
    *(
        "mnasnet0_5",
        "mnasnet1_0",
        "densenet121",
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "squeezenet1_1",
        "vgg16",
    ),
    *("efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "resnext50_32x4d", "convnext_tiny"),
)
_DOWNLOADS = ("weights", "pretrained", "weights_backbone")


def register_known() -> None:
    """Let model files name the networks of both packages; harmless when called again."""
    register_basicsr()
    register_torchvision()


def register_basicsr() -> None:
    """Let model files name BasicSR's networks, as "basicsr:RCAN"."""
    for name in BASICSR:
        register(f"basicsr:{name}", _of_basicsr(name))


def register_torchvision() -> None:
    """Let model files name torchvision's classifiers, as "torchvision:resnet50"."""
    for name in TORCHVISION:
        register(f"torchvision:{name}", _of_torchvision(name))


def build_classifier(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Construct a network of `torchvision.models` with fresh weights.

    Raises:
        UserError: an argument asks for weights from the network (the internet).
    """
    asked = [key for key in _DOWNLOADS if key in arguments]
    if asked:
        raise UserError(f"{', '.join(asked)}: would download weights; leave it out")
    prepare_torchvision()
    return getattr(importlib.import_module("torchvision.models"), name)(**arguments)


def _of_basicsr(name: str) -> Callable[..., nn.Module]:
    return lambda **arguments: build_basicsr_network(name, arguments)


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    return lambda **arguments: build_classifier(name, arguments)
