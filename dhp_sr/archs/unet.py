"""UNet for denoising: an encoder and a decoder joined by concatenation."""

import torch
from torch import nn
from torch.nn import functional

from dhp_sr.archs.arguments import records_arguments, require_integers


def double_conv(num_in_ch: int, num_out_ch: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by a ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_in_ch, num_out_ch, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(num_out_ch, num_out_ch, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """U-shaped network that maps a noisy image to the clean one, without a residual connection.

    Paper: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
    MICCAI 2015. Difference to the original: half the width, zero padding instead of shrinking, so
    that no skip is cropped, and no dropout. Height and width may have any length: inputs are padded
    to the next multiple of 2^(num_levels - 1) by replication, and the result is cropped.

        x -> encoder[0] ----------------------------------- cat -> decoder[-1] -> conv_last 1x1 -> y
                 | pool                                      | up (2x2 transposed conv)
              encoder[1] ---------------------------- cat -> decoder[-2]
                 | pool                                | up
                ...                                   ...
                 `-> encoder[num_levels - 1] ----------'

    Widths are num_feat, 2 num_feat, 4 num_feat, ... from the top down.

    Standard setting: 5 levels from 32 channels, gray: 7,759,521 params; 3.008 G macs for a 128x128
    input (a transposed convolution costs its input's positions; published tables count its
    output's and state 3.41 G).

    Args:
        num_in_ch: Channels of the input image.
        num_out_ch: Channels of the output image.
        num_feat: Width of the top level.
        num_levels: Levels; each but the first halves height and width.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self, num_in_ch: int = 1, num_out_ch: int = 1, num_feat: int = 32, num_levels: int = 5
    ) -> None:
        super().__init__()
        require_integers(num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat)
        require_integers(minimum=2, num_levels=num_levels)
        self.task = "denoise"
        self.scale = 1
        self.in_channels = num_in_ch
        self.size_multiple = 1  # forward pads by itself
        widths = [num_feat * 2**level for level in range(num_levels)]
        self.encoder = nn.ModuleList()
        for above, width in zip([num_in_ch, *widths], widths, strict=False):
            self.encoder.append(double_conv(above, width))
        self.pool = nn.MaxPool2d(2)
        self.padded_multiple = 2 ** (num_levels - 1)
        # From the bottom up: width of the level below, width of the level.
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList()
        for below, width in upwards:
            self.up.append(nn.ConvTranspose2d(below, width, 2, stride=2))
        # Twice the width goes in: what comes from below, and the skip.
        self.decoder = nn.ModuleList(double_conv(2 * width, width) for _, width in upwards)
        # No activation: values outside [0, 1] are clipped when an image is stored.
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, num_in_ch, H, W) to (N, num_out_ch, H, W)."""
        height, width = x.shape[2:]
        # Written so that ONNX exporters can follow it for any size.
        multiple = self.padded_multiple
        bottom = multiple * ((height + multiple - 1) // multiple) - height
        right = multiple * ((width + multiple - 1) // multiple) - width
        # Replication, not zeros: the border would look like an edge of the image.
        skips = [self.encoder[0](functional.pad(x, (0, right, 0, bottom), mode="replicate"))]
        for level in self.encoder[1:]:
            skips.append(level(self.pool(skips[-1])))
        features = skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            features = level(torch.cat([up(features), skips.pop()], dim=1))
        return self.conv_last(features).narrow(2, 0, height).narrow(3, 0, width)
