"""Claimed receptive fields against brute force: one input pixel is changed, and the outputs that
change are listed.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhp_sr.tiling import receptive_field

WIDTH = 4
SIDE = 24


class Net(nn.Module):
    """3x3 convolution -> the function under test -> image with as many pixels, or a multiple."""

    def __init__(self, function, outputs=WIDTH):
        super().__init__()
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(outputs, 1, 3, padding=1)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Conv2d(4 * WIDTH, WIDTH, 3, padding=1)
        self.up = nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


def made(function, outputs=WIDTH):
    torch.manual_seed(0)
    network = Net(function, outputs).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.5, 1)
    return network


def changed_outputs(network, rows):
    """Return (changed pixel, affected output pixel in input units) pairs along rows or columns."""
    torch.manual_seed(1)
    image = torch.rand(1, WIDTH, SIDE, SIDE, dtype=torch.float64)
    pixels = image.repeat(SIDE, 1, 1, 1)
    for position in range(SIDE):
        index = (position, SIDE // 2) if rows else (SIDE // 2, position)
        pixels[position, :, index[0], index[1]] += 0.5
    with torch.no_grad():
        before = network(image)
        after = torch.cat([network(pixel[None]) for pixel in pixels])
    scale = before.shape[-1] // SIDE
    affected = (after - before).abs().sum((1, 3 if rows else 2)) > 1e-9
    pairs = affected.nonzero().tolist()
    return [(pixel, output // scale) for pixel, output in pairs]


def measured_halo(network, multiple):
    """Return how many pixels around a tile, aligned to `multiple`, change its outputs."""
    halo = 0
    for rows in (True, False):
        for pixel, output in changed_outputs(network, rows):
            start = output // multiple * multiple
            halo = max(halo, start - pixel, pixel - (start + multiple - 1))
    return halo


def channel_shuffle(net, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def pixel_shuffle(net, x):
    n, c, h, w = x.shape
    y = net.up(x).view(n, c, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c, 2 * h, 2 * w)


def pixel_unshuffle(net, x):
    n, c, h, w = x.shape
    y = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, 4 * c, h // 2, w // 2)


def unshuffled_and_shuffled(net, x):
    return F.pixel_shuffle(net.up(net.down(pixel_unshuffle(net, x))), 2)


def unshuffled_by_unflatten(net, x):
    y = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
    return F.interpolate(net.down(y.flatten(1, 3)), scale_factor=2)


def phases_by_slices(net, x):
    phases = [x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]]
    return F.pixel_shuffle(net.up(net.down(torch.cat(phases, 1))), 2)


def tokens(net, x):
    n, c, h, w = x.shape
    y = net.linear(x.flatten(2).transpose(1, 2))
    return y.transpose(1, 2).reshape(n, c, h, w)


def windows_mixed_in_place(net, x):
    n, c, h, w = x.shape
    y = x.view(n, c, h // 4, 4, w // 4, 4).softmax(3).softmax(5)
    return y.reshape(n, c, h, w)


def transposed_image(net, x):
    return F.conv2d(x.mT, net.first.weight[:, :, :, :1], padding=(1, 0)).transpose(2, 3)


def half_of_channels(net, x):
    first, second = torch.tensor_split(x, 2, dim=1)
    return torch.hstack([first * second, second])


def stacked(net, x):
    return torch.stack([x, net.first(x)], dim=2).sum(2)


def rolled_channels_axis(net, x):
    return torch.roll(x[:, None], 1, 1)[:, 0] + x


def nearest_by_repeats(net, x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def rms(net, x):
    return F.rms_norm(x.permute(0, 2, 3, 1), (WIDTH,)).permute(0, 3, 1, 2)


def assigned_channels(net, x):
    """PLKSR's: some channels are replaced by what a large kernel makes of them."""
    y = x.clone()
    y[:, :2] = net.first(net.first(x))[:, :2]
    return y


def sum_into_a_value(net, x):
    y = x.clone()
    torch.add(x, net.first(x), out=y)
    return y


