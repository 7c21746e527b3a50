"""The computed receptive field against the pixels that an output has a derivative by."""

import random

import pytest
import torch
import torch.nn.functional as F
from networks import CASES, DEEP, example, network
from torch import nn

from dhp_sr.archs import build
from dhp_sr.tiling import receptive_field

WIDTH = 2


def positive(built):
    """Positive weights: no derivative vanishes, no two cancel."""
    built = built.double().eval()
    with torch.no_grad():
        for tensor in built.parameters():
            tensor.uniform_(0.5, 1).div_(max(1, tensor[0].numel()))
    return built


def measured(built, channels, field, tiles=1):
    """Return how many pixels around a tile its result depends on, by the derivative."""
    margin = field.multiple * -(-(field.halo + 8) // field.multiple)
    side = 2 * margin + tiles * field.multiple
    image = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)
    result = built(image)
    scale = result.shape[-1] // side
    inside = slice(scale * margin, scale * (side - margin))
    result[:, :, inside, inside].sum().backward()
    reaches = []
    for axis in (2, 3):
        others = [dim for dim in range(4) if dim != axis]
        touched = image.grad.abs().sum(others).nonzero().flatten()
        reaches += [margin - int(touched[0]), int(touched[-1]) - (side - margin - 1)]
    return max(reaches)


class Chain(nn.Module):
    """Random layers that keep the size of an image in the end."""

    def __init__(self, seed):
        super().__init__()
        self.steps = nn.ModuleList()
        draw = random.Random(seed)
        for _ in range(draw.randint(2, 4)):
            self.steps.extend(draw.choice(KINDS)(draw))
        if draw.random() < 0.5:
            self.steps.extend([nn.Conv2d(WIDTH, 9 * WIDTH, 3, padding=1), nn.PixelShuffle(3)])

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


def same(draw, width=WIDTH):
    kernel, dilation = draw.choice((1, 3, 5)), draw.choice((1, 2))
    return [
        nn.Conv2d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation),
        nn.ReLU(),
    ]


def padded(draw):
    return [
        draw.choice((nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ZeroPad2d))(1),
        nn.Conv2d(WIDTH, WIDTH, 3),
    ]


def down_and_up(draw):
    factor, kernel = draw.choice(((2, 2), (2, 4), (3, 3)))
    down = draw.choice((nn.Conv2d(WIDTH, WIDTH, 3, stride=factor, padding=1), nn.AvgPool2d(factor)))
    padding = (kernel - factor) // 2
    return [
        down,
        *same(draw),
        nn.ConvTranspose2d(WIDTH, WIDTH, kernel, stride=factor, padding=padding),
    ]


def unshuffled(draw):
    factor = draw.choice((2, 3))
    return [nn.PixelUnshuffle(factor), *same(draw, WIDTH * factor**2), nn.PixelShuffle(factor)]


def resized(draw):
    mode, factor = draw.choice(("nearest", "bilinear", "bicubic")), draw.choice((2, 3))
    return [nn.AvgPool2d(factor), *same(draw), nn.Upsample(scale_factor=factor, mode=mode)]


KINDS = (same, padded, down_and_up, unshuffled, resized)


@pytest.mark.parametrize("seed", range(30))
def test_the_claim_holds_for_random_networks(seed):
    torch.manual_seed(seed)
    built = positive(Chain(seed))
    field = receptive_field(built, WIDTH)
    assert field.halo is not None, field.reason
    found = measured(built, WIDTH, field), measured(built, WIDTH, field, tiles=3)
    assert max(found) <= field.halo
    mixed = [
        step for step in built.steps if isinstance(step, nn.Upsample) and step.mode != "nearest"
    ]
    assert mixed or max(found) == field.halo  # some weights of bilinear and bicubic may be zero


CLASSIFIERS = [case for case in CASES if network(case).task == "classification"]


# RLFN's attention resizes a coarse map to the size of the whole image.
GLOBAL = [*CLASSIFIERS, *(case for case in CASES if case.startswith("rlfn"))]


@pytest.mark.parametrize("case", [case for case in GLOBAL if case not in DEEP])
def test_networks_with_a_global_receptive_field_look_at_everything(case):
    built = network(case)
    assert receptive_field(built, built.in_channels, 1).halo is None


@pytest.mark.parametrize("case", [case for case in CASES if case not in GLOBAL])
def test_the_claim_is_exact_for_our_networks(case):
    built = network(case)
    field = receptive_field(built, built.in_channels, built.size_multiple)
    assert field.multiple == {"unet_gray": 4, "unet_color": 8}.get(case, 1)
    if "unet" in case:
        built.pool = nn.AvgPool2d(2)  # the maximum passes one derivative of four
    assert measured(positive(built), built.in_channels, field) == field.halo


