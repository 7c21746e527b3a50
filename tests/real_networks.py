"""Networks that others wrote, in small settings: BasicSR's own and torchvision's classifiers."""

import importlib
from collections.abc import Callable

import torch
from basicsr_modules import from_basicsr
from torch import Tensor, nn

BASICSR = {
    "MSRResNet": ("srresnet_arch", {"num_feat": 16, "num_block": 2, "upscale": 4}),
    "EDSR": (
        "edsr_arch",
        {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 2, "upscale": 4},
    ),
    "RCAN": (
        "rcan_arch",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 32,
            "num_group": 2,
            "num_block": 2,
            "squeeze_factor": 4,
        },
    ),
    "RRDBNet": (
        "rrdbnet_arch",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "scale": 2,
            "num_feat": 16,
            "num_block": 2,
            "num_grow_ch": 16,
        },
    ),
    "SRVGGNetCompact": (
        "srvgg_arch",
        {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 24, "num_conv": 4, "upscale": 4},
    ),
    "ECBSR": (
        "ecbsr_arch",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_block": 2,
            "num_channel": 16,
            "with_idt": False,
            "act_type": "prelu",
            "scale": 2,
        },
    ),
    "RIDNet": (
        "ridnet_arch",
        {"in_channels": 3, "mid_channels": 32, "out_channels": 3, "num_block": 2},
    ),
}
"""Class -> module of `basicsr.archs`, arguments."""

TORCHVISION = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",  # refuses weights whose version it is not told
    "densenet121",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
)
"""Functions of `torchvision.models`."""


def build_real(name: str) -> nn.Module:
    """Return a network in float64 and evaluation mode, with random statistics, biases and
    scales.
    """
    torch.manual_seed(0)
    network = _constructor(name)().double().eval()
    with torch.no_grad():
        for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if key.endswith("running_var"):
                tensor.uniform_(0.8, 1.2)
            elif tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


def real_example(name: str, batch: int = 1) -> Tensor:
    """Return a random input."""
    side = 16 if name in BASICSR else 64
    return torch.rand(batch, 3, side, side, dtype=torch.float64)


def _constructor(name: str) -> Callable[[], nn.Module]:
    if name in BASICSR:
        module, arguments = BASICSR[name]
        return lambda: getattr(from_basicsr(f"archs.{module}"), name)(**arguments)
    from_basicsr("utils.registry")  # puts in place what torchvision needs beside a CPU-only torch
    models = importlib.import_module("torchvision.models")
    return lambda: getattr(models, name)(num_classes=10)
