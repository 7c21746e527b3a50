"""DnCNN, the plain chain of convolutions that predicts the noise."""

import torch
from torch import nn

from dhp_sr.archs.arguments import records_arguments, require_integers


class DnCNN(nn.Module):
    """Denoising convolutional network with a global residual connection.

    Paper: Zhang et al., Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image
    Denoising, TIP 2017. Difference to the original: the convolutions before a normalization keep
    their bias, so that the network with the normalization merged into the convolutions
    (`batch_norm=False`) has the same ones.

        x -+-> conv relu -> (num_layers - 2) x [conv bn relu] -> conv -> (-) -> y
           `------------------------------------------------------------'

    Layer names are those of KAIR's DnCNN, whose checkpoints fit.

    Standard setting: 17 layers x 64 channels, gray: 557,057 params; 9.079 G macs for a 128x128
    input. Without normalization: 555,137 params; 9.079 G macs.

    Args:
        num_in_ch: Channels of the image, 1 for gray and 3 for color.
        num_feat: Width of all layers but the last.
        num_layers: Convolutions, the first and the last included (20 in the paper for color and
            for blind noise).
        batch_norm: Normalize after every convolution but the first and the last.

    Raises:
        ValueError: An argument is out of its range.
    """

    @records_arguments
    def __init__(
        self, num_in_ch: int = 1, num_feat: int = 64, num_layers: int = 17, batch_norm: bool = True
    ) -> None:
        super().__init__()
        require_integers(num_in_ch=num_in_ch, num_feat=num_feat)
        require_integers(minimum=2, num_layers=num_layers)
        self.task = "denoise"
        self.scale = 1
        self.in_channels = num_in_ch
        self.size_multiple = 1
        # A flat list: KAIR's checkpoints number all layers, activations included.
        layers: list[nn.Module] = [
            nn.Conv2d(num_in_ch, num_feat, 3, padding=1),
            nn.ReLU(inplace=True),
        ]
        for _ in range(num_layers - 2):
            # With a bias, also before a normalization: see the docstring.
            layers.append(nn.Conv2d(num_feat, num_feat, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(num_feat))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(num_feat, num_in_ch, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a noisy image (N, num_in_ch, H, W) to the clean one of the same shape."""
        return x - self.model(x)
