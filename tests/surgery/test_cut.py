"""Comparison of a cut network with the masked one: rounding is told from a wrong cut."""

import pytest
import torch
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.surgery.cut import MAX_DIFFERENCE, CutError, check_cut


class Canceling(nn.Module):
    """Computes x + shift, with large values that cancel each other on the way."""

    def __init__(self, shift=0.0, large=1e5):
        super().__init__()
        self.large = nn.Parameter(torch.tensor(large))
        self.shift = shift

    def forward(self, x):
        return x * self.large + x - x * self.large + self.shift


@pytest.mark.parametrize("large", [1e5, 1e9])
def test_rounding_of_large_weights_is_no_wrong_cut(large):
    """With the larger ones much is left of it in float64, too."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8)
    assert check_cut(Canceling(large=large), nn.Identity(), x) > MAX_DIFFERENCE


@pytest.mark.parametrize("large", [1e5, 1e9])
def test_a_wrong_cut_is_found_behind_rounding(large):
    torch.manual_seed(0)
    with pytest.raises(CutError, match="differs"):
        check_cut(Canceling(0.01, large), nn.Identity(), torch.rand(1, 3, 8, 8))


def test_a_forward_that_takes_single_precision_alone_is_refused_as_before():
    class Single(Canceling):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise RuntimeError("expected float32")
            return super().forward(x)

    with pytest.raises(CutError, match="differs"):
        check_cut(Single(), nn.Identity(), torch.rand(1, 3, 8, 8))


class Noisy(nn.Module):
    """Adds noise of a single channel in evaluation as well, as the generators of StyleGAN do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last((x + torch.randn(x.shape[0], 1, x.shape[2], x.shape[3])).relu())


def test_a_network_that_draws_noise_is_compared_with_the_same_noise():
    hyper = convert(Noisy(), torch.rand(1, 3, 8, 8))
    hyper.set_masks({"first": torch.arange(8) < 5})
    state = torch.random.get_rng_state()
    check_cut(hyper, hyper.cut(check=False), torch.rand(2, 3, 9, 9, generator=torch.Generator()))
    assert torch.equal(torch.random.get_rng_state(), state)
