"""The networks that every identity is tested on, in small."""

import pytest
import torch
from torch import nn

from dhp_sr.archs import build

CASES = {
    "edsr_x2": ("EDSR", {"num_feat": 16, "num_block": 2, "upscale": 2}),
    "edsr_x3": ("EDSR", {"num_feat": 16, "num_block": 2, "upscale": 3, "res_scale": 0.1}),
    "edsr_x4": ("EDSR", {"num_feat": 16, "num_block": 2, "upscale": 4}),
    "edsr_odd_width": ("EDSR", {"num_feat": 13, "num_block": 3, "upscale": 4}),
    "srresnet_x2": ("SRResNet", {"num_feat": 16, "num_block": 2, "upscale": 2}),
    "srresnet_x3": ("SRResNet", {"num_feat": 16, "num_block": 1, "upscale": 3}),
    "srresnet_x4": ("SRResNet", {"num_feat": 16, "num_block": 2, "upscale": 4}),
    "dncnn_gray": ("DnCNN", {"num_feat": 16, "num_layers": 5}),
    "dncnn_color_no_norm": (
        "DnCNN",
        {"num_in_ch": 3, "num_feat": 16, "num_layers": 4, "batch_norm": False},
    ),
    "rlfn_x2": ("RLFN", {"num_feat": 12, "num_block": 2, "esa_feat": 4, "upscale": 2}),
    "unet_gray": ("UNet", {"num_feat": 8, "num_levels": 3}),
    "unet_color": ("UNet", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_levels": 4}),
    "resnet_padding": ("ResNet", {"num_feat": 8, "depth": 8, "input_size": 8}),
    "resnet_projection": (
        "ResNet",
        {"num_feat": 5, "depth": 14, "shortcut": "projection", "input_size": 8},
    ),
    "resnet_bottleneck": (
        "ResNet",
        {
            "num_feat": 4,
            "depth": 11,
            "block": "bottleneck",
            "shortcut": "projection",
            "input_size": 8,
        },
    ),
    "densenet": ("DenseNet", {"num_feat": 6, "growth": 4, "depth": 10, "input_size": 8}),
    "vgg": ("VGG", {"num_feat": 4, "depth": 11, "input_size": 32}),
    "mobilenet_v1": ("MobileNetV1", {"width_mult": 0.25, "input_size": 16, "dropout": 0.2}),
    "mobilenet_v2": ("MobileNetV2", {"width_mult": 0.25, "input_size": 16}),
}


DEEP = ("mobilenet_v1", "mobilenet_v2")
"""Cases with many layers, which take as long as all others together."""
SHALLOW_CASES = [
    pytest.param(case, marks=pytest.mark.slow if case in DEEP else ()) for case in CASES
]
"""Every case, the deep ones only where slow tests run."""


def network(case: str) -> nn.Module:
    """Return a float64 network in which no bias, statistic or affine value is trivial."""
    kind, arguments = CASES[case]
    torch.manual_seed(0)
    built = build(kind, **arguments).double()
    with torch.no_grad():
        for name, tensor in [*built.named_parameters(), *built.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.dim() == 1 and len(tensor) > 1 and name != "rgb_mean":
                tensor.normal_()
    return built.eval()


def example(built: nn.Module, batch: int = 1, side: int | None = None) -> torch.Tensor:
    """Return a random input in [0, 1], of the size that a classifier is meant for."""
    side = side or getattr(built, "input_size", 16)
    return torch.rand(batch, built.in_channels, side, side, dtype=torch.float64)
