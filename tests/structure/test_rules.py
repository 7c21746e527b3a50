"""One small network for every rule: cut equals masked, and what has no rule is pinned."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhp_sr.hyper import convert


def conv(inputs, outputs, kernel=3, **more):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


class Net(nn.Module):
    """first -> middle -> last, where `middle` is the piece under test."""

    def __init__(self, outputs=8, **parts):
        super().__init__()
        self.first, self.last = conv(2, 8), conv(outputs, 2)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Sequence(Net):
    def __init__(self, *parts, outputs=8):
        super().__init__(outputs, parts=nn.Sequential(*parts))

    def middle(self, x):
        return self.parts(x)


class Residual(Net):
    def middle(self, x):
        return x + torch.relu(self.inner(x)) * 0.5 - self.outer(x)


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


class SpatialAttention(Net):
    def middle(self, x):
        return x * torch.sigmoid(self.inner(x))


class LayerScale(Net):
    def __init__(self):
        super().__init__(inner=conv(8, 8))
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1))

    def middle(self, x):
        return x + self.inner(x) * self.scale


class Resize(Net):
    def middle(self, x):
        return F.interpolate(F.max_pool2d(self.inner(x), 2), scale_factor=2, mode="bilinear")


class Crop(Net):
    def middle(self, x):
        return self.inner(x)[:, :, 1:-1, ::2]


class Divide(Net):
    def middle(self, x):
        return self.inner(x) / (1 + torch.sigmoid(self.outer(x)))


class Split(Net):
    def middle(self, x):
        first, second = torch.split(self.inner(x), [4, 4], dim=1)
        return first + second


class Stack(Net):
    def middle(self, x):
        return self.inner(torch.stack(torch.chunk(self.outer(x), 2, dim=1)).mean(0))


class Again(Net):
    """The parts of one operator put together by another; arguments by name."""

    def middle(self, x):
        return torch.cat(tensors=torch.chunk(self.inner(input=x), 2, 1), dim=1)


class Shared(Net):
    """One module under two names, and two layers with one weight."""

    def __init__(self):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.again = self.inner
        self.outer.weight = self.inner.weight

    def middle(self, x):
        return self.outer(torch.relu(self.again(torch.relu(self.inner(x)))))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(2, 8), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 12), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 5))

    def forward(self, x):
        return self.head(self.features(x))


TOPOLOGIES = {
    "strided_and_dilated": Sequence(nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, dilation=2, padding=2)),
    "depthwise": Sequence(conv(8, 8, groups=8), nn.ReLU(), conv(8, 8, 1)),
    "depthwise_with_multiplier": Sequence(conv(8, 16, groups=8), outputs=16),
    "grouped": Sequence(conv(8, 12, groups=4), outputs=12),
    "transposed": Sequence(nn.ConvTranspose2d(8, 6, 2, stride=2), outputs=6),
    "batch_norm_and_prelu": Sequence(conv(8, 8), nn.BatchNorm2d(8), nn.PReLU(8), conv(8, 8), nn.PReLU()),
    "instance_norm": Sequence(conv(8, 8), nn.InstanceNorm2d(8, affine=True)),
    "activations": Sequence(conv(8, 8), nn.Sigmoid(), conv(8, 8), nn.GELU(), conv(8, 8), nn.Softplus()),
    "shuffle": Sequence(conv(8, 16), nn.PixelShuffle(2), outputs=4),
    "unshuffle": Sequence(nn.PixelUnshuffle(2), outputs=32),
    "padding_and_up": Sequence(nn.ReflectionPad2d(1), conv(8, 8), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
    "residual": Residual(inner=conv(8, 8), outer=conv(8, 8)),
    "gate": Gate(inner=conv(8, 16)),
    "shared_module_and_concat": Concat(outputs=20, inner=conv(8, 6)),
    "channel_attention": Attention(inner=conv(8, 4, 1), outer=conv(4, 8, 1)),
    "spatial_attention": SpatialAttention(inner=conv(8, 1)),
    "layer_scale": LayerScale(),
    "resize": Resize(inner=conv(8, 8)),
    "grouped_with_whole_input": Sequence(nn.Conv2d(8, 16, 3, groups=4), outputs=16),
    "list_of_parts": Again(inner=conv(8, 8)),
    "shared_and_tied": Shared(),
    "crop": Crop(inner=conv(8, 8)),
    "classifier": Classifier(),
}


def masked(network, share):
    network = network.double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1 if tensor.dim() == 1 else torch.randn_like(tensor))
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    hyper = convert(network, x).eval()
    for group in hyper.plan.prunable:
        mask = torch.rand(group.width) < share
        mask[torch.randint(group.width, ())] = True
        hyper.set_masks({group.name: mask})
    return hyper, x


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_cut_equals_masked(name, share):
    hyper, x = masked(TOPOLOGIES[name], share)
    assert any(group.prunable for group in hyper.plan.groups)
    small = hyper.cut()
    with torch.no_grad():
        expected, found = hyper(x), small(x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert hyper.cost().params == sum(p.numel() for p in small.parameters())
    assert hyper.cost().params < hyper.dense_cost().params


@pytest.mark.parametrize(
    ("network", "pinned", "reason"),
    [
        (Divide(inner=conv(8, 8), outer=conv(8, 8)), {"inner", "outer"}, "division by channels"),
        (Stack(inner=conv(4, 8), outer=conv(8, 8)), {"outer"}, "operator stack"),
        (Split(outputs=4, inner=conv(8, 8)), {"inner"}, "operator split"),
        (Sequence(conv(8, 8), nn.GroupNorm(2, 8)), {"parts.0"}, "operator GroupNorm"),
        (Sequence(conv(8, 8), nn.Softmax(dim=1)), {"parts.0"}, "operator Softmax"),
        (SpatialAttention(inner=conv(8, 1)), {"inner"}, "one value for all channels"),
    ],
)
def test_what_cannot_be_cut_is_pinned_with_its_reason(network, pinned, reason):
    hyper, _ = masked(network, 0.5)
    reasons = {member: group.reason for group in hyper.plan.groups for member in group.members}
    assert all(reason in reasons[name] for name in pinned)


def test_a_gate_keeps_its_halves_equal():
    hyper, _ = masked(Gate(inner=conv(8, 16)), 0.5)
    assert next(group for group in hyper.plan.groups if group.name == "inner").width == 8
