"""VGG with batch normalization for small images: a plain chain of 3x3 convolutions."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_choice, require_integers
from dhp_sr.archs.blocks import Classifier, init_he

STAGES: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth of the original -> convolutions in each of the five stages."""
WIDTH_FACTORS = (1, 2, 4, 8, 8)
"""Width of each stage, as a multiple of the first."""


class VGG(Classifier):
    """VGG-16 with batch normalization and one linear layer, as pruning papers train it on CIFAR.

    Paper: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
    Recognition, ICLR 2015. Difference to the original: normalization after every convolution; the
    three linear layers (4096, 4096, classes) are replaced by a mean over positions and one linear
    layer. Published sizes of about 15 M params and 313 M macs (Li et al., Pruning Filters for
    Efficient ConvNets, ICLR 2017) are those of this form, some with one more linear layer of 512.

        x -> 5 x [(conv 3x3 bn relu) x n -> max pool] -> mean -> linear -> y
             64, 128, 256, 512, 512

    Layer names of `features` are those of torchvision's vgg16_bn.

    Standard setting: depth 16: 14,728,266 params; 0.313 G macs for a 3x32x32 input.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        num_feat: Width of the first stage; the others have 2, 4, 8 and 8 times as many.
        depth: 11, 13, 16 or 19, counted with the original's three linear layers.
        input_size: Height and width of the images that the network is meant for; others from 32 on
            pass too.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_classes: int = 10,
        num_feat: int = 64,
        depth: int = 16,
        input_size: int = 32,
    ) -> None:
        # Five poolings by 2 turn 32 pixels into one.
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, min_input_size=32
        )
        require_integers(num_feat=num_feat)
        require_choice(tuple(STAGES), depth=depth)
        layers: list[nn.Module] = []
        width = num_in_ch
        for factor, num_convs in zip(WIDTH_FACTORS, STAGES[depth], strict=True):
            for _ in range(num_convs):
                # The bias has no effect before a normalization; torchvision's checkpoints hold it.
                layers.append(nn.Conv2d(width, num_feat * factor, 3, padding=1))
                layers.append(nn.BatchNorm2d(num_feat * factor))
                layers.append(nn.ReLU(inplace=True))
                width = num_feat * factor
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes) before softmax."""
        return self.classifier(self.pool(self.features(x)).flatten(1))
