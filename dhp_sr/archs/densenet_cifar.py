"""DenseNet for small images: every layer sees the outputs of all layers before it."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_integers
from dhp_sr.archs.blocks import Classifier, init_he


class DenseLayer(nn.Module):
    """cat(x, conv(relu(bn(x)))).

    Args:
        num_in_ch: Channels of the input.
        growth: Channels that the layer adds.
    """

    def __init__(self, num_in_ch: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_in_ch)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(num_in_ch, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_in_ch + growth, H, W)."""
        # The input comes first, so that all earlier features keep their channel numbers.
        return torch.cat((x, self.conv(self.relu(self.bn(x)))), dim=1)


def transition(num_feat: int) -> nn.Sequential:
    """Layers between two dense blocks: normalization, 1x1 convolution, pooling by 2."""
    # As wide as its input: the compression of DenseNet-BC is not used.
    conv = nn.Conv2d(num_feat, num_feat, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(num_feat), nn.ReLU(inplace=True), conv, nn.AvgPool2d(2))


class DenseNet(Classifier):
    """Densely connected network for small images, without bottlenecks and compression.

    Paper: Huang et al., Densely Connected Convolutional Networks, CVPR 2017, section 4.2: DenseNet
    (k = 12, L = 40). Difference to the original: no dropout (which it uses only without
    augmentation).

        x -> conv1 3x3 -> block1 -> transition1 -> block2 -> transition2 -> block3 -> bn relu -.
             16, H        160, H    H/2            304       H/4            448               |
                                                                   y <- linear <- mean <------'

    Standard setting: depth 40, growth 12: 1,019,722 params; 0.265 G macs for a 3x32x32 input.
    Pruning papers begin with 24 channels (num_feat): 1,059,298 params; 0.283 G.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        num_feat: Channels of the input of the first block.
        growth: Channels that every layer adds.
        depth: Layers with weights: 3 n + 4.
        input_size: Height and width of the images that the network is meant for; others pass too.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_classes: int = 10,
        num_feat: int = 16,
        growth: int = 12,
        depth: int = 40,
        input_size: int = 32,
    ) -> None:
        # Two poolings by 2 must leave something of the image.
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, min_input_size=8
        )
        require_integers(num_feat=num_feat, growth=growth)
        # Three blocks of n layers, the first convolution, two transitions, the linear layer.
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 7 or (depth - 4) % 3:
            raise ValueError(f"`depth` (={depth!r}) must be 3 n + 4, such as 40 or 100")
        num_layers = (depth - 4) // 3
        # Channels of the input of each block, and of the last block's output.
        added = growth * num_layers
        width1, width2, width3, width4 = (num_feat + added * index for index in range(4))
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1, bias=False)
        self.block1 = _dense_block(width1, growth, num_layers)
        self.block2 = _dense_block(width2, growth, num_layers)
        self.block3 = _dense_block(width3, growth, num_layers)
        self.transition1 = transition(width2)
        self.transition2 = transition(width3)
        self.bn = nn.BatchNorm2d(width4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width4, num_classes)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes) before softmax."""
        features = self.transition1(self.block1(self.conv1(x)))
        features = self.block3(self.transition2(self.block2(features)))
        return self.linear(self.pool(self.relu(self.bn(features))).flatten(1))


def _dense_block(num_feat: int, growth: int, num_layers: int) -> nn.Sequential:
    layers = [DenseLayer(num_feat + growth * index, growth) for index in range(num_layers)]
    return nn.Sequential(*layers)
