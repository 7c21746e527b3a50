"""Small networks in the manner of published ones: wavelets, Fourier units, windows, recurrences."""

import torch
import torch.nn.functional as F
from topology_base import Net, conv
from torch import nn


class SelectiveKernels(Net):
    """Two branches in one value (n, 2, c, h, w), weighted for each channel (SKNet, MIRNet)."""

    def middle(self, x):
        branches = torch.cat([self.inner(x), self.outer(x)], 1)
        branches = branches.view(x.shape[0], 2, -1, *x.shape[2:])
        pooled = self.squeeze(branches.sum(1).mean((2, 3), keepdim=True))
        weights = torch.cat([self.one(pooled), self.other(pooled)], 1).view(x.shape[0], 2, -1, 1, 1)
        return (branches * weights.softmax(1)).sum(1)


class GroupWeights(Net):
    """A kernel for each of two groups of channels and each pixel (Involution)."""

    def __init__(self):
        super().__init__(inner=conv(8, 18), unfold=nn.Unfold(3, padding=1))

    def middle(self, x):
        n, c, h, w = x.shape
        kernels = self.inner(x).view(n, 2, 1, 9, h, w)
        return (self.unfold(x).view(n, 2, c // 2, 9, h, w) * kernels).sum(3).view(n, c, h, w)


class Windows(Net):
    """Windows as columns, added up again, and windows along both axes."""

    def middle(self, x):
        columns = F.unfold(self.inner(x), 3, padding=1)
        y = F.fold(columns * columns.abs(), x.shape[2:], 3, padding=1)
        return F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))


class Unpooled(Net):
    """Pixels go back to where a pooling took them from (SegNet)."""

    def middle(self, x):
        y, indices = F.max_pool2d(self.inner(x), 2, return_indices=True)
        return F.max_unpool2d(self.outer(y), indices, 2, output_size=x.size())


class FourierUnit(Net):
    """Real and imaginary parts as channels (LaMa), amplitude and phase, frequencies moved."""

    def middle(self, x):
        y = torch.fft.rfft2(self.inner(x), norm="ortho")
        parts = torch.view_as_real(y).movedim(-1, 2).flatten(1, 2)
        real, imaginary = self.outer(parts).unflatten(1, (-1, 2)).unbind(2)
        y = torch.view_as_complex(torch.stack([real, imaginary], -1)) * y.abs()
        y = torch.fft.irfft2(y, s=x.shape[2:], norm="ortho")
        z = torch.fft.fftshift(torch.fft.fftn(y, dim=(2, 3)), dim=(2, 3))
        return y + torch.complex(z.real.tanh(), z.imag).abs() + torch.fft.fft(y).angle().cos()


class Wavelets(Net):
    """Haar's wavelets by slices; the inverse writes into zeros (MWCNN)."""

    def middle(self, x):
        top, bottom = x[:, :, 0::2] / 2, x[:, :, 1::2] / 2
        a, b, c, d = top[..., 0::2], bottom[..., 0::2], top[..., 1::2], bottom[..., 1::2]
        y = self.inner(torch.cat((a + b + c + d, c + d - a - b, b + d - a - c, a + d - b - c), 1))
        n, c, h, w = y.size()
        width = int(c / 4)
        a, b = y[:, :width] / 2, y[:, width : 2 * width] / 2
        c, d = y[:, 2 * width : 3 * width] / 2, y[:, 3 * width : 4 * width] / 2
        z = torch.zeros([n, width, 2 * h, 2 * w]).to(y)
        z[:, :, 0::2, 0::2], z[:, :, 1::2, 0::2] = a - b - c + d, a - b + c - d
        z[:, :, 0::2, 1::2], z[:, :, 1::2, 1::2] = a + b - c - d, a + b + c + d
        return z


class Recurrence(Net):
    """A state that begins as zeros of a written width (BasicVSR, convolutional LSTM)."""

    def middle(self, x):
        state = x.new_zeros(x.shape[0], 6, x.shape[2], x.shape[3])
        for _ in range(3):
            state = torch.tanh(self.inner(torch.cat([x, state], 1)))
        return state


class RepeatedKernels(Net):
    """Fixed kernels, repeated for every channel (wavelets, edges)."""

    def __init__(self):
        super().__init__(outputs=32, inner=conv(8, 8))
        self.register_buffer("edge", torch.rand(1, 1, 3, 3))
        self.register_buffer("filters", torch.rand(4, 1, 2, 2))

    def middle(self, x):
        y = self.inner(x)
        c = y.size(1)
        y = y - F.conv2d(y, self.edge.expand(c, 1, 3, 3), padding=1, groups=c)
        y = F.conv2d(y, self.filters.repeat(c, 1, 1, 1), stride=2, groups=c)
        return F.conv_transpose2d(y, self.edge.repeat(y.shape[1], 1, 1, 1), groups=y.shape[1])