EXACT = {
    "sum into a value": (sum_into_a_value, 3, 1),
    "assignment to channels": (assigned_channels, 4, 1),
    "channel shuffle": (channel_shuffle, 2, 1),
    "pixel shuffle by views": (pixel_shuffle, 3, 1),
    "pixel unshuffle by views": (unshuffled_and_shuffled, 7, 2),
    "pixel unshuffle by unflatten": (unshuffled_by_unflatten, 5, 2),
    "phases by slices": (phases_by_slices, 7, 2),
    "tokens": (tokens, 2, 1),
    "softmax in windows": (windows_mixed_in_place, 5, 4),
    "transposed image": (transposed_image, 3, 1),
    "tensor_split and hstack": (half_of_channels, 2, 1),
    "stack": (stacked, 3, 1),
    "roll beside space": (rolled_channels_axis, 2, 1),
    "repeat_interleave": (nearest_by_repeats, 2, 1),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_claim_is_what_brute_force_finds(name):
    function, halo, multiple = EXACT[name]
    network = made(function)
    field = receptive_field(network, WIDTH)
    assert (field.halo, field.multiple) == (halo, multiple), field.reason
    assert measured_halo(network, multiple) == halo


GLOBAL = {
    "roll": lambda net, x: torch.roll(x, 1, 2),
    "roll flattened": lambda net, x: torch.roll(x, 1),
    "flip": lambda net, x: x.flip(3),
    "flip by separate axes": lambda net, x: x.flip(1, -2),
    "sum over an empty list of axes": lambda net, x: x + x.sum(dim=[]),
    "repeated image": lambda net, x: x.repeat(1, 1, 2, 1)[:, :, 12 : 12 + x.shape[2]],
    "mean of tokens": lambda net, x: x + x.flatten(2).mean(2)[..., None, None],
    "linear over rows": lambda net, x: x @ x.mT,
    "softmax over columns": lambda net, x: x.softmax(-1),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_what_reads_the_other_end_of_the_image_is_unbounded(name):
    network = made(GLOBAL[name])
    assert receptive_field(network, WIDTH).halo is None
    assert measured_halo(network, 1) >= SIDE // 2 - 3


def grid(net, x):
    """4 x 4 windows however large the image is: what the low digit of a row is changes with the
    size.
    """
    n, c, h, w = x.shape
    y = x.view(n, c, 4, h // 4, 4, w // 4).mean((3, 5), keepdim=True)
    return (x.view(n, c, 4, h // 4, 4, w // 4) + y).reshape(n, c, h, w)


def assigned(net, x):
    y = net.first(x)
    y[:, :, 0:2] = 0
    return y


def assigned_in_place(net, x):
    y = x.clone()
    y.add_(net.first(x))
    return y


def slice_added_to(net, x):
    y = x.clone()
    y[:, :2].add_(net.first(x)[:, :2])
    return y


def chunk_assigned(net, x):
    y = x.clone()
    first, _ = y.chunk(2, 1)
    first[:] = net.first(x)[:, :2]
    return y


def slice_of_what_is_added_to(net, x):
    y = x.clone()
    half = y[:, :2]
    y.add_(net.first(x))
    return torch.cat((half, half), 1)


UNBOUNDED = {
    "slice added to": slice_added_to,
    "chunk assigned": chunk_assigned,
    "slice of what is added to": slice_of_what_is_added_to,
    "grid whose windows grow": grid,
    "row and column mixed": lambda net, x: x.flatten(2).reshape(x.shape[0], -1, 3, 192)[..., :1],
    "assignment to rows": assigned,
    "resized to a written size": lambda net, x: (
        x + F.interpolate(F.interpolate(x, (16, 16)), size=x.shape[2:])
    ),
    "resized to a written size by a module": lambda net, x: (
        x + F.interpolate(nn.Upsample((16, 16))(x), size=x.shape[2:])
    ),
    "resized by a factor that 48 pixels round": lambda net, x: (
        x + F.interpolate(F.interpolate(x, scale_factor=1.3), size=x.shape[2:])
    ),
    "constant per pixel": lambda net, x: x + torch.arange(48.0, dtype=x.dtype),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_no_tile_can_compute_is_unbounded(name):
    assert receptive_field(made(UNBOUNDED[name]), WIDTH).halo is None


def test_methods_in_place_change_what_their_input_reads():
    network = made(assigned_in_place)
    field = receptive_field(network, WIDTH)
    assert field.halo == measured_halo(network, 1) == 3
