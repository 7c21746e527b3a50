"""Small networks, one for every operator that has a rule; written as users write them, literals
included.
"""

import copy
import math

import einops.layers.torch
import numpy as np
import torch
import torch.nn.functional as F
from attention import ATTENTION
from channel_matrices import CHANNEL_MATRICES
from channel_statistics import CHANNEL_STATISTICS
from computed_weights import COMPUTED_WEIGHTS
from fused_weights import FUSED_WEIGHTS
from published_blocks import PUBLISHED_BLOCKS
from topology_base import Net, conv
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.operators.constant_map import ConstantMap


class Sequence(Net):
    def __init__(self, *parts, outputs=8):
        super().__init__(outputs, parts=nn.Sequential(*parts))

    def middle(self, x):
        return self.parts(x)


class Residual(Net):
    def middle(self, x):
        return x + torch.relu(self.inner(x)) * 0.5 - self.outer(x) / 2.0


class Removed(Net):
    """A residual block whose branch is removed."""

    def middle(self, x):
        return x + self.outer(torch.relu_(self.inner(x)))


def constant(channels):
    left = ConstantMap(channels, (1, 1))
    nn.init.normal_(left.bias)
    return left


class InPlace(Net):
    def middle(self, x):
        y = self.inner(x)
        y += x
        return F.relu(y.mul_(2), inplace=True)


class GlobalResidual(Net):
    def forward(self, x):
        return x + F.dropout(self.last(self.middle(self.first(x))), training=self.training)

    def middle(self, x):
        return self.inner(x).clamp(min=0)


class Gate(Net):
    def middle(self, x):
        first, second = self.inner(x).chunk(2, dim=1)
        return first * second


class Concat(Net):
    def middle(self, x):
        return torch.cat([self.inner(x), x, self.inner(x)], dim=1)


class Attention(Net):
    def middle(self, x):
        return x * torch.sigmoid(self.outer(torch.relu(self.inner(x.mean((2, 3), keepdim=True)))))


class FlatAttention(Net):
    """Squeeze and excite with linear layers and views."""

    def middle(self, x):
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.outer(torch.relu(self.inner(y)))).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SpatialAttention(Net):
    def middle(self, x):
        return x * torch.sigmoid(self.inner(x))


class ExpandedMap(Net):
    """CBAM's: one map for all channels, spread over them first."""

    def middle(self, x):
        n, c, h, w = x.shape
        y = x * torch.sigmoid(self.inner(x)).expand_as(x)
        return y + self.outer(x).expand(n, c, h, w)


class EnhancedSpatialAttention(Net):
    def middle(self, x):
        narrow = self.inner(x)
        small = F.max_pool2d(self.down(narrow), kernel_size=3, stride=2)
        up = F.interpolate(
            self.outer(small), (x.size(2), x.size(3)), mode="bilinear", align_corners=False
        )
        return x * torch.sigmoid(self.back(up + self.skip(narrow)))


class LayerScale(Net):
    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.shift = nn.Parameter(torch.rand(8, 1, 1))

    def middle(self, x):
        return x + self.inner(x) * self.scale + self.shift


class Position(Net):
    """A learned map added to the features."""

    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.map = nn.Parameter(torch.rand(1, 8, 8, 8))

    def middle(self, x):
        return self.inner(x + self.map)


class Resize(Net):
    def middle(self, x):
        return F.interpolate(F.max_pool2d(self.inner(x), 2), scale_factor=2, mode="bilinear")


class Nearest(Net):
    def middle(self, x):
        return F.pad(
            F.interpolate(self.inner(x), scale_factor=2, mode="nearest"),
            (1, 1, 1, 1),
            mode="reflect",
        )


class ChannelPad(Net):
    def middle(self, x):
        return F.pad(self.inner(x), (0, 0, 0, 0, 3, 1))


class Crop(Net):
    def middle(self, x):
        return self.inner(x)[:, :, 1:-1, ::2]


class Divide(Net):
    def middle(self, x):
        return self.inner(x) / (1 + torch.sigmoid(self.outer(x)))


