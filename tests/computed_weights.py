"""Small networks with layers that compute their weight in the forward."""

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class StandardizedConv(nn.Conv2d):
    """Weight standardization, written out."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class UnitConv(nn.Conv2d):
    """Filters of length 1; the root has no gradient where a filter is zero."""

    def forward(self, features):
        length = self.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        weight = self.weight / (length + 1e-6)
        return F.conv2d(features, weight, self.bias, padding=self.padding, groups=self.groups)


class CenteredLinear(nn.Linear):
    def forward(self, x):
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight, self.bias)


class EqualizedConv(nn.Module):
    """A weight times a constant, with the widths as attributes."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = (in_channels * 9) ** -0.5

    def forward(self, x):
        weight = (self.weight * self.scale).view(self.out_channels, self.in_channels, 3, 3)
        return F.conv2d(x, weight, self.bias, padding=1)


class ModulatedConv(nn.Module):
    """A weight times a style of each sample, demodulated: StyleGAN2, samples as groups."""

    def __init__(self, inputs, outputs, style):
        super().__init__()
        self.out_channels = outputs
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.modulation = nn.Linear(style, inputs)

    def forward(self, x, style):
        n, c, h, w = x.shape
        weight = self.weight * self.modulation(style).view(n, 1, c, 1, 1)
        norm = torch.rsqrt(weight.square().sum((2, 3, 4)) + 1e-8)
        weight = (weight * norm.view(n, -1, 1, 1, 1)).view(n * self.out_channels, c, 3, 3)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n)
        return y.view(n, self.out_channels, h, w)


class DynamicConv(nn.Module):
    """Several kernels mixed by the softmax of what the image is, samples as groups."""

    def __init__(self, inputs, outputs, kernels=3):
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, kernels, 1), nn.Flatten(), nn.Softmax(1)
        )
        self.weight = nn.Parameter(torch.randn(kernels, outputs, inputs, 3, 3))

    def forward(self, x):
        n, c, h, w = x.shape
        weight = torch.einsum("nk,koihw->noihw", self.attention(x), self.weight)
        y = F.conv2d(x.view(1, -1, h, w), weight.reshape(-1, c, 3, 3), padding=1, groups=n)
        return y.view(n, -1, h, w)


class Computed(Net):
    def middle(self, x):
        return self.outer(torch.relu(self.inner(x)))


class ChannelsLast(Net):
    def middle(self, x):
        y = self.outer(torch.relu(self.inner(x.permute(0, 2, 3, 1))))
        return y.permute(0, 3, 1, 2)


class CalledTwice(Net):
    """The same layer, called by position and by keyword."""

    def middle(self, x):
        y = torch.relu(self.inner(x))
        return self.outer(torch.cos(self.inner(features=y)))


class Modulated(Net):
    def middle(self, x):
        style = torch.tanh(self.style(x.mean((2, 3))))
        return self.outer(torch.relu(self.inner(x, style)), style)


class Mixed(Net):
    """Channels of zeros are ones behind the cosine: a layer's own weight has to leave them out."""

    def middle(self, x):
        return self.outer(self.inner(torch.cos(x)))


class FlatKernels(nn.Module):
    """Kernels stored as rows: which entries belong to a channel no axis says."""

    def __init__(self, inputs, outputs, kernels=3):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(kernels, outputs * inputs * 9))
        self.choice = nn.Linear(inputs, kernels)
        self.outputs = outputs

    def forward(self, x):
        n, c, h, w = x.shape
        weight = torch.softmax(self.choice(x.mean((2, 3))), 1) @ self.rows
        weight = weight.view(n * self.outputs, c, 3, 3)
        y = F.conv2d(x.reshape(1, n * c, h, w), weight, padding=1, groups=n)
        return y.view(n, self.outputs, h, w)


class GroupNorms(Net):
    """A group normalization called as a function, between two layers."""

    def __init__(self):
        super().__init__(inner=conv(8, 16), outer=conv(16, 8))
        self.gain = nn.Parameter(torch.ones(16))
        self.shift = nn.Parameter(torch.zeros(16))

    def middle(self, x):
        y = F.group_norm(self.inner(x), 4, self.gain, self.shift)
        return self.outer(torch.relu(y))


class Noise(Net):
    """Tensors made for a value, which tells their type alone."""

    def middle(self, x):
        y = self.inner(x)
        n, _, h, w = y.shape
        # No two numbers to draw from: exported networks draw others.
        noise = y.new_empty(n, 1, h, w).normal_(0.5, 0) + y.new_zeros(n, 1, h, w)
        return y + noise


COMPUTED_WEIGHTS = {
    "weight_standardized": (
        3,
        Computed(inner=StandardizedConv(8, 12, 3, padding=1), outer=conv(12, 8)),
    ),
    "weight_standardized_in_groups": (
        2,
        Computed(
            inner=StandardizedConv(8, 12, 3, padding=1, groups=2),
            outer=StandardizedConv(12, 8, 3, padding=1),
        ),
    ),
    "weight_standardized_depthwise": (
        2,
        Computed(
            inner=StandardizedConv(8, 8, 3, padding=1, groups=8, bias=False), outer=conv(8, 8)
        ),
    ),
    "weight_of_unit_length": (
        2,
        Computed(inner=UnitConv(8, 8, 3, padding=1, groups=8), outer=conv(8, 8)),
    ),
    "weight_called_twice": (
        2,
        CalledTwice(inner=UnitConv(8, 8, 3, padding=1), outer=conv(8, 8)),
    ),
    "weight_of_pixels": (
        3,
        ChannelsLast(inner=CenteredLinear(8, 12), outer=CenteredLinear(12, 8)),
    ),
    "weight_equalized": (3, Computed(inner=EqualizedConv(8, 12), outer=EqualizedConv(12, 8))),
    "weight_modulated": (
        4,
        Modulated(
            inner=ModulatedConv(8, 12, 8), outer=ModulatedConv(12, 8, 8), style=nn.Linear(8, 8)
        ),
    ),
    "weight_mixed": (3, Mixed(inner=DynamicConv(8, 12), outer=conv(12, 8))),
    "weight_stored_as_rows": (1, Computed(inner=FlatKernels(8, 12), outer=conv(12, 8))),
    "group_norm_called": (3, GroupNorms()),
    "noise": (2, Noise(inner=conv(8, 8))),
}
