"""EDSR, the residual super-resolution network without normalization."""

from collections.abc import Sequence

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_integers, require_numbers
from dhp_sr.archs.blocks import upsampler


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))).

    Args:
        num_feat: Channels of input and output.
        res_scale: Factor on the residual.
    """

    def __init__(self, num_feat: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, num_feat, H, W)."""
        residual = self.conv2(self.relu(self.conv1(x)))
        # A product with 1 would still be an operator in every exported graph.
        if self.res_scale != 1:
            residual = residual * self.res_scale
        return x + residual


class EDSR(nn.Module):
    """Enhanced deep residual network for super-resolution.

    Paper: Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW
    2017. Difference to the original: images are in [0, 1] outside; the mean shift is a buffer
    instead of two 1x1 convolutions (24 parameters and 2.5 M multiply-adds fewer at the standard
    setting below, so 90.352 G where others state 90.354 G).

        x -> (x - mean) * range -> conv_first -+-> num_block x [conv relu conv +] -.
                                               |            conv_after_body <------'
                                               `-----------------> +
                                                                   |
        y <- / range + mean <- conv_last <- upsample (conv, PixelShuffle)... <-'

    Layer names are those of BasicSR's EDSR, whose checkpoints fit.

    Standard setting: 8 blocks x 128 channels, x4: 3,696,643 params; 90.352 G macs for a 128x128
    input. The original's baseline, 16 x 64, x4: 1,517,571 params; 32.492 G macs.

    Args:
        num_in_ch: Channels of the input image.
        num_out_ch: Channels of the output image.
        num_feat: Width of the trunk.
        num_block: Residual blocks.
        upscale: 2, 3, 4 or a higher power of two.
        res_scale: Factor on each block's residual (0.1 for the widest networks).
        img_range: The network works on values `img_range` times those outside.
        rgb_mean: Subtracted from the input and added to the output: a value for all channels, or
            one per channel.

    Raises:
        ValueError: An argument is out of its range.
    """

    mean: torch.Tensor

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        super().__init__()
        require_integers(
            num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_block=num_block
        )
        require_numbers(res_scale=res_scale, img_range=img_range)
        # The same buffer is subtracted from the input and added to the output.
        fits_channels = num_in_ch == num_out_ch == len(rgb_mean)
        if len(rgb_mean) != 1 and not fits_channels:
            raise ValueError(
                f"`rgb_mean` (={list(rgb_mean)}) must hold one value, or one per channel of input "
                f"and output (num_in_ch={num_in_ch}, num_out_ch={num_out_ch}); for gray images "
                "pass rgb_mean: [0.4371]"
            )
        self.task = "sr"
        self.scale = upscale
        self.in_channels = num_in_ch
        self.size_multiple = 1
        self.img_range = img_range
        mean_1C11 = torch.tensor(rgb_mean, dtype=torch.float32).view(1, -1, 1, 1)
        # Not persistent: BasicSR's checkpoints have no such entry.
        self.register_buffer("mean", mean_1C11, persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        # The layers with most multiply-adds: they run at 4 and 16 times as many positions.
        self.upsample = upsampler(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) in [0, 1] to (N, num_out_ch, upscale H, upscale W)."""
        features = self.conv_first((x - self.mean) * self.img_range)
        features = features + self.conv_after_body(self.body(features))
        return self.conv_last(self.upsample(features)) / self.img_range + self.mean