class RootMeanSquare(Net):
    def middle(self, x):
        return self.inner(x) / (x.pow(2).mean((2, 3), keepdim=True) + 1e-3).sqrt()


class Split(Net):
    """IMDN's: what is kept goes straight to the end."""

    def middle(self, x):
        kept, rest = torch.split(self.inner(x), (4, 12), dim=1)
        again, rest = torch.split(self.outer(rest), [3, 5], 1)
        return torch.cat([kept, again, rest], 1)


class SplitEvenly(Net):
    def middle(self, x):
        first, second = torch.split(self.inner(x), 8, dim=1)
        return self.outer(first) + second


class SplitThirds(Net):
    def middle(self, x):
        parts = self.inner(x).split(split_size=6, dim=1)
        return torch.cat([parts[2], torch.relu(parts[1]), self.outer(parts[0])], 1)


class SplitByShape(Net):
    def middle(self, x):
        y = self.inner(x)
        first, second = y.split(y.shape[1] // 2, 1)
        return first * torch.sigmoid(second)


class Slice(Net):
    def middle(self, x):
        y = self.inner(x)
        return torch.cat([torch.relu(y[:, :6]), y[:, 6:-4, ...], y[:, -4:]], dim=1)


class SliceByShape(Net):
    def middle(self, x):
        y = self.inner(x)
        c = y.shape[1] // 2
        return y[:, :c] * y[:, c:]


class Narrow(Net):
    def middle(self, x):
        y = self.inner(x)
        return y.narrow(1, 0, 4) + self.outer(torch.narrow(y, 1, 4, 8))


class Shuffle(Net):
    """ShuffleNet's."""

    groups = 2

    def middle(self, x):
        y = self.inner(x)
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous()
        return self.outer(y.view(n, -1, h, w))


class LiteralShuffle(Net):
    def middle(self, x):
        y = self.inner(x).reshape(x.shape[0], 3, 4, x.size(2), x.size(3))
        return self.outer(torch.transpose(y, 1, 2).reshape(-1, 12, x.size(2), x.size(3)))


class OwnPixelShuffle(Net):
    """Pixel shuffle, written with views."""

    def middle(self, x):
        b, c, h, w = x.shape
        x = self.inner(x).view(b, c, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(b, c, 2 * h, 2 * w)


class OwnPixelUnshuffle(Net):
    def middle(self, x):
        b, c, h, w = x.size()
        assert h % 2 == 0 and w % 2 == 0
        x = x.view(b, c, h // 2, 2, w // 2, 2)
        return x.permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)


class Anchor(nn.Module):
    """ABPN: the input, repeated r^2 times, is added before the pixels are shuffled."""

    def __init__(self):
        super().__init__()
        self.first, self.body, self.last = conv(2, 6), conv(6, 6), conv(6, 8)

    def forward(self, x):
        y = self.last(torch.relu(self.body(torch.relu(self.first(x)))))
        return F.pixel_shuffle(y + torch.cat([x] * 4, dim=1), 2)


class RepeatInterleave(Net):
    """ECBSR's anchor."""

    def middle(self, x):
        return F.pixel_shuffle(self.inner(x) + torch.repeat_interleave(x, 4, dim=1), 2)


class Repeat(Net):
    def middle(self, x):
        return self.inner(x) + x.repeat(1, 2, 1, 1)


class SizesOfAnother(Net):
    """Shapes are read from one value and used for others, one of which is not pruned."""

    def middle(self, x):
        n, c, h, w = x.shape
        y = torch.logcumsumexp(self.inner(x), 1).view(n, c, 2, h, w).sum(2)
        z = self.outer(x).flatten(2).reshape(x.shape)
        return torch.cat([y[:, :c], z], 1)


class Tokens(Net):
    """Linear layers over the channels of every pixel."""

    def middle(self, x):
        b, _, h, w = x.shape
        y = x.flatten(2).permute(0, 2, 1)
        y = self.outer(F.gelu(self.inner(y))).transpose(1, 2).view(b, -1, h, w)
        return x + y


class ChannelsLast(Net):
    def middle(self, x):
        y = torch.permute(x, (0, 2, 3, 1))
        y = self.outer(self.act(self.inner(y)))
        return torch.movedim(y, -1, 1) * self.gamma


class Functional(Net):
    """Module weights in calls of functions."""

    def middle(self, x):
        y = F.conv2d(x, self.inner.weight, self.inner.bias, padding=1)
        y = F.conv2d(y, self.depth.weight, bias=self.depth.bias, padding=1, groups=8)
        y = F.batch_norm(
            y, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
        )
        y = F.prelu(y, self.act.weight)
        y = F.linear(y.mean((2, 3)), self.outer.weight, self.outer.bias)
        return x * y[:, :, None, None]


class Subclass(nn.Conv2d):
    """A convolution that torch.fx looks into."""

    def forward(self, x):
        return super().forward(x) * 2


class MeanShift(Net):
    """RCAN assigns a plain tensor to itself in every forward."""

    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.mean = torch.rand(1, 2, 1, 1)

    def forward(self, x):
        self.mean = self.mean.type_as(x)
        x = (x - self.mean) * 255.0
        return self.last(self.inner(self.first(x))) / 255.0 + self.mean


class Again(Net):
    """The parts of one operator put together by another; arguments by name."""

    def middle(self, x):
        return torch.cat(tensors=torch.chunk(self.inner(input=x), 2, 1), dim=1)


class EachPart(Net):
    """A loop over parts, and over a number that only the shape tells."""

    def middle(self, x):
        parts = [torch.relu(part) for part in self.inner(x).chunk(4, 1)]
        return torch.stack(parts, dim=1).sum(1) + sum(self.outer(x) for _ in range(x.dim() - 2))


class Shared(Net):
    """One module under two names, and two layers with one weight."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.again = self.inner
        self.outer.weight = self.inner.weight

    def middle(self, x):
        return self.outer(torch.relu(self.again(torch.relu(self.inner(x)))))


class SharedAndSplit(Net):
    """A literal, a module under two names, and one that no forward uses."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), unused=conv(3, 3))
        self.again = self.inner

    def middle(self, x):
        first, second = torch.split(self.again(self.inner(x)), [3, 5], 1)
        return torch.cat([second, first], 1)


class Dense(Net):
    def middle(self, x):
        features = [x]
        for layer in (self.inner, self.outer):
            features.append(torch.relu(layer(torch.cat(features, 1))))
        return torch.cat(features, 1)


class Border(Net):
    """ECBSR pads with the bias of the layer before."""

    def middle(self, x):
        y = F.pad(self.inner(x), (1, 1, 1, 1))
        border = self.inner.bias.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = border
        y[:, :, :, -1:] = border
        return self.outer(y)


class ImplicitWeight(Net):
    """A depthwise kernel that is a product of two parameters."""

    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.gain = nn.Parameter(torch.rand(8, 1, 1, 1))
        self.kernel = nn.Parameter(torch.rand(8, 1, 3, 3), requires_grad=False)

    def middle(self, x):
        return F.conv2d(self.inner(x), self.gain * self.kernel, padding=1, groups=8)


class Blur(nn.Module):
    """A fixed depthwise kernel, outside the state dict."""

    def __init__(self, kernel):
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x):
        return F.conv2d(x, self.kernel, padding=1, groups=8)


class Blurred(Net):
    """Two layers with one fixed kernel, and one with four fixed filters for each channel, in the
    state dict.
    """

    def __init__(self):
        kernel = torch.rand(8, 1, 3, 3)
        super().__init__(32, inner=conv(8, 8), blur=Blur(kernel), again=Blur(kernel))
        self.register_buffer("filters", torch.rand(32, 1, 2, 2))

    def middle(self, x):
        y = self.again(torch.relu(self.inner(self.blur(x))))
        return F.conv2d(y, self.filters.to(y), stride=2, groups=8)


def with_fixed_weight(layer):
    """Return a layer whose weight is a buffer."""
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


class AsksWeights(Net):
    """Weights tell sizes and type; their values are not looked at."""

    def middle(self, x):
        y = self.inner(x.to(self.inner.weight.dtype)).type_as(self.outer.weight)
        return self.outer(y.view(-1, self.outer.weight.shape[1], *y.shape[2:]))


class SizesAsIntegers(Net):
    """EDVR's and SwinIR's way with sizes: through Python's own numbers."""

    def middle(self, x):
        h, w = x.shape[-2:]
        half = F.interpolate(x, size=(int(h * 0.5), round(w / 2)))
        return F.interpolate(self.inner(half), size=(math.ceil(h / 1), math.floor(float(w))))


class IntegerParts(Net):
    """A number of channels that Python computes stays as it is."""

    def middle(self, x):
        y = self.inner(x)
        part = int(y.shape[1] / 2)
        return torch.cat([torch.relu(y[:, :part]), y[:, part:]], 1)


class OptionalInput(Net):
    """An input that is None unless it is given, and a literal, so that the forward is
    written anew.
    """

    def forward(self, x, mask=None, *, gain=None):
        y = self.inner(self.first(x))
        if mask is not None:
            y = y * mask
        if gain is not None:
            y = y * gain
        first, second = torch.split(y, [3, 5], 1)
        return self.last(torch.cat([second, first], 1))


class NamedMaximum(Net):
    def middle(self, x):
        return self.inner(x) * x.max(dim=3, keepdim=True).values


class Warped(Net):
    """Sampled at places that a layer of its own finds, as flows do."""

    def middle(self, x):
        places = torch.tanh(self.outer(x)).permute(0, 2, 3, 1)
        return F.grid_sample(self.inner(x), places, align_corners=False)


class Rolled(Net):
    """Shifted windows: pixels are pushed along, and back."""

    def middle(self, x):
        y = torch.roll(self.inner(x), shifts=(2, 1), dims=(2, 3))
        return self.outer(torch.relu(y)).roll((-2, -1), (2, 3))


class TensorSplit(Net):
    def middle(self, x):
        first, second = torch.tensor_split(self.inner(x), 2, dim=1)
        return torch.hstack(
            [torch.lerp(first, second, 0.25), torch.addcmul(first, second, first, value=0.5)]
        )


class Pointwise(Net):
    """Functions of single entries, where a channel that is zero gives no infinity."""

    def middle(self, x):
        y = self.inner(x)
        y = torch.maximum(torch.erf(-y), y.abs().clamp_max(3).square())
        y = torch.where(torch.isnan(y), torch.zeros_like(y), y)
        return torch.log1p(torch.exp(-y)) + y.round() + torch.sin(y)


class Activations(Net):
    """The sum of many activations of the same channels."""

    def middle(self, x):
        y = self.inner(x)
        return sum(kind(y) for kind in self.kinds)


class SpatialStatistics(Net):
    """Every reduction, over space."""

    def middle(self, x):
        y = self.inner(x)
        spread = y.var((2, 3), keepdim=True) + torch.std(y, (2, 3), keepdim=True)
        size = y.norm(dim=(2, 3), keepdim=True) + torch.logsumexp(y, (2, 3), keepdim=True)
        return y * (spread + size + y.prod(3, keepdim=True) * (y > 0).any(3, keepdim=True))


class Columns(Net):
    """Rows and columns treated as channels are elsewhere: normalized, mirrored, taken singly."""

    def middle(self, x):
        y = nn.functional.normalize(self.norm(self.inner(x)), dim=2).flip(3)
        return torch.stack(y.unbind(3), 3).flatten(2).view_as(x)


class CountedPixels(Net):
    """Numbers that count no channels."""

    def middle(self, x):
        assert x.is_floating_point()
        return self.inner(x) * (1 / self.outer(x).numel())


def _minus_mean(layer, inputs, output):
    return output - output.mean(1, keepdim=True)


class Hooked(Net):
    """A hook that mixes the channels of a layer."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.inner.register_forward_hook(_minus_mean)

    def middle(self, x):
        return self.outer(self.inner(x))


class SpectralNorm(Net):
    """Weights that a hook computes before every forward."""

    def __init__(self):
        super().__init__(inner=nn.utils.spectral_norm(conv(8, 8)), outer=conv(8, 8))

    def middle(self, x):
        return self.outer(self.inner(x))


class ComputedWeights(Net):
    """Weights of a parametrization."""

    def __init__(self):
        super().__init__(inner=nn.utils.parametrizations.weight_norm(conv(8, 8)), outer=conv(8, 8))

    def middle(self, x):
        return self.outer(self.inner(x))


class Classifier(nn.Module):
    def __init__(self, flatten):
        super().__init__()
        self.flatten = flatten
        self.features = nn.Sequential(
            conv(2, 8), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(2)
        )
        self.head = nn.Sequential(
            nn.Linear(32, 12), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 5)
        )

    def forward(self, x):
        return self.head(self.flatten(self.features(x)))


ACTIVATIONS = (
    *(nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(
        nn.Identity,
        nn.Softsign,
        nn.LogSigmoid,
        nn.Tanhshrink,
        nn.Softshrink,
        nn.Hardshrink,
        nn.Hardsigmoid,
    ),
)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image, written out."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.bias = nn.Parameter(torch.rand(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ChannelsFirst(nn.LayerNorm):
    """LayerNorm over the channels of an image, by permutations."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class NormByKeyword(nn.Module):
    """LayerNorm under other names, whose width is in a list, called by keyword."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)
        self.normalized_shape = [width]

    def forward(self, features):
        y = F.layer_norm(features.permute(0, 2, 3, 1), self.normalized_shape, self.gamma)
        return y.permute(0, 3, 1, 2)


class MapNorm(nn.Module):
    """LayerNorm over the channels of an image, with a gain laid out as a map."""

    def __init__(self, width):
        super().__init__()
        self.num_channels = width
        self.gain = nn.Parameter(torch.rand(1, width, 1, 1) + 0.5)

    def forward(self, x):
        variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        gain = self.gain.expand(len(x), self.num_channels, 1, 1)
        return (x - mean) * torch.rsqrt(variance + 1e-6) * gain


class CalledByKeyword(Net):
    def middle(self, x):
        return self.outer(self.norm(features=self.inner(x)))


class ChannelMlp(Net):
    """A transformer's MLP: pixels as a sequence, LayerNorm over its channels."""

    def middle(self, x):
        n, _, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        y = y + self.outer(F.gelu(self.inner(self.norm(y))))
        return y.transpose(1, 2).reshape(n, -1, h, w)


class EinopsTokens(Net):
    def middle(self, x):
        h = x.shape[2]
        y = einops.rearrange(x, "n c h w -> n (h w) c")
        y = einops.layers.torch.Rearrange("n s c -> n c s")(self.inner(y))
        return einops.rearrange(y, "n c (h w) -> n c h w", h=h)


class PaddedToMultiple(Net):
    """Sizes worked out with int(), ceil() and numpy; zeros of sizes given singly."""

    def middle(self, x):
        n, _, h, w = x.shape
        rows = int(np.ceil(h / 4) * 4 - h)
        columns = math.ceil(w / 4) * 4 - w
        x = F.pad(x, (0, max(columns, 0), 0, rows))
        x = self.inner(x) + torch.zeros(n, 1, h + rows, 1)
        return nn.Upsample(scale_factor=2)(x)[:, :, :h, :w]


class HalfAsInteger(Net):
    def middle(self, x):
        y = self.inner(x)
        return y[:, : int(y.shape[1] / 2)]


class WindowLinear(Net):
    """A linear layer on windows that lie in the batch axis."""

    def middle(self, x):
        n, c, h, w = x.shape
        y = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        y = self.outer(F.relu(self.inner(y)))
        y = y.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(n, -1, h, w)


TOPOLOGIES = {
    **ATTENTION,
    **CHANNEL_MATRICES,
    **COMPUTED_WEIGHTS,
    **PUBLISHED_BLOCKS,
    **CHANNEL_STATISTICS,
    **FUSED_WEIGHTS,
    "layer_norm_written_out": (2, Sequence(conv(8, 8), ChannelNorm(8), conv(8, 8))),
    "layer_norm_channels_first": (2, Sequence(conv(8, 8), ChannelsFirst(8), conv(8, 8))),
    "layer_norm_of_maps": (2, Sequence(conv(8, 8), MapNorm(8), conv(8, 8))),
    "layer_norm_by_keyword": (
        3,
        CalledByKeyword(inner=conv(8, 8), norm=NormByKeyword(8), outer=conv(8, 8)),
    ),
    "group_norm_of_one_group": (2, Sequence(conv(8, 8), nn.GroupNorm(1, 8), conv(8, 8))),
    "layer_norm_of_tokens": (
        2,
        ChannelMlp(norm=nn.LayerNorm(8), inner=nn.Linear(8, 16), outer=nn.Linear(16, 8)),
    ),
    "einops": (2, EinopsTokens(inner=nn.Linear(8, 8))),
    "padded_to_multiple": (2, PaddedToMultiple(inner=conv(8, 8))),
    "size_as_an_integer": (2, HalfAsInteger(inner=conv(8, 8), outputs=4)),
    "windows_in_the_batch": (2, WindowLinear(inner=nn.Linear(8, 16), outer=nn.Linear(16, 8))),
    "strided_and_dilated": (
        2,
        Sequence(nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, dilation=2, padding=2)),
    ),
    "depthwise": (2, Sequence(conv(8, 8, groups=8), nn.ReLU(), conv(8, 8, 1))),
    "depthwise_with_multiplier": (1, Sequence(conv(8, 16, groups=8), outputs=16)),
    "grouped": (2, Sequence(conv(8, 12, groups=4), outputs=12)),
    "grouped_with_whole_input": (2, Sequence(nn.Conv2d(8, 16, 3, groups=4), outputs=16)),
    "transposed": (2, Sequence(nn.ConvTranspose2d(8, 6, 2, stride=2), outputs=6)),
    "transposed_grouped": (
        2,
        Sequence(nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2), outputs=12),
    ),
    "transposed_depthwise": (1, Sequence(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8))),
    "transposed_depthwise_with_multiplier": (
        1,
        Sequence(nn.ConvTranspose2d(8, 16, 2, groups=8), outputs=16),
    ),
    "batch_norm_and_prelu": (
        3,
        Sequence(conv(8, 8), nn.BatchNorm2d(8), nn.PReLU(8), conv(8, 8), nn.PReLU()),
    ),
    "batch_norm_not_affine": (2, Sequence(conv(8, 8), nn.BatchNorm2d(8, affine=False))),
    "instance_norm": (2, Sequence(conv(8, 8), nn.InstanceNorm2d(8, affine=True))),
    "instance_norm_not_affine": (2, Sequence(conv(8, 8), nn.InstanceNorm2d(8))),
    "group_norm": (2, Sequence(conv(8, 8), nn.GroupNorm(4, 8))),
    "activations": (
        4,
        Sequence(conv(8, 8), nn.Sigmoid(), conv(8, 8), nn.GELU(), conv(8, 8), nn.Softplus()),
    ),
    "all_activations": (
        1,
        Activations(inner=conv(8, 8), kinds=nn.ModuleList(kind() for kind in ACTIVATIONS)),
    ),
    "activations_with_settings": (
        1,
        Sequence(conv(8, 8), nn.Threshold(0.1, 20), nn.Hardtanh(-2, 2), nn.LPPool2d(2, 2)),
    ),
    "functions_of_entries": (1, Pointwise(inner=conv(8, 8))),
    "statistics_over_space": (2, SpatialStatistics(inner=conv(8, 8))),
    "columns": (1, Columns(inner=conv(8, 8), norm=nn.LayerNorm(8))),
    "root_mean_square_norm": (2, Sequence(conv(8, 8), nn.RMSNorm(8))),
    "counted_pixels": (2, CountedPixels(inner=conv(8, 8), outer=conv(8, 1))),
    "shuffle": (2, Sequence(conv(8, 16), nn.PixelShuffle(2), outputs=4)),
    "unshuffle": (1, Sequence(nn.PixelUnshuffle(2), outputs=32)),
    "channel_shuffle_module": (
        3,
        Sequence(conv(8, 12, groups=2), nn.ChannelShuffle(2), conv(12, 8, groups=2)),
    ),
    "padding_and_up": (
        2,
        Sequence(nn.ReflectionPad2d(1), conv(8, 8), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
    ),
    "gated_linear_unit": (2, Sequence(conv(8, 16), nn.GLU(dim=1))),
    "residual": (1, Residual(inner=conv(8, 8), outer=conv(8, 8))),
    "in_place": (1, InPlace(inner=conv(8, 8))),
    "global_residual_and_dropout": (2, GlobalResidual(inner=conv(8, 8))),
    "gate": (2, Gate(inner=conv(8, 16))),
    "shared_module_and_concat": (2, Concat(outputs=20, inner=conv(8, 6))),
    "dense": (3, Dense(outputs=20, inner=conv(8, 6), outer=conv(14, 6))),
    "channel_attention": (2, Attention(inner=conv(8, 4, 1), outer=conv(4, 8, 1))),
    "squeeze_and_excite_by_linear": (
        2,
        FlatAttention(inner=nn.Linear(8, 4), outer=nn.Linear(4, 8)),
    ),
    "spatial_attention": (1, SpatialAttention(inner=conv(8, 1))),
    "map_spread_over_channels": (1, ExpandedMap(inner=conv(8, 1), outer=conv(8, 1))),
    "enhanced_spatial_attention": (
        3,
        EnhancedSpatialAttention(
            inner=conv(8, 4, 1),
            down=nn.Conv2d(4, 6, 3),
            outer=conv(6, 4),
            skip=conv(4, 4, 1),
            back=conv(4, 8, 1),
        ),
    ),
    "layer_scale": (1, LayerScale()),
    "position_map": (2, Position()),
    "resize": (2, Resize(inner=conv(8, 8))),
    "nearest_and_reflection": (2, Nearest(inner=conv(8, 8))),
    "padding_of_channels": (2, ChannelPad(outputs=12, inner=conv(8, 8))),
    "crop": (2, Crop(inner=conv(8, 8))),
    "division_by_what_is_positive": (2, Divide(inner=conv(8, 8), outer=conv(8, 8))),
    "root_mean_square": (1, RootMeanSquare(inner=conv(8, 8))),
    "split_by_literals": (5, Split(outputs=12, inner=conv(8, 16), outer=conv(12, 8))),
    "split_evenly": (3, SplitEvenly(inner=conv(8, 16), outer=conv(8, 8))),
    "split_by_name_and_taken_apart": (
        4,
        SplitThirds(outputs=18, inner=conv(8, 18), outer=conv(6, 6)),
    ),
    "split_by_shape": (2, SplitByShape(inner=conv(8, 16))),
    "slice": (4, Slice(outputs=16, inner=conv(8, 16))),
    "slice_by_shape": (2, SliceByShape(inner=conv(8, 16))),
    "narrow": (3, Narrow(outputs=4, inner=conv(8, 12), outer=conv(8, 4))),
    "channel_shuffle": (3, Shuffle(inner=conv(8, 12), outer=conv(12, 8))),
    "channel_shuffle_by_literals": (3, LiteralShuffle(inner=conv(8, 12), outer=conv(12, 8))),
    "pixel_shuffle_by_views": (1, OwnPixelShuffle(inner=conv(8, 32))),
    "pixel_unshuffle_by_views": (1, OwnPixelUnshuffle(outputs=32)),
    "anchor": (2, Anchor()),
    "repeat_interleave": (1, RepeatInterleave(inner=conv(8, 32))),
    "repeat": (1, Repeat(outputs=16, inner=conv(8, 16))),
    "sizes_of_another": (1, SizesOfAnother(outputs=16, inner=conv(8, 16), outer=conv(8, 8))),
    "tokens": (2, Tokens(inner=nn.Linear(8, 16), outer=nn.Linear(16, 8))),
    "channels_last": (
        3,
        ChannelsLast(
            inner=nn.Linear(8, 12),
            act=nn.GELU(),
            outer=nn.Linear(12, 8),
            gamma=nn.Parameter(torch.rand(8, 1, 1)),
        ),
    ),
    "functional": (
        2,
        Functional(
            inner=conv(8, 8),
            depth=conv(8, 8, groups=8),
            norm=nn.BatchNorm2d(8),
            act=nn.PReLU(8),
            outer=nn.Linear(8, 8),
        ),
    ),
    "subclass_of_a_layer": (2, Sequence(Subclass(8, 8, 3, padding=1))),
    "plain_tensor_assigned": (2, MeanShift()),
    "list_of_parts": (2, Again(inner=conv(8, 8))),
    "loops_and_stack": (2, EachPart(outputs=4, inner=conv(8, 16), outer=conv(8, 4))),
    "shared_and_tied": (1, Shared()),
    "shared_and_split": (1, SharedAndSplit()),
    "constant_of_removed_layers": (1, Removed(inner=ConstantMap(0, (1, 1)), outer=constant(8))),
    "border_of_bias": (3, Border(inner=conv(8, 8), outer=conv(8, 8))),
    "kernel_computed": (2, ImplicitWeight()),
    "fixed_kernels": (2, Blurred()),
    "layers_with_fixed_kernels": (
        2,
        Sequence(
            with_fixed_weight(conv(8, 8, groups=8)),
            conv(8, 8),
            with_fixed_weight(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)),
        ),
    ),
    "weights_asked_for_sizes": (3, AsksWeights(inner=conv(8, 12), outer=conv(12, 8))),
    "sizes_as_integers": (2, SizesAsIntegers(inner=conv(8, 8))),
    "parts_as_integers": (1, IntegerParts(inner=conv(8, 8))),
    "optional_input": (3, OptionalInput(inner=conv(8, 8))),
    "maximum_by_name": (1, NamedMaximum(inner=conv(8, 8))),
    "warped": (2, Warped(inner=conv(8, 8), outer=conv(8, 2))),
    "rolled": (3, Rolled(inner=conv(8, 8), outer=conv(8, 8))),
    "tensor_split": (2, TensorSplit(inner=conv(8, 16), outputs=16)),
    "hooked": (1, Hooked()),
    "weights_computed_by_hooks": (1, SpectralNorm()),
    "weights_computed_by_parametrizations": (1, ComputedWeights()),
    "classifier": (2, Classifier(nn.Flatten())),
    "classifier_by_view": (2, Classifier(lambda x: x.view(x.size(0), -1))),
    "classifier_by_literal_view": (2, Classifier(lambda x: x.view(-1, 32))),
    "classifier_by_reshape": (2, Classifier(lambda x: x.reshape(x.shape[0], -1))),
    "classifier_by_flatten": (2, Classifier(lambda x: torch.flatten(x, 1))),
}
"""Name -> (how many groups are prunable at least, the network)."""


def masked(network, share):
    """Return a converted network in float64, random values and masks, and an input; every prunable
    group is narrowed.
    """
    network = copy.deepcopy(network).double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand_like(tensor) + 0.1 if tensor.dim() == 1 else torch.randn_like(tensor)
                )
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    hyper = convert(network, x).eval()
    for group in hyper.plan.prunable:
        kept = min(max(round(share * group.width), 1), group.width - 1)
        hyper.set_masks({group.name: torch.randperm(group.width) < kept})
    return hyper, x
