"""Small networks with products of the channels of one feature with another's."""

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class LinearAttention(Net):
    """Features of queries and keys that are not negative, keys and values multiplied first."""

    def __init__(self, feature, product="matmul", heads=1):
        super().__init__(q=conv(8, 6, 1), k=conv(8, 6, 1), v=conv(8, 8, 1), outer=conv(8, 8, 1))
        self.feature, self.product, self.heads = feature, product, heads

    def middle(self, x):
        n, _, h, w = x.shape
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self.feature(q), self.feature(k)
        if self.heads > 1:
            q, k, v = (y.reshape(n, h * w, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        if self.product == "matmul":
            y, total = q @ (k.mT @ v), q @ k.sum(-2).unsqueeze(-1)
        elif self.product == "transposed":
            y, total = q @ (v.mT @ k).mT, q @ k.sum(1).unsqueeze(1).mT
        elif self.product == "bmm":
            y = torch.bmm(q, torch.bmm(k.permute(0, 2, 1), v) / (h * w))
            total = (q * k.mean(1, keepdim=True)).sum(-1, keepdim=True)
        else:
            y = torch.einsum("...nc,...ce->...ne", q, torch.einsum("...nc,...ne->...ce", k, v))
            total = torch.einsum("...nc,...c->...n", [q, k.sum(-2)])[..., None]
        y = y / (total + 1e-3)
        return x + self.outer(y.mT.reshape(n, -1, h, w))


def elu_and_one(x):
    return F.elu(x) + 1


class Transposed(Net):
    """Attention between channels, with a single head or none (Restormer)."""

    def __init__(self, heads=()):
        super().__init__(inner=conv(8, 24, 1), outer=conv(8, 8, 1))
        self.heads, self.softmax = heads, nn.Softmax(dim=-1)
        self.temperature = nn.Parameter(torch.rand(*heads, 1, 1))
        self.dropout = nn.Dropout(0.1)

    def middle(self, x):
        n, _, h, w = x.shape
        q, k, v = (y.reshape(n, *self.heads, -1, h * w) for y in self.inner(x).chunk(3, dim=1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = self.dropout(self.softmax(scores * self.temperature))
        return x + self.outer((scores @ v).reshape(n, -1, h, w))


class DoubleAttention(Net):
    """Descriptors gathered over the image and spread over it again (A2-Net)."""

    def __init__(self):
        super().__init__(a=conv(8, 6, 1), b=conv(8, 5, 1), v=conv(8, 5, 1), outer=conv(6, 8, 1))

    def middle(self, x):
        n, _, h, w = x.shape
        a, b, v = (layer(x).view(n, -1, h * w) for layer in (self.a, self.b, self.v))
        gathered = torch.bmm(a, b.softmax(dim=-1).permute(0, 2, 1))
        return x + self.outer(gathered.matmul(v.softmax(dim=1)).view(n, -1, h, w))


class ChannelAttention(Net):
    """Channels weighted by how much they differ from the most alike one (DANet)."""

    def middle(self, x):
        y = self.inner(x)
        query = y.flatten(2)
        energy = torch.bmm(query, query.permute(0, 2, 1))
        difference = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        attention = (difference - difference.amin(dim=2, keepdim=True)).softmax(dim=-1)
        return self.outer(torch.bmm(attention, query).view_as(y) * 0.5 + y)


class LambdaLayer(Net):
    """Queries of several heads that read one product of keys and values (LambdaNetworks)."""

    def __init__(self):
        super().__init__(q=conv(8, 16, 1), kv=conv(8, 11, 1), outer=conv(28, 8, 1))

    def middle(self, x):
        n, _, h, w = x.shape
        q = self.q(x).reshape(n, 4, -1, h * w).transpose(-1, -2)
        k, v = self.kv(x).flatten(2).split([4, 7], dim=1)
        context = (k.softmax(dim=-1) @ v.transpose(1, 2)).unsqueeze(1)
        return x + self.outer((q @ context).transpose(-1, -2).reshape(n, -1, h, w))


class CovarianceAttention(Net):
    """Channels weighted by what they have in common with all others, without a softmax."""

    def middle(self, x):
        y = self.inner(x).flatten(2)
        covariance = torch.einsum("ncl,ndl->ncd", y, y) / y.shape[2] + 0.1
        scores = torch.sigmoid(covariance) * covariance - covariance.relu()
        return self.outer((scores @ y).view_as(x))


CHANNEL_MATRICES = {
    "linear_attention_elu": (3, LinearAttention(elu_and_one)),
    "linear_attention_relu": (3, LinearAttention(F.relu, "bmm")),
    "linear_attention_transposed": (3, LinearAttention(torch.exp, "transposed")),
    "linear_attention_sigmoid": (3, LinearAttention(torch.sigmoid, "einsum")),
    "linear_attention_heads": (2, LinearAttention(elu_and_one, "matmul", heads=2)),
    "attention_of_one_head": (2, Transposed(heads=(1,))),
    "attention_without_heads": (2, Transposed()),
    "attention_double": (3, DoubleAttention()),
    "attention_by_differences": (2, ChannelAttention(inner=conv(8, 8), outer=conv(8, 8))),
    "attention_by_lambdas": (3, LambdaLayer()),
    "attention_by_covariance": (2, CovarianceAttention(inner=conv(8, 8), outer=conv(8, 8))),
}
