"""Small networks with products of features, and with forwards that plain torch.fx cannot follow."""

import warnings

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class Tokens(Net):
    """Pixels as a sequence of (n, h * w, c)."""

    def middle(self, x):
        n, _, h, w = x.shape
        y = self.tokens(x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).reshape(n, -1, h, w)


class WrittenAttention(Tokens):
    """Queries, keys and values of one layer; the scale is an attribute."""

    def __init__(self, heads=2):
        super().__init__(qkv=nn.Linear(8, 24), outer=nn.Linear(8, 8))
        self.heads, self.scale = heads, (8 // heads) ** -0.5
        self.bias = nn.Parameter(torch.rand(heads, 1, 1))

    def tokens(self, x):
        n, length, _ = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, 8 // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = q * self.scale @ k.transpose(-2, -1) + self.bias
        y = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, length, -1)
        return x + self.outer(y)


class FusedAttention(Tokens):
    """torch's own operator, whose scale is that of the width."""

    def __init__(self, **settings):
        super().__init__(qkv=nn.Linear(8, 24), outer=nn.Linear(8, 8))
        self.settings = settings
        mask = torch.zeros(144, 144)
        self.register_buffer("mask", mask.masked_fill(torch.rand(144, 144) < 0.3, -1.0))

    def tokens(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mask = self.mask[:length, :length]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.settings)
        return x + self.outer(y.transpose(1, 2).reshape(n, length, -1))


class ModuleAttention(Tokens):
    """torch's module."""

    def __init__(self, heads=2, weights=True, **settings):
        super().__init__(attention=nn.MultiheadAttention(8, heads, **settings))
        self.weights = weights

    def tokens(self, x):
        first = self.attention.batch_first
        y = x if first else x.transpose(0, 1)
        y, _ = self.attention(y, y, value=y, need_weights=self.weights)
        return x + (y if first else y.transpose(0, 1))


class CrossAttention(ModuleAttention):
    """Keys are not what asks."""

    def tokens(self, x):
        return x + self.attention(x, x + 1, x + 1)[0]


class BesideCrossAttention(CrossAttention):
    """Layers behind an attention that is pinned."""

    def __init__(self):
        super().__init__(batch_first=True)
        self.inner, self.outer = conv(8, 6), conv(6, 8)

    def middle(self, x):
        return self.outer(self.inner(super().middle(x)).relu())


class MaskedAttention(ModuleAttention):
    """The first tokens are left out."""

    def tokens(self, x):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, :2] = True
        return x + self.attention(x, x, x, key_padding_mask=mask)[0]


class ReadWeights(ModuleAttention):
    """The weights of the attention go on."""

    def tokens(self, x):
        y, weights = self.attention(x, x, x)
        return x + y * weights.amax(dim=1)[..., None]


class TransposedAttention(Net):
    """Attention between channels, as in Restormer; heads are the units."""

    def __init__(self):
        super().__init__(inner=conv(8, 24, 1), outer=conv(8, 8, 1))
        self.heads = 4
        self.temperature = nn.Parameter(torch.rand(4, 1, 1))

    def middle(self, x):
        n, _, h, w = x.shape
        q, k, v = (part.reshape(n, self.heads, -1, h * w) for part in self.inner(x).chunk(3, dim=1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        y = (scores * self.temperature).softmax(dim=-1) @ v
        return x + self.outer(y.reshape(n, -1, h, w))


class LinearAttention(Net):
    """Keys and values are multiplied first; written as einsum and bmm."""

    def __init__(self, equation="nks,nvs->nkv"):
        super().__init__(q=conv(8, 8, 1), k=conv(8, 8, 1), v=conv(8, 6, 1), outer=conv(6, 8, 1))
        self.equation = equation

    def middle(self, x):
        n, _, h, w = x.shape
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        context = torch.einsum(self.equation, k, v)
        y = torch.bmm(context.transpose(1, 2), torch.softmax(q, dim=-1))
        return x + self.outer(y.reshape(n, -1, h, w))


class AssignedSlice(Net):
    """A convolution on the first channels, whose result takes their place (PLKSR)."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), part=conv(3, 3), outer=conv(8, 8))
        self.count = 3

    def middle(self, x):
        y = self.inner(x)
        y[:, : self.count] = self.part(y[:, : self.count].clone())
        return self.outer(y)


def swish(x):
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # published networks use it
    swish = torch.jit.script(swish)


def default(value, make):
    return value if value is not None else make() if callable(make) else make


class Unusual(Net):
    """Compiled functions, classes asked for, sizes as texts."""

    def forward(self, x, degree=(0.5, None), noise=None):
        if not isinstance(x, torch.Tensor):
            raise TypeError("expected an image")
        rows = {"8": 1, "12": 2}.get(str(x.shape[2]), 3)
        y = swish(self.first(x)) * degree[0] + default(noise, torch.zeros(rows, 1, 1, 1))[:1]
        y = self.inner(y, scale=y.mean((2, 3), keepdim=True))
        return self.last(y + torch.zeros(x.shape[0], 1, 1, 1).fill_(rows))


class Modulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(8, 8)

    def forward(self, x, scale):
        return self.conv(x) * torch.sigmoid(scale)


ATTENTION = {
    "attention": (2, WrittenAttention()),
    "attention_fused": (2, FusedAttention()),
    "attention_fused_with_scale": (2, FusedAttention(scale=0.5)),
    "attention_module": (3, ModuleAttention(batch_first=True)),
    "attention_module_sequence_first": (3, ModuleAttention(4, weights=False, bias=False)),
    "attention_module_with_dropout": (3, ModuleAttention(1, dropout=0.1, batch_first=True)),
    "attention_module_to_others": (1, BesideCrossAttention()),
    "attention_between_channels": (2, TransposedAttention()),
    "attention_linear": (2, LinearAttention()),
    "attention_linear_without_arrow": (2, LinearAttention("...ks,...vs")),
    "assigned_slice": (4, AssignedSlice()),
    "unusual_forward": (1, Unusual(inner=Modulated())),
}
