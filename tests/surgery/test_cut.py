"""Comparison of a cut network with the masked one: rounding is told from a wrong cut."""

import pytest
import torch
from torch import nn

from dhp_sr.surgery.cut import MAX_DIFFERENCE, CutError, check_cut


class Canceling(nn.Module):
    """Computes x + shift, with large values that cancel each other on the way."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.large = nn.Parameter(torch.tensor(1e5))
        self.shift = shift

    def forward(self, x):
        return x * self.large + x - x * self.large + self.shift


def test_rounding_of_large_weights_is_no_wrong_cut():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 8)
    assert check_cut(Canceling(), nn.Identity(), x) > MAX_DIFFERENCE


def test_a_wrong_cut_is_found_behind_rounding():
    torch.manual_seed(0)
    with pytest.raises(CutError, match="differs"):
        check_cut(Canceling(0.01), nn.Identity(), torch.rand(1, 3, 8, 8))


def test_a_forward_that_takes_single_precision_alone_is_refused_as_before():
    class Single(Canceling):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise RuntimeError("expected float32")
            return super().forward(x)

    with pytest.raises(CutError, match="differs"):
        check_cut(Single(), nn.Identity(), torch.rand(1, 3, 8, 8))
