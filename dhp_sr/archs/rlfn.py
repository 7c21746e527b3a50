"""RLFN, the residual local feature network for efficient super-resolution."""

import torch
from torch import nn
from torch.nn import functional

from dhp_sr.archs.arguments import records_arguments, require_integers, require_numbers

NEGATIVE_SLOPE = 0.05
"""Negative slope of every LeakyReLU of the network."""


class ESA(nn.Module):
    """Enhanced spatial attention: a factor in (0, 1) for every pixel and channel.

        x -> conv1 -+-> conv2 (stride 2) -> max-pool (7, stride 3) -> conv3 -> resize -> + -.
                    `-> conv_f ---------------------------------------------------------'   |
        y <- x * sigmoid(conv4) <----------------------------------------------------------'

    Args:
        num_feat: Channels of input and output.
        esa_feat: Channels inside.

    Reference:
        Liu et al., Residual Feature Aggregation Network for Image Super-Resolution, CVPR 2020.
    """

    def __init__(self, num_feat: int, esa_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, esa_feat, 1)
        self.conv_f = nn.Conv2d(esa_feat, esa_feat, 1)
        self.conv2 = nn.Conv2d(esa_feat, esa_feat, 3, stride=2)
        self.conv3 = nn.Conv2d(esa_feat, esa_feat, 3, padding=1)
        self.conv4 = nn.Conv2d(esa_feat, num_feat, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, num_feat, H, W)."""
        features = self.conv1(x)
        pooled = functional.max_pool2d(self.conv2(features), kernel_size=7, stride=3)
        # By the input's own size: strides and windows round sides down.
        context = functional.interpolate(
            self.conv3(pooled), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        return x * torch.sigmoid(self.conv4(context + self.conv_f(features)))


class RLFB(nn.Module):
    """Residual local feature block: three convolutions, a sum, a mixture, attention.

    Args:
        num_feat: Channels of input and output.
        esa_feat: Channels inside the attention.
    """

    def __init__(self, num_feat: int, esa_feat: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.c2_r = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.c3_r = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.act = nn.LeakyReLU(NEGATIVE_SLOPE)
        self.c5 = nn.Conv2d(num_feat, num_feat, 1)
        self.esa = ESA(num_feat, esa_feat)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (N, num_feat, H, W)."""
        features = self.act(self.c1_r(x))
        features = self.act(self.c2_r(features))
        features = self.act(self.c3_r(features))
        return self.esa(self.c5(features + x))


class RLFN(nn.Module):
    """Residual local feature network, runtime winner of the NTIRE 2022 efficiency challenge.

    Paper: Kong et al., Residual Local Feature Network for Efficient Super-Resolution, CVPRW 2022.
    Difference to the original: images are in [0, 1] outside, where the original takes and gives
    0 to 255; `img_range` converts, so that its checkpoints fit.

        x * range -> conv_1 -+-> num_block x RLFB -> conv_2 -> +
                             `-------------------------------->'
        y <- / range <- upsampler (conv, PixelShuffle) <-------'

    Layer names are those of the original, whose checkpoints fit.

    Standard setting: 6 blocks x 52 channels, x4: 543,740 params; 8.481 G macs for a 128x128 input.

    Args:
        num_in_ch: Channels of the input image.
        num_out_ch: Channels of the output image.
        num_feat: Width of the trunk.
        num_block: Residual local feature blocks.
        esa_feat: Channels inside the attention.
        upscale: Enlargement of height and width, at least 2.
        img_range: The network works on values `img_range` times those outside.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 52,
        num_block: int = 6,
        esa_feat: int = 16,
        upscale: int = 4,
        img_range: float = 255.0,
    ) -> None:
        super().__init__()
        require_integers(
            num_in_ch=num_in_ch,
            num_out_ch=num_out_ch,
            num_feat=num_feat,
            num_block=num_block,
            esa_feat=esa_feat,
        )
        require_integers(minimum=2, upscale=upscale)
        require_numbers(img_range=img_range)
        self.task = "sr"
        self.scale = upscale
        self.in_channels = num_in_ch
        self.size_multiple = 1
        self.img_range = img_range
        self.num_block = num_block
        self.conv_1 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        # Named one by one, as in the published checkpoints, not as a list.
        for number in range(1, num_block + 1):
            self.add_module(f"block_{number}", RLFB(num_feat, esa_feat))
        self.conv_2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1), nn.PixelShuffle(upscale)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) in [0, 1] to (N, num_out_ch, upscale H, upscale W).

        Height and width are at least 15, since the attention pools with a window of 7.
        """
        # A product rather than other weights: published checkpoints work on 0 to 255.
        shallow = self.conv_1(x * self.img_range)
        features = shallow
        for number in range(1, self.num_block + 1):
            features = self.get_submodule(f"block_{number}")(features)
        return self.upsampler(self.conv_2(features) + shallow) / self.img_range
