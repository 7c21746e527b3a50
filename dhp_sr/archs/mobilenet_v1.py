"""MobileNetV1: depthwise and pointwise convolutions in turns."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_fraction, require_numbers
from dhp_sr.archs.blocks import Classifier, init_he, scaled_width, stem_stride

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Width and stride of each block."""
STEM_WIDTH = 32


def separable(num_in_ch: int, num_out_ch: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise 1x1 convolution, each followed by normalization and ReLU."""
    # Each channel of a depthwise convolution depends on its input channel alone, so both are
    # pruned together.
    return nn.Sequential(
        nn.Conv2d(num_in_ch, num_in_ch, 3, stride=stride, padding=1, groups=num_in_ch, bias=False),
        nn.BatchNorm2d(num_in_ch),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_in_ch, num_out_ch, 1, bias=False),
        nn.BatchNorm2d(num_out_ch),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(Classifier):
    """MobileNet with a width multiplier.

    Paper: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications, 2017. Difference to the original: for images of 32 pixels and fewer the first
    convolution keeps the size; dropout before the linear layer is an option.

        x -> conv 3x3 /2 bn relu -> 13 x [depthwise 3x3 bn relu, 1x1 bn relu] -> mean -.
             32, H/2                64 ... 1024, H/32                                  |
                                                        y <- linear <- dropout <-------'

    Standard setting: 200 classes, input_size 64: 3,411,976 params; 0.047 G macs for a 3x64x64
    input; twice as wide 13,102,920 params; 0.181 G.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        width_mult: Factor on all widths, rounded to multiples of 8.
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
        # Four strides of 2 must leave something of an image of up to 32 pixels.
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, min_input_size=16
        )
        require_numbers(width_mult=width_mult)
        require_fraction(dropout=dropout)
        width = scaled_width(STEM_WIDTH, width_mult)
        stride = stem_stride(input_size)
        stem = nn.Conv2d(num_in_ch, width, 3, stride=stride, padding=1, bias=False)
        layers: list[nn.Module] = [
            nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        ]
        for base_width, stride in BLOCKS:
            next_width = scaled_width(base_width, width_mult)
            layers.append(separable(width, next_width, stride))
            width = next_width
        # The mean over positions takes images of any size.
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes) before softmax."""
        return self.classifier(self.dropout(self.pool(self.features(x)).flatten(1)))
