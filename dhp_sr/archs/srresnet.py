"""SRResNet, the residual super-resolution network with batch normalization."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_integers
from dhp_sr.archs.blocks import upsampler


class ResidualBlock(nn.Module):
    """x + bn(conv(prelu(bn(conv(x))))).

    Args:
        num_feat: Channels of input and output.
    """

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(num_feat)
        # A single slope for all channels, as in the published parameter counts.
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(num_feat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, num_feat, H, W)."""
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class SRResNet(nn.Module):
    """Generator of SRGAN, trained alone.

    Paper: Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative
    Adversarial Network, CVPR 2017. Difference to the original, as in the networks that pruning
    papers report on: the last convolution is 3x3, not 9x9 (3.6 G macs less at x4), and every PReLU
    has a single parameter. BasicSR's MSRResNet is another network (no normalization, 3x3 head,
    bilinear skip).

        x -> conv_first 9x9 -> prelu -+-> num_block x [conv bn prelu conv bn +] -.
                                      |          bn <- conv_after_body <---------'
                                      `-----------------> +
                                                          |
        y <- conv_last 3x3 <- upsample (conv, PixelShuffle, prelu)... <-'

    Standard setting: 16 blocks x 64 channels, x4: 1,535,638 params; 32.719 G macs for a 128x128
    input.

    Args:
        num_in_ch: Channels of the input image.
        num_out_ch: Channels of the output image.
        num_feat: Width of the trunk.
        num_block: Residual blocks.
        upscale: 2, 3, 4 or a higher power of two.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: int = 4,
    ) -> None:
        super().__init__()
        require_integers(
            num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_block=num_block
        )
        self.task = "sr"
        self.scale = upscale
        self.in_channels = num_in_ch
        self.size_multiple = 1
        # A large receptive field, where the image has only a few channels.
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 9, padding=4)
        self.prelu = nn.PReLU()
        self.body = nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.bn_after_body = nn.BatchNorm2d(num_feat)
        self.upsample = upsampler(upscale, num_feat, activation=nn.PReLU)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) in [0, 1] to (N, num_out_ch, upscale H, upscale W)."""
        features = self.prelu(self.conv_first(x))
        features = features + self.bn_after_body(self.conv_after_body(self.body(features)))
        return self.conv_last(self.upsample(features))
