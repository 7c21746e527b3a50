"""All networks: published size, shapes, recorded arguments, tracing, and published files."""

import copy
import json

import pytest
import torch
from basicsr_modules import from_basicsr
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from dhp_sr.archs import ARCHS, build
from dhp_sr.metrics import complexity
from dhp_sr.utils.errors import UserError

# network, arguments, params, macs at 128x128. The published figures are EDSR 3.697 M / 90.354 G
# (with two 1x1 convolutions as mean shift), SRResNet 1,535,638 / 32.7187 G, DnCNN 557,057 /
# 9.0786 G, UNet 7,759,521 / 3.0084 G.
SIZES = [
    ("EDSR", {"num_feat": 128, "num_block": 8}, 3_696_643, 90_351_599_616),
    ("EDSR", {}, 1_517_571, 32_492_224_512),
    ("SRResNet", {}, 1_535_638, 32_718_716_928),
    ("DnCNN", {}, 557_057, 9_078_571_008),
    ("DnCNN", {"batch_norm": False}, 555_137, 9_078_571_008),
    ("UNet", {}, 7_759_521, 3_008_364_544),
    ("RLFN", {}, 543_740, 8_481_168_384),
]
SMALL = [
    ("EDSR", {"num_feat": 4, "num_block": 2, "upscale": 2}),
    ("EDSR", {"num_feat": 5, "num_block": 1, "upscale": 3, "res_scale": 0.1}),
    ("EDSR", {"num_feat": 4, "num_block": 1, "upscale": 4, "img_range": 1.0}),
    ("EDSR", {"num_feat": 4, "num_block": 1, "upscale": 8}),
    ("EDSR", {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_block": 1, "rgb_mean": [0.4]}),
    ("SRResNet", {"num_feat": 4, "num_block": 2, "upscale": 2}),
    ("SRResNet", {"num_feat": 3, "num_block": 1, "upscale": 3}),
    ("SRResNet", {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_block": 1}),
    ("DnCNN", {"num_feat": 5, "num_layers": 4}),
    ("DnCNN", {"num_feat": 4, "num_layers": 3, "num_in_ch": 3, "batch_norm": False}),
    ("DnCNN", {"num_feat": 4, "num_layers": 2}),
    ("UNet", {"num_feat": 3}),
    ("UNet", {"num_feat": 2, "num_levels": 3, "num_in_ch": 3, "num_out_ch": 3}),
    ("RLFN", {"num_feat": 4, "num_block": 2, "esa_feat": 2, "upscale": 2}),
    ("RLFN", {"num_feat": 3, "num_block": 1, "esa_feat": 3, "upscale": 3, "img_range": 1.0}),
    ("ResNet", {"num_feat": 3, "depth": 14, "shortcut": "projection"}),
    (
        "ResNet",
        {
            "num_feat": 2,
            "depth": 11,
            "block": "bottleneck",
            "shortcut": "projection",
            "num_in_ch": 1,
        },
    ),
    ("DenseNet", {"num_feat": 4, "growth": 3, "depth": 10}),
    ("VGG", {"num_feat": 2, "depth": 11}),
    ("MobileNetV1", {"width_mult": 0.1}),
    ("MobileNetV2", {"width_mult": 0.1}),
]


@pytest.fixture(
    params=SMALL, ids=lambda row: f"{row[0]}-{'-'.join(f'{k}={v}' for k, v in row[1].items())}"
)
def small(request):
    """A tiny network of each kind in eval mode, and an image for it with unequal sides."""
    network = build(request.param[0], **request.param[1]).eval()
    side, least = network.size_multiple, getattr(network, "input_size", 16)
    return network, torch.rand(
        2, network.in_channels, side * (least // side + 1), side * (least // side + 3)
    )


@pytest.mark.parametrize("name, arguments, params, macs", SIZES)
def test_two_counters_agree_on_the_published_size(name, arguments, params, macs):
    network = build(name, **arguments)
    shape = (1, network.in_channels, 128, 128)
    ours = complexity(network, shape)
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        network.to("meta").eval()(torch.empty(shape, device="meta"))
    assert (ours.params, ours.macs) == (params, macs)
    assert theirs.get_total_flops() == 2 * macs
    assert f"{params:,}" in type(network).__doc__ and f"{macs / 1e9:.3f} G" in type(network).__doc__


def test_every_network_has_a_size_on_record():
    images = {
        name for name in ARCHS if build(name).task != "classification"
    }  # for others see test_classifiers.py
    assert {row[0] for row in SIZES} == images
    assert {row[0] for row in SMALL} == set(ARCHS)


def test_output_has_the_stated_size(small):
    network, x = small
    y = network(x)
    if network.task == "classification":
        assert y.shape == (x.shape[0], network.num_classes) == (2, 10)
        return
    channels = network.arguments.get("num_out_ch", network.in_channels)
    assert y.shape == (x.shape[0], channels, x.shape[2] * network.scale, x.shape[3] * network.scale)
    assert network.task == ("denoise" if network.scale == 1 else "sr")


def test_recorded_arguments_build_the_same_network(small):
    network, x = small
    arguments = json.loads(json.dumps(network.arguments))
    again = build(type(network).__name__, **arguments).eval()
    again.load_state_dict(network.state_dict(), strict=True)
    assert again.arguments == network.arguments
    assert torch.equal(again(x), network(x))


def test_traced_network_is_the_network(small):
    network, x = small
    before = copy.deepcopy(vars(network))
    traced = fx.symbolic_trace(network)
    assert torch.equal(traced(x), network(x))
    assert before.keys() == vars(network).keys()


def test_gradient_reaches_every_parameter(small):
    network, x = small
    network.train()(x).square().sum().backward()
    assert [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ] == []


def test_edsr_without_weights_returns_the_mean():
    network = build("EDSR", num_feat=4, num_block=1)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(network(torch.rand(1, 3, 4, 4)), network.mean.expand(1, 3, 16, 16))
    assert "mean" not in network.state_dict()


def test_edsr_does_not_depend_on_the_outer_range():
    inside, outside = (
        build("EDSR", num_feat=4, num_block=1, img_range=r, rgb_mean=[0.0]) for r in (1.0, 255.0)
    )
    outside.load_state_dict(inside.state_dict())
    for network in (inside, outside):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(inside(x), outside(x))


def test_res_scale_scales_the_residual():
    block = build("EDSR", num_feat=4, num_block=1, res_scale=0.5).body[0]
    x = torch.rand(1, 4, 5, 5)
    residual = block.conv2(block.conv1(x).relu())
    torch.testing.assert_close(block(x), x + 0.5 * residual)


def test_dncnn_subtracts_what_it_predicts():
    network = build("DnCNN", num_feat=4, num_layers=3)
    torch.nn.init.zeros_(network.model[-1].weight)
    torch.nn.init.constant_(network.model[-1].bias, 0.25)
    x = torch.rand(1, 1, 6, 6)
    assert torch.equal(network(x), x - 0.25)


def test_dncnn_holds_a_published_checkpoint(shared_weights):
    network = build("DnCNN", batch_norm=False).eval()
    network.load_state_dict(
        torch.load(shared_weights / "dncnn_25.pth", weights_only=True), strict=True
    )
    clean = torch.linspace(0.2, 0.8, 48).expand(1, 1, 48, 48)
    noisy = clean + torch.randn_like(clean) * 25 / 255
    assert (network(noisy) - clean).square().mean() < 0.05 * (noisy - clean).square().mean()


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_edsr_equals_that_of_basicsr(upscale):
    theirs_module = from_basicsr("archs.edsr_arch")
    arguments = {"num_feat": 4, "num_block": 2, "upscale": upscale, "res_scale": 0.3}
    theirs, ours = theirs_module.EDSR(3, 3, **arguments), build("EDSR", **arguments)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        (
            "ESDR",
            {},
            r"'ESDR' .*'EDSR'.*SRResNet, DnCNN, UNet, RLFN, ResNet",
        ),
        (
            "EDSR",
            {"num_feats": 8},
            r"'num_feats' .*'num_feat'.*num_in_ch",
        ),
        ("EDSR", {"upscale": 5}, r"`upscale` \(=5\) must be 3 or a power of two"),
        ("SRResNet", {"upscale": 1}, r"`upscale` \(=1\) must be 3 or a power of two"),
        ("EDSR", {"num_in_ch": 1, "num_out_ch": 1}, r"`rgb_mean`.*pass rgb_mean: \[0.4371\]"),
        ("EDSR", {"rgb_mean": 0.4}, "cannot be built"),
        ("EDSR", {"img_range": 0.0}, r"`img_range` \(=0.0\) must be a finite number above 0"),
        ("SRResNet", {"num_feat": 0}, r"`num_feat` \(=0\) must be an integer of at least 1"),
        ("DnCNN", {"num_feat": "64"}, r"`num_feat` \(='64'\) must be an integer"),
        ("DnCNN", {"num_layers": 1}, r"`num_layers` \(=1\) must be an integer of at least 2"),
        ("UNet", {"num_levels": True}, r"`num_levels` \(=True\) must be an integer"),
    ],
)
def test_mistakes_are_explained(name, arguments, message):
    with pytest.raises(UserError, match=message):
        build(name, **arguments)