@pytest.mark.parametrize("case", ["edsr_x4", "unet_gray"])
def test_nothing_outside_the_claim_arrives(case):
    """NaN passes through every operator: around a tile, it leaves the tile clean."""
    built = network(case)
    field = receptive_field(built, built.in_channels, built.size_multiple)
    margin = field.multiple * (field.halo // field.multiple + 2)
    side, scale = 2 * margin + field.multiple, built.scale
    for spared, clean in ((field.halo, True), (field.halo - 1, False)):
        image = torch.full_like(example(built, side=side), torch.nan)
        start, end = margin - spared, side - margin + spared
        image[:, :, start:end, start:end] = 0.5
        inside = slice(scale * margin, scale * (side - margin))
        with torch.no_grad():
            result = built(image)[:, :, inside, inside]
        assert bool(result.isfinite().all()) == clean


def plain(forward):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
            self.norm = nn.InstanceNorm2d(WIDTH)
            self.loose = nn.BatchNorm2d(WIDTH, track_running_stats=False)
            self.circular = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular")
            self.places = nn.Parameter(torch.rand(1, WIDTH, 48, 48))

        def forward(self, x):
            return forward(self, x)

    return Small()


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: x * F.adaptive_avg_pool2d(self.conv(x), 1), "adaptive_avg_pool2d"),
        (lambda self, x: x * self.conv(x).mean((2, 3), keepdim=True).sigmoid(), "mean"),
        (lambda self, x: self.norm(x), "InstanceNorm2d at norm"),
        (lambda self, x: self.loose(x), "BatchNorm2d at loose"),
        (lambda self, x: self.circular(x), "Conv2d at circular pads with the image's other end"),
        (lambda self, x: self.conv(x) + self.places, "constant of (1, 2, 48, 48)"),
        (lambda self, x: x.softmax(dim=3), "softmax"),
        (lambda self, x: torch.roll(x, 1, 2), "roll"),
        (lambda self, x: x.flatten(2).flip(2).reshape(x.shape), "flip"),
        (lambda self, x: x[:, :, 1:-1, 1:-1], "not a whole multiple"),
        (
            lambda self, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
            "align_corners",
        ),
        (lambda self, x: F.avg_pool2d(x, 2), "not a whole multiple"),
        (lambda self, x: F.max_pool3d(x[None], 1)[0], "not (N, C, H, W)"),
        (lambda self, x: x / (x.shape[2] * x.shape[3]), "computes with the size of the image"),
        (lambda self, x: x.mul_(x.size(-1) / 48), "computes with the size of the image"),
        (lambda self, x: x.add(x, alpha=x.numel()), "computes with the size of the image"),
        (lambda self, x: x * x.new_full((1,), x.shape[3]), "computes with the size of the image"),
        (lambda self, x: x * torch.full((1,), float(x.shape[2])), "size of the image"),
        (lambda self, x: x / len(x[0, 0]), "decides on the size of the image"),
        (lambda self, x: self.conv(x) if x.shape[2] > 50 else x, "one size of the image"),
        (lambda self, x: self.conv(x) if x.sum() > 0 else x, "cannot be traced"),
    ],
)
def test_what_has_no_bound_says_why(forward, reason):
    field = receptive_field(plain(forward), WIDTH, 2)
    assert (field.halo, field.multiple) == (None, 2) and reason in field.reason


@pytest.mark.parametrize(
    ("forward", "halo", "multiple"),
    [
        (lambda self, x: torch.cat(self.conv(x).chunk(2, dim=1)[::-1], dim=1), 1, 1),
        (
            lambda self, x: F.conv2d(
                F.pad(x, (2, 2, 2, 2), mode="reflect"), self.conv.weight, dilation=2
            ),
            2,
            1,
        ),
        (
            lambda self, x: (
                self.conv(F.pad(x, (0, 0, 3, 3))).narrow(2, 3, x.shape[2]).narrow(1, 1, 1)
            ),
            1,
            1,
        ),
        (
            lambda self, x: F.interpolate(self.conv(x[..., ::2, ::2]), x.shape[2:], mode="nearest"),
            2,
            2,
        ),
        (lambda self, x: F.pixel_shuffle(torch.cat([self.conv(x)] * 4, 1), 2), 1, 1),
        (
            lambda self, x: (
                self.conv(F.pad(x, (0, 0, 3, 3)))[:, :, 3:-3] + x.max(dim=1, keepdim=True)[0]
            ),
            1,
            1,
        ),
        (lambda self, x: self.conv(x) * x.mean(1, keepdim=True) + self.places.sum() * 0 + 1, 1, 1),
        (lambda self, x: self.conv(x) * x.shape[1] ** -0.5 / x.size(1), 1, 1),
    ],
)
def test_functions_and_slices(forward, halo, multiple):
    built = plain(forward)
    field = receptive_field(built, WIDTH)
    assert (field.halo, field.multiple) == (halo, multiple), field.reason
    assert measured(built.double().eval(), WIDTH, field) <= halo


def test_a_decision_that_is_the_same_for_all_tiles_is_followed():
    built = plain(lambda self, x: self.conv(x) if x.shape[2] % 8 == 0 else x)
    assert receptive_field(built, WIDTH, 8).halo == 1
    assert receptive_field(built, WIDTH).halo is None


@pytest.mark.parametrize("levels", [2, 6, 8])
def test_sides_that_are_filled_up_are_followed_at_any_depth(levels):
    built = build("UNet", num_feat=1, num_levels=levels)
    field = receptive_field(built, 1)
    assert (field.halo, field.multiple) == (
        3 * 2**levels - 2 if levels > 2 else 8,
        2 ** (levels - 1),
    )


def test_the_network_stays_as_it_was():
    built = network("srresnet_x2").train()
    before = {key: tensor.clone() for key, tensor in built.state_dict().items()}
    receptive_field(built, built.in_channels)
    assert built.training and all(
        torch.equal(tensor, before[key]) for key, tensor in built.state_dict().items()
    )
