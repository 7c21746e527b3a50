"""Checks in a forward pin no channels; branches do."""

import pytest
import torch
from checking_networks import (
    CHECKS,
    Branch,
    BranchBeforeACheck,
    BranchThatReturns,
    EvenSides,
    ReadsItsWeight,
)
from third_party import third_party_info

from dhp_sr.deploy import load_model, register, save_model
from dhp_sr.hyper import convert
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.tiling import receptive_field


def halved(network):
    hyper = convert(network.double().eval(), torch.rand(1, 3, 8, 8, dtype=torch.float64))
    hyper.prune_to(macs=0.5, round_to=1, min_width=1)
    return hyper


@pytest.mark.parametrize("network_class", CHECKS)
def test_what_a_check_is_about_can_be_cut(network_class, tmp_path):
    hyper = halved(network_class())
    small = hyper.cut()
    assert isinstance(small, RewrittenNetwork)
    x = torch.rand(2, 3, 10, 6, dtype=torch.float64)
    torch.testing.assert_close(small(x), hyper(x), rtol=0, atol=1e-12)

    info = third_party_info(f"tests:{network_class.__name__}", {})
    register(info.architecture, network_class)
    path = tmp_path / "small.safetensors"
    save_model(small.float(), path, info=info)
    torch.testing.assert_close(load_model(path)(x.float()), small(x.float()))


@pytest.mark.parametrize("network_class", [Branch, BranchThatReturns, BranchBeforeACheck])
def test_a_branch_keeps_the_channels_that_it_depends_on(network_class):
    hyper = convert(network_class(), torch.rand(1, 3, 8, 8))
    assert "decides on a number of channels" in hyper.plan.groups[1].reason
    assert not hyper.plan.prunable


def test_a_class_whose_check_holds_after_the_cut_stays():
    small = halved(ReadsItsWeight()).cut()
    assert type(small) is ReadsItsWeight


def test_a_check_of_sides_stays_in_a_rewritten_forward():
    small = halved(EvenSides()).cut()
    small(torch.rand(1, 3, 10, 7, dtype=torch.float64))
    with pytest.raises(AssertionError):
        small(torch.rand(1, 3, 9, 7, dtype=torch.float64))


def test_a_check_of_sides_does_not_hinder_tiles():
    assert receptive_field(EvenSides(), 3, size_multiple=2).halo == 2
