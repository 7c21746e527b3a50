"""ResNet for small images: three stages of basic or bottleneck blocks."""

from collections.abc import Iterator

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_integers, require_one_of
from dhp_sr.archs.classifiers import Classifier, he_initialized


class PaddedShortcut(nn.Module):
    """Option A: channels that are new begin as zeros, half of them before the old ones and half behind.

    The zeros are buffers, not numbers in the forward, so that a pruned copy pads by what it has kept.
    """

    before: torch.Tensor
    after: torch.Tensor

    def __init__(self, num_in_ch: int, num_out_ch: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (num_out_ch - num_in_ch) // 2
        self.register_buffer("before", torch.zeros(1, before, 1, 1))
        self.register_buffer("after", torch.zeros(1, num_out_ch - num_in_ch - before, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_out_ch, H / stride, W / stride): every stride-th pixel."""
        x = x[:, :, :: self.stride, :: self.stride]
        number, height, width = x.shape[0], x.shape[2], x.shape[3]
        before, after = (
            zeros.expand(number, -1, height, width) for zeros in (self.before, self.after)
        )
        return torch.cat((before, x, after), dim=1)


def _shortcut(kind: str, num_in_ch: int, num_out_ch: int, stride: int) -> nn.Module:
    if stride == 1 and num_in_ch == num_out_ch:
        return nn.Identity()
    if kind == "padding":
        return PaddedShortcut(num_in_ch, num_out_ch, stride)
    conv = nn.Conv2d(num_in_ch, num_out_ch, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out_ch))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    expansion = 1

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
    """relu(shortcut(x) + bn(1x1(relu(bn(3x3(relu(bn(1x1(x)))))))), four times as wide outside as inside."""

    expansion = 4

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
CONVS_IN_BLOCK = {"basic": 2, "bottleneck": 3}


class ResNet(Classifier):
    """Residual network for small images (CIFAR); torchvision's of the same name is the one for ImageNet.

    Paper: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2. Difference to the original:
    none with basic blocks and `shortcut="padding"` (its option A); bottleneck blocks and `"projection"` (1x1
    convolution and normalization, option B) are those that pruning papers report on.

        x -> conv1 3x3 bn1 relu -> layer1 -> layer2 -> layer3 -> mean -> linear -> y
                                   16, H     32, H/2   64, H/4

    Layer names are those of akamaster/pytorch_resnet_cifar10, whose checkpoints fit.

    Standard setting: depth 20: 269,722 params; 0.041 G macs for a 3x32x32 input. Depth 56: 853,018 params; 0.125 G.

    Args:
        num_in_ch: Channels of the image.
        num_classes: Length of the output.
        num_feat: Width of the first stage (inside its blocks); the others have 2 and 4 times as many.
        depth: Layers with weights: 6 n + 2 with basic blocks (20, 32, 56, 110), 9 n + 2 with bottlenecks (110, 164).
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1, four times as wide outside).
        shortcut: How a block that changes the width passes its input on: `padding` (zeros, no parameters) or
            `projection` (1x1 convolution).
        input_size: Side of the images that the network is meant for; others pass too.

    Raises:
        ValueError: an argument is out of its range.
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
        super().__init__(
            num_in_ch=num_in_ch, num_classes=num_classes, input_size=input_size, least=8
        )
        require_integers(num_feat=num_feat, depth=depth)
        require_one_of(tuple(BLOCKS), block=block)
        require_one_of(("padding", "projection"), shortcut=shortcut)
        blocks = _blocks_per_stage(depth, block)
        self.conv1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_feat)
        self.relu = nn.ReLU(inplace=True)
        widths = [num_feat, 2 * num_feat, 4 * num_feat]
        outside = [num_feat, *(width * BLOCKS[block].expansion for width in widths)]
        stages = [
            nn.Sequential(
                *_stage(
                    BLOCKS[block], outside[place], width, blocks, 1 if place == 0 else 2, shortcut
                )
            )
            for place, width in enumerate(widths)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(outside[-1], num_classes)
        he_initialized(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalized images (N, num_in_ch, H, W) to scores (N, num_classes), before softmax."""
        features = self.relu(self.bn1(self.conv1(x)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(self.pool(features).flatten(1))


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    num_in_ch: int,
    num_feat: int,
    blocks: int,
    stride: int,
    shortcut: str,
) -> Iterator[nn.Module]:
    yield block(num_in_ch, num_feat, stride, shortcut)
    for _ in range(blocks - 1):
        yield block(num_feat * block.expansion, num_feat, 1, shortcut)


def _blocks_per_stage(depth: int, block: str) -> int:
    layers = 3 * CONVS_IN_BLOCK[block]
    if depth < layers + 2 or (depth - 2) % layers:
        nearby = max(round((depth - 2) / layers), 1) * layers + 2
        raise ValueError(
            f"`depth` (={depth}) must be {layers} n + 2 with {block} blocks, such as {nearby}"
        )
    return (depth - 2) // layers
