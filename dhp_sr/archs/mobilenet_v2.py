"""MobileNetV2: inverted residual blocks, narrow outside and wide inside."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_fraction, require_numbers
from dhp_sr.archs.blocks import Classifier, init_he, scaled_width, stem_stride

# The second stage has stride 2 for ImageNet; pruning papers keep the size there.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, width, blocks, and stride of the first block of each stage."""
STEM_WIDTH = 32
LAST_WIDTH = 1280


def conv_bn_relu(
    num_in_ch: int, num_out_ch: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with a square kernel, normalization and ReLU6."""
    padding = (size - 1) // 2  # keeps the size where the stride is 1
    conv = nn.Conv2d(
        num_in_ch, num_out_ch, size, stride=stride, padding=padding, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(num_out_ch), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """bn(1x1(depthwise(1x1(x)))), plus x where the shapes are equal.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        stride: Stride of the depthwise convolution.
        expansion: Width inside, as a multiple of num_in_ch.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = num_in_ch * expansion
        self.has_residual = stride == 1 and num_in_ch == num_out_ch
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_bn_relu(num_in_ch, width, 1))
        layers.append(conv_bn_relu(width, width, 3, stride, groups=width))
        # No activation after the last convolution: the paper's linear bottleneck.
        layers.append(nn.Conv2d(width, num_out_ch, 1, bias=False))
        layers.append(nn.BatchNorm2d(num_out_ch))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_out_ch, H / stride, W / stride)."""
        if self.has_residual:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(Classifier):
    """MobileNetV2 with a width multiplier, for small images.

    Paper: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
    Difference to the original: the second stage keeps the size, and for images of 32 pixels and
    fewer the first convolution too, as pruning papers have it for CIFAR and Tiny-ImageNet.

        x -> conv 3x3 /2 -> 17 x [1x1, depthwise 3x3, 1x1, +] -> conv 1x1 -> mean -.
             32, H/2        16 ... 320, H/16                     1280             |
                                                      y <- linear <- dropout <----'

    Layer names are those of torchvision's mobilenet_v2, whose checkpoints fit (with other strides).

    Standard setting: 200 classes, input_size 64: 2,480,072 params; 0.088 G macs for a 3x64x64
    input; twice as wide 9,209,288 params; 0.339 G.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        width_mult: Factor on all widths, rounded to multiples of 8; the last convolution has at
            least 1280 channels.
        dropout: Fraction of features dropped before the linear layer in training, in [0, 1).
        input_size: Height and width of the images that the network is meant for; above 32 the
            first convolution halves them.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_classes: int = 10,
        width_mult: float = 1.0,
        dropout: float = 0.0,
        input_size: int = 32,
    ) -> None:
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, min_input_size=16
        )
        require_numbers(width_mult=width_mult)
        require_fraction(dropout=dropout)
        width = scaled_width(STEM_WIDTH, width_mult)
        # As in the paper, narrow networks keep the width of the last convolution.
        last_width = scaled_width(LAST_WIDTH, max(width_mult, 1.0))
        layers: list[nn.Module] = [conv_bn_relu(num_in_ch, width, 3, stem_stride(input_size))]
        for expansion, base_width, num_blocks, first_stride in STAGES:
            next_width = scaled_width(base_width, width_mult)
            for stride in [first_stride] + [1] * (num_blocks - 1):
                layers.append(InvertedResidual(width, next_width, stride, expansion))
                width = next_width
        self.features = nn.Sequential(*layers, conv_bn_relu(width, last_width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_width, num_classes))
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes) before softmax."""
        return self.classifier(self.pool(self.features(x)).flatten(1))
