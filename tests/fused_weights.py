"""Small networks that compute a layer's weight from those of several layers."""

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class FusedBranches(Net):
    """A kernel of 3 x 3 and one of a single pixel as one convolution (RepVGG, DBB)."""

    def __init__(self):
        super().__init__(wide=conv(8, 12), point=conv(8, 12, 1), outer=conv(12, 8))
        self.scale = nn.Parameter(torch.rand(12, 1, 1, 1))

    def middle(self, x):
        weight = self.wide.weight * self.scale + F.pad(self.point.weight, [1, 1, 1, 1])
        weight = weight - self.point.weight * torch.ones(1, 1, 3, 3, dtype=x.dtype) / 9
        bias = self.wide.bias + self.point.bias
        return self.outer(F.relu(F.conv2d(x, weight, bias, padding=1)))


def identity_kernel(width):
    kernel = torch.zeros(width, width, 3, 3)
    kernel[range(width), range(width), 1, 1] = 1
    return kernel


class FusedNorms(Net):
    """Normalizations in the weights that they follow, and an identity (RepVGG)."""

    def __init__(self, before=None):
        super().__init__(
            wide=conv(8, 8, bias=False), norm=nn.BatchNorm2d(8), other=nn.BatchNorm2d(8)
        )
        self.before, self.outer = before or nn.Identity(), conv(8, 8)
        self.register_buffer("identity", identity_kernel(8))

    def fused(self, weight, norm):
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return weight * gain.reshape(-1, 1, 1, 1), norm.bias - norm.running_mean * gain

    def middle(self, x):
        weight, bias = self.fused(self.wide.weight, self.norm)
        other_weight, other_bias = self.fused(self.identity, self.other)
        y = F.conv2d(self.before(x), weight + other_weight, bias=bias + other_bias, padding=1)
        return self.outer(F.relu(y))


class MergedKernels(Net):
    """Two convolutions, one after the other, merged into one (ECBSR); some biases unread."""

    def middle(self, x):
        weight = F.conv2d(self.wide.weight, self.point.weight.permute(1, 0, 2, 3))
        return self.outer(F.conv2d(x, weight + self.inner.weight, self.inner.bias, padding=1))


class CentralDifference(Net):
    """A convolution, and its kernel summed over space (central difference convolution)."""

    def middle(self, x):
        summed = self.inner.weight.sum(2).sum(2)[:, :, None, None]
        return self.outer(self.inner(x) - 0.7 * F.conv2d(input=x, weight=summed))


class SummedMatrices(Net):
    """Linear layers whose matrices are added, one of them transposed."""

    def middle(self, x):
        weight = self.inner.weight + 0.5 * self.outer.weight.transpose(0, 1)
        return F.linear(x.permute(0, 2, 3, 1), weight, self.inner.bias).permute(0, 3, 1, 2)


FUSED_WEIGHTS = {
    "fused_branches": (3, FusedBranches()),
    "fused_norms": (3, FusedNorms()),
    "merged_kernels": (
        4,
        MergedKernels(wide=conv(16, 8), point=conv(8, 16, 1), inner=conv(8, 8), outer=conv(8, 8)),
    ),
    "central_difference": (3, CentralDifference(inner=conv(8, 8), outer=conv(8, 8))),
    "summed_matrices": (2, SummedMatrices(inner=nn.Linear(8, 8), outer=nn.Linear(8, 8))),
}
