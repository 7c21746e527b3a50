"""ResNet for small images: three stages of basic or bottleneck blocks."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_choice, require_integers
from dhp_sr.archs.blocks import Classifier, init_he


class PaddedShortcut(nn.Module):
    """Shortcut of option A: new channels are zeros, half of them on either side of the old ones.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        stride: Distance of the pixels that are kept.
    """

    before: torch.Tensor
    after: torch.Tensor

    def __init__(self, num_in_ch: int, num_out_ch: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        num_before = (num_out_ch - num_in_ch) // 2
        num_after = num_out_ch - num_in_ch - num_before
        # Buffers, not numbers in the forward: a pruned copy pads by the channels that it kept.
        self.register_buffer("before", torch.zeros(1, num_before, 1, 1))
        self.register_buffer("after", torch.zeros(1, num_after, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_out_ch, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        # -1 keeps the number of channels, which this code must not know.
        before = self.before.expand(batch, -1, height, width)
        after = self.after.expand(batch, -1, height, width)
        return torch.cat((before, x, after), dim=1)


def _shortcut(kind: str, num_in_ch: int, num_out_ch: int, stride: int) -> nn.Module:
    if stride == 1 and num_in_ch == num_out_ch:
        return nn.Identity()
    if kind == "padding":
        return PaddedShortcut(num_in_ch, num_out_ch, stride)
    conv = nn.Conv2d(num_in_ch, num_out_ch, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out_ch))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))).

    Args:
        num_in_ch: Channels of the input.
        num_feat: Channels of the output.
        stride: Stride of the first convolution.
        shortcut: Kind of shortcut, see `ResNet`.
    """

    expansion = 1
    num_convs = 2

    def __init__(self, num_in_ch: int, num_feat: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_feat)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_feat)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(shortcut, num_in_ch, num_feat, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_feat, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + self.shortcut(x))


class Bottleneck(nn.Module):
    """relu(shortcut(x) + bn(1x1(relu(bn(3x3(relu(bn(1x1(x)))))))).

    Args:
        num_in_ch: Channels of the input.
        num_feat: Channels inside; the output has four times as many.
        stride: Stride of the 3x3 convolution.
        shortcut: Kind of shortcut, see `ResNet`.
    """

    expansion = 4
    num_convs = 3

    def __init__(self, num_in_ch: int, num_feat: int, stride: int, shortcut: str) -> None:
        super().__init__()
        num_out_ch = num_feat * self.expansion
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_feat)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_feat)
        self.conv3 = nn.Conv2d(num_feat, num_out_ch, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_out_ch)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(shortcut, num_in_ch, num_out_ch, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, 4 num_feat, H / stride, W / stride)."""
        inner = self.relu(self.bn1(self.conv1(x)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}
"""Value of `block` -> class."""


class ResNet(Classifier):
    """Residual network for small images (CIFAR); torchvision's ResNet is the one for ImageNet.

    Paper: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    Difference to the original: none with basic blocks and `shortcut="padding"` (its option A);
    bottleneck blocks and `"projection"` (1x1 convolution and normalization, option B) are those
    that pruning papers report on.

        x -> conv1 3x3 bn1 relu -> layer1 -> layer2 -> layer3 -> mean -> linear -> y
                                   16, H     32, H/2   64, H/4

    Layer names are those of akamaster/pytorch_resnet_cifar10, whose checkpoints fit.

    Standard setting: depth 20: 269,722 params; 0.041 G macs for a 3x32x32 input. Depth 56: 853,018
    params; 0.125 G.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        num_feat: Width of the first stage (inside its blocks); the others have 2 and 4 times as
            many.
        depth: Layers with weights: 6 n + 2 with basic blocks (20, 32, 56, 110), 9 n + 2 with
            bottlenecks (110, 164).
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1, four times as wide outside).
        shortcut: How a block that changes the width passes its input on: `padding` (zeros, no
            parameters) or `projection` (1x1 convolution).
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
        depth: int = 20,
        block: str = "basic",
        shortcut: str = "padding",
        input_size: int = 32,
    ) -> None:
        # Two strides of 2 must leave something of the image.
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, min_input_size=8
        )
        require_integers(num_feat=num_feat, depth=depth)
        require_choice(tuple(BLOCKS), block=block)
        require_choice(("padding", "projection"), shortcut=shortcut)
        num_blocks = _blocks_per_stage(depth, block)
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_feat)
        self.relu = nn.ReLU(inplace=True)
        # Named layer1 to layer3, as in the checkpoints.
        stages = []
        num_before = num_feat
        for width, stride in ((num_feat, 1), (2 * num_feat, 2), (4 * num_feat, 2)):
            # The first block changes size and width, the others keep both.
            layers = [BLOCKS[block](num_before, width, stride, shortcut)]
            num_before = width * BLOCKS[block].expansion
            for _ in range(num_blocks - 1):
                layers.append(BLOCKS[block](num_before, width, 1, shortcut))
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(num_before, num_classes)
        init_he(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes) before softmax."""
        features = self.relu(self.bn1(self.conv1(x)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(self.pool(features).flatten(1))


def _blocks_per_stage(depth: int, block: str) -> int:
    # Three stages; the first convolution and the linear layer make two more layers.
    num_convs = 3 * BLOCKS[block].num_convs
    if depth < num_convs + 2 or (depth - 2) % num_convs:
        nearby = max(round((depth - 2) / num_convs), 1) * num_convs + 2
        expected = f"{num_convs} n + 2 with {block} blocks, such as {nearby}"
        raise ValueError(f"`depth` (={depth}) must be {expected}")
    return (depth - 2) // num_convs
