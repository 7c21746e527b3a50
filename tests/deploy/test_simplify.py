"""An exported network computes what the network computes."""

import copy

import pytest
import torch

from dhp_sr.archs import EDSR, RLFN, build
from dhp_sr.deploy.simplify import _FoldedEDSR, _FoldedRLFN, simplify


@pytest.mark.parametrize("mean", [[0.4, 0.3, 0.2], [0.25], [0.0]])
def test_range_and_mean_in_the_biases_change_nothing(mean):
    network = EDSR(num_feat=6, num_block=2, upscale=2, rgb_mean=mean, res_scale=0.3).double().eval()
    x = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    folded = _FoldedEDSR(copy.deepcopy(network)).eval()
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-10)
    assert folded.has_mean == any(mean)


def test_features_stay_in_the_range_of_the_image():
    network, peaks = EDSR(num_feat=6, num_block=1, upscale=2).eval(), []
    prepared = simplify(network)
    for layer in prepared.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda _, inputs, output: peaks.append(float(output.abs().max()))
            )
    prepared(torch.rand(1, 3, 8, 8))
    assert len(peaks) == 6 and max(peaks) < 10


def test_a_single_slope_becomes_a_leaky_relu_in_a_copy():
    network = build("SRResNet", num_feat=4, num_block=1, upscale=2).eval()
    network.prelu.weight.data.fill_(0.3)
    prepared = simplify(network)
    kinds = {type(layer) for layer in prepared.modules()}
    assert torch.nn.PReLU not in kinds and torch.nn.LeakyReLU in kinds
    x = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(prepared(x), network(x), rtol=0, atol=1e-6)
    assert isinstance(network.prelu, torch.nn.PReLU) and all(
        one.requires_grad for one in network.parameters()
    )


def test_the_range_of_rlfn_in_its_ends_changes_nothing():
    torch.manual_seed(0)
    network = RLFN(num_feat=6, num_block=2, esa_feat=4, upscale=2).double().eval()
    x = torch.rand(2, 3, 17, 19, dtype=torch.float64)
    expected = network(x)
    folded = _FoldedRLFN(copy.deepcopy(network)).eval()
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-10)
    assert type(simplify(network)) is _FoldedRLFN and network.img_range == 255.0
