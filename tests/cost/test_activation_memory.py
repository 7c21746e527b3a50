"""Memory per pixel, against sums by hand."""

import torch
from networks import CASES, DEEP, network
from torch import nn

from dhp_sr.cost.activation_memory import peak_activation_bytes


def test_a_chain_holds_one_step_at_a_time():
    chain = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 16, 1)
    )
    assert peak_activation_bytes(chain, 16) == 4 * 2 * (32 + 64)  # input and result, twice


def test_skips_are_held():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return x + self.two(self.one(x))

    assert peak_activation_bytes(Skip(), 16) == 4 * (16 + 2 * (16 + 16))


def test_channels_fill_blocks_and_sides_count():
    assert peak_activation_bytes(nn.Conv2d(3, 5, 1), 3) == 4 * 2 * (16 + 16)
    assert peak_activation_bytes(nn.Conv2d(16, 16, 2, stride=2), 16) == 4 * 2 * (16 + 4)


def test_all_networks_have_one_and_double_types_do_not_count():
    for case in set(CASES) - set(DEEP):
        built = network(case)
        found = peak_activation_bytes(built, built.in_channels, built.size_multiple)
        assert found > 0 and found == peak_activation_bytes(
            built.to(torch.float32), built.in_channels, built.size_multiple
        )


def test_what_cannot_be_followed_has_none():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert peak_activation_bytes(Branch(), 3) is None