class SimpleAttention(Net):
    """Divided by a variance that the number of pixels is in (SimAM)."""

    def middle(self, x):
        y = self.inner(x)
        count = y.shape[2] * y.shape[3] - 1
        distance = (y - y.mean(dim=(2, 3), keepdim=True)).pow(2)
        variance = distance.sum(dim=(2, 3), keepdim=True) / count
        return y * torch.sigmoid_(distance / (4 * (variance + 1e-4)) + 0.5)


class MaskedTokens(Net):
    """Entries set to a value, for all channels alike."""

    def middle(self, x):
        y = self.inner(x)
        is_border = torch.zeros(y.shape[2:], dtype=torch.bool).to(y.device)
        is_border[:1] = True
        return torch.tanh(y.masked_fill(is_border, 0.5)).mul(2).masked_fill_(is_border, -1)


class MixedPositions(Net):
    """Layers over all pixels, for each channel by itself (MLP-Mixer, gMLP)."""

    def __init__(self):
        super().__init__(inner=nn.Linear(64, 6), outer=nn.Linear(6, 64))
        self.widen, self.gate = nn.Linear(8, 20), nn.Conv1d(64, 64, 1)
        self.narrow = nn.Linear(10, 8)

    def middle(self, x):
        y = x.flatten(2)
        y = (y + self.outer(F.gelu(self.inner(y)))).transpose(1, 2)
        kept, gate = self.widen(y).chunk(2, dim=-1)
        return self.narrow(kept * self.gate(gate)).transpose(1, 2).reshape(x.shape)


class ChannelsAsImages(Net):
    """The same filters for each channel by itself."""

    def middle(self, x):
        n, c, h, w = x.shape
        y = torch.relu(self.inner(x.reshape(n * c, 1, h, w)))
        return x + self.outer(y).view(n, c, h, w)


class ShuffleWithBatch(Net):
    """A channel shuffle that puts batch and channels into one axis (ShuffleNet v2)."""

    def middle(self, x):
        y = self.inner(x)
        n, c, h, w = y.shape
        assert c % 2 == 0
        y = y.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        # A width that is written keeps the class from fitting.
        return torch.cat([y[0], self.outer(y[1])[:, :4]], 1)


class SparseAttention(Net):
    """Each pixel attends to the most similar ones alone (KiT, DRSformer)."""

    def __init__(self):
        super().__init__(query=conv(8, 6, 1), key=conv(8, 6, 1), value=conv(8, 8, 1))

    def middle(self, x):
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        similarity = query.transpose(1, 2) @ key
        index = torch.topk(similarity, k=4, dim=-1)[1]
        is_near = torch.zeros_like(similarity).scatter_(-1, index, 1.0)
        weights = torch.where(is_near > 0, similarity, -1e4).softmax(-1)
        return (value @ weights.transpose(1, 2)).view_as(x)


class OrderedPixels(Net):
    """The brightest pixels of each channel weight it; columns in another order."""

    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.register_buffer("order", torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]))

    def middle(self, x):
        y = self.inner(x)
        brightest = y.flatten(2).sort(-1, descending=True)[0][..., :3].mean(-1)
        return y.index_select(3, self.order) * brightest.unsqueeze_(2).unsqueeze_(3)


PUBLISHED_BLOCKS = {
    "selective_kernels": (
        3,
        SelectiveKernels(
            inner=conv(8, 8),
            outer=conv(8, 8),
            squeeze=conv(8, 4, 1),
            one=conv(4, 8, 1),
            other=conv(4, 8, 1),
        ),
    ),
    "weights_of_groups": (1, GroupWeights()),
    "windows_of_maps": (2, Windows(inner=conv(8, 8))),
    "unpooled": (2, Unpooled(inner=conv(8, 8), outer=conv(8, 8))),
    "fourier_unit": (2, FourierUnit(inner=conv(8, 8), outer=conv(16, 16, 1))),
    "wavelets": (2, Wavelets(inner=conv(32, 32))),
    "state_of_zeros": (2, Recurrence(outputs=6, inner=conv(14, 6))),
    "repeated_kernels": (2, RepeatedKernels()),
    "simple_attention": (2, SimpleAttention(inner=conv(8, 8))),
    "masked_fill": (2, MaskedTokens(inner=conv(8, 8))),
    "mixed_positions": (2, MixedPositions()),
    "channels_as_images": (1, ChannelsAsImages(inner=conv(1, 4), outer=conv(4, 1))),
    "sparse_attention": (2, SparseAttention()),
    "ordered_pixels": (2, OrderedPixels()),
    "shuffle_with_batch": (2, ShuffleWithBatch(inner=conv(8, 8), outer=conv(4, 4))),
}
