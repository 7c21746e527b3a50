"""Small networks with statistics over channels in the forward: attention maps from means, maxima
and the like, in the manner of CBAM.
"""

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class ChannelPool(nn.Module):
    """Maximum and mean over channels, in a module without weights."""

    def forward(self, x):
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)


class SpatialGate(nn.Module):
    """A map of weights from a maximum and a mean over channels (CBAM)."""

    def __init__(self):
        super().__init__()
        self.compress = ChannelPool()
        self.spatial = nn.Sequential(conv(2, 1, 7), nn.BatchNorm2d(1))

    def forward(self, x):
        return x * torch.sigmoid(self.spatial(self.compress(x)))


class Gated(Net):
    def middle(self, x):
        return x + self.gate(torch.relu(self.inner(x)))


class SharedGate(Net):
    """One gate for the features of two layers, so that they lose the same channels."""

    def middle(self, x):
        return self.gate(self.outer(self.gate(self.inner(x))))


class Inline(Net):
    """The same in the forward of the network itself."""

    def middle(self, x):
        y = self.inner(x)
        pooled = torch.cat([y.mean(1, keepdim=True), y.amax(dim=1, keepdim=True)], 1)
        return y * torch.sigmoid(self.outer(pooled)) + x.norm(dim=1, keepdim=True)


class Nested(nn.Module):
    """A block inside another of its class, with a mean at one place in the source."""

    def __init__(self, width, inside=None):
        super().__init__()
        self.before, self.inside, self.after = conv(8, width), inside, conv(width, 8)

    def forward(self, x):
        y = self.before(x)
        if self.inside is not None:
            y = self.inside(y)
        return x + self.after(y * y.mean(1, keepdim=True))


class SoftmaxOverChannels(Net):
    """Weights of channels at each pixel, and features of unit length."""

    def middle(self, x):
        y = F.softmax(self.inner(x), dim=1)
        return F.normalize(self.outer(x), dim=1) * y.flatten(2).softmax(dim=1).view_as(x)


class GlobalContext(Net):
    """A pooling by weights of pixels, and a LayerNorm of shape (C, 1, 1) (GCNet)."""

    def middle(self, x):
        n, c, h, w = x.shape
        weights = self.inner(x).view(n, 1, h * w).softmax(2).unsqueeze(-1)
        context = torch.matmul(x.view(n, c, h * w).unsqueeze(1), weights).view(n, c, 1, 1)
        return x + self.outer(F.relu(self.norm(self.squeeze(context))))


class SharedSoftmax(Net):
    """One module for both, so that they lose the same channels."""

    def middle(self, x):
        return self.softmax(self.inner(x)) * self.softmax(self.outer(x.tanh()))


class NormWrittenOut(Net):
    """LayerNorm over channels without weights, in the forward of the network, and others."""

    def middle(self, x):
        y = self.local(self.inner(x))
        deviation, mean = torch.std_mean(y, (2, 3), keepdim=True)
        y = (y - mean) / (deviation[:, :, :1] + 1e-3)
        centered = y - y.mean(1, keepdim=True)
        y = centered / torch.sqrt(centered.square().mean(1, keepdim=True) + 1e-6)
        return self.outer(y) * y.var(1, keepdim=True)


class FunctionalNorms(Net):
    """Normalizations over channels called as functions, with vectors of the network itself."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        for name in ("gain", "shift", "scale"):
            self.register_parameter(name, nn.Parameter(torch.rand(8)))

    def middle(self, x):
        y = self.inner(x).permute(0, 2, 3, 1)
        y = F.layer_norm(y, y.shape[-1:], self.gain, self.shift, 1e-6).permute(0, 3, 1, 2)
        y = self.outer(F.group_norm(torch.relu(y), 1, weight=self.gain)).permute(0, 2, 3, 1)
        return F.rms_norm(y, [y.size(3)], self.scale).permute(0, 3, 1, 2)


class Modulated(Net):
    """A LayerNorm without weights, scaled and shifted by what the whole image is (DiT)."""

    def middle(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        shift, scale = self.outer(tokens.mean(1, keepdim=True)).chunk(2, dim=-1)
        y = self.inner(self.norm(tokens) * (1 + scale) + shift)
        return x + y.transpose(1, 2).view_as(x)


class EfficientAttention(Net):
    """A convolution along the channels, between neighbors (ECA-Net)."""

    def __init__(self, kernel=3):
        super().__init__(inner=conv(8, 8), along=nn.Conv1d(1, 1, kernel, padding=kernel // 2))

    def middle(self, x):
        y = self.inner(x)
        pooled = F.adaptive_avg_pool2d(y, 1).squeeze(-1).transpose(-1, -2)
        return y * self.along(pooled).transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(y)


class TripletAttention(Net):
    """Maps over channels and rows, and over channels and columns (triplet attention)."""

    def middle(self, x):
        y = self.inner(x)
        rows = self.rows(y.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        return (rows + self.columns(y.transpose(1, 3)).transpose(1, 3) + self.gate(y)) / 3


class ChannelsAsDepth(Net):
    """A convolution over channels, rows and columns (HAN)."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), along=nn.Conv3d(1, 1, 3, padding="same"))
        self.gamma = nn.Parameter(torch.ones(1))

    def middle(self, x):
        y = self.inner(x)
        weights = self.along(y.unsqueeze(1)).sigmoid() * self.gamma
        return y * weights.view(y.shape) + y


def gate():
    return SpatialGate()


CHANNEL_STATISTICS = {
    "spatial_gate": (1, Gated(inner=conv(8, 8), gate=gate())),
    "shared_spatial_gate": (2, SharedGate(inner=conv(8, 8), outer=conv(8, 8), gate=gate())),
    "statistics_in_the_forward": (2, Inline(inner=conv(8, 8), outer=conv(2, 1, 7))),
    "nested_blocks": (3, nn.Sequential(conv(2, 8), Nested(8, Nested(6)), conv(8, 2))),
    "convolution_along_channels": (2, EfficientAttention()),
    "triplet_attention": (
        2,
        TripletAttention(inner=conv(8, 8), rows=gate(), columns=gate(), gate=gate()),
    ),
    "channels_as_depth": (2, ChannelsAsDepth()),
    "softmax_over_channels": (1, SoftmaxOverChannels(inner=conv(8, 8), outer=conv(8, 8))),
    "global_context": (
        2,
        GlobalContext(
            inner=conv(8, 1, 1),
            squeeze=conv(8, 6, 1),
            norm=nn.LayerNorm([6, 1, 1]),
            outer=conv(6, 8, 1),
        ),
    ),
    "softmax_module_over_channels": (
        2,
        SharedSoftmax(inner=conv(8, 8), outer=conv(8, 8), softmax=nn.Softmax(dim=1)),
    ),
    "norm_without_weights": (
        1,
        Modulated(
            inner=nn.Linear(8, 8),
            outer=nn.Linear(8, 16),
            norm=nn.LayerNorm(8, elementwise_affine=False),
        ),
    ),
    "norms_called_over_channels": (3, FunctionalNorms()),
    "norm_written_in_the_forward": (
        3,
        NormWrittenOut(inner=conv(8, 8), local=nn.LocalResponseNorm(3), outer=conv(8, 8)),
    ),
}
