"""Networks of BasicSR and torchvision that model files may name; see `deploy/origins.py`."""

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from dhp_sr._compat import prepare_basicsr, prepare_torchvision
from dhp_sr.deploy import register

BASICSR = ("EDSR", "MSRResNet", "RCAN", "RRDBNet", "SRVGGNetCompact", "ECBSR", "RIDNet")
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("densenet121", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "efficientnet_b0", "regnet_y_400mf", "vgg16"),
)


def register_basicsr() -> None:
    """Let model files name BasicSR's networks, as "basicsr:RCAN"."""
    for name in BASICSR:
        register(f"basicsr:{name}", _of_basicsr(name))


def register_torchvision() -> None:
    """Let model files name torchvision's classifiers, as "torchvision:resnet50"."""
    for name in TORCHVISION:
        register(f"torchvision:{name}", _of_torchvision(name))


def _of_basicsr(name: str) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        prepare_basicsr()
        from basicsr.utils.registry import ARCH_REGISTRY

        importlib.import_module("basicsr.archs")
        return ARCH_REGISTRY.get(name)(**arguments)

    return build


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    def build(**arguments: Any) -> nn.Module:
        prepare_torchvision()
        return getattr(importlib.import_module("torchvision.models"), name)(**arguments)

    return build
