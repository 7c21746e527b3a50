"""Classifiers: published sizes by both counters, shapes at both sizes, published weights."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dhp_sr.archs import ARCHS, build
from dhp_sr.archs.blocks import scaled_width
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.graph.capture import trace
from dhp_sr.metrics import complexity
from dhp_sr.utils.errors import UserError

TINY = {"num_classes": 200, "input_size": 64}
PROJECTED = {"shortcut": "projection"}
BOTTLENECK = {"block": "bottleneck", "shortcut": "projection"}

# network, arguments, params, macs of convolutions and linear layers at its input size, and, where
# the DHP paper or its code states one, its count in millions: those macs, and 2 for every element
# of the output of a normalization.
SIZES = [
    ("ResNet", {}, 269_722, 40_551_040, None),
    ("ResNet", {"depth": 32}, 464_154, 68_862_592, None),
    ("ResNet", {"depth": 56}, 853_018, 125_485_696, None),
    ("ResNet", {"depth": 110}, 1_727_962, 252_887_680, None),
    ("ResNet", {"depth": 20, **PROJECTED}, 272_474, 40_813_184, 41.21),
    ("ResNet", {"depth": 56, **PROJECTED}, 855_770, 125_747_840, 126.84),
    ("ResNet", {"depth": 110, **BOTTLENECK}, 1_147_738, 167_430_656, 171.90),
    ("ResNet", {"depth": 164, **BOTTLENECK}, 1_704_154, 247_646_720, 254.18),
    ("DenseNet", {}, 1_019_722, 264_812_928, None),  # the original's 1.0 M
    ("DenseNet", {"num_feat": 24}, 1_059_298, 282_917_328, None),  # pruning papers' 282.92 M
    ("VGG", {}, 14_728_266, 313_201_664, None),  # pruning papers' 15 M and 313 M
    ("MobileNetV1", TINY, 3_411_976, 46_548_992, 47.37),
    ("MobileNetV1", {**TINY, "width_mult": 2.0}, 13_102_920, 181_178_368, 182.8),
    ("MobileNetV2", TINY, 2_480_072, 88_219_648, 91.5),
    ("MobileNetV2", {**TINY, "width_mult": 2.0}, 9_209_288, 338_837_504, 345.4),
]
IN_DOCSTRING = {
    ("ResNet", 269_722),
    ("DenseNet", 1_019_722),
    ("DenseNet", 1_059_298),
    ("VGG", 14_728_266),
}
IN_DOCSTRING |= {("MobileNetV1", 3_411_976), ("MobileNetV1", 13_102_920)}
IN_DOCSTRING |= {("MobileNetV2", 2_480_072), ("MobileNetV2", 9_209_288)}
CLASSIFIERS = sorted({row[0] for row in SIZES})


@pytest.mark.parametrize("name, arguments, params, macs, published", SIZES)
def test_two_counters_agree_on_the_published_size(name, arguments, params, macs, published):
    network = build(name, **arguments)
    shape = (1, 3, network.input_size, network.input_size)
    ours = complexity(network, shape)
    normalized = count_normalized(network.to("meta").eval())
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    assert (ours.params, ours.macs) == (params, macs)
    assert theirs.get_total_flops() == 2 * macs
    if published is not None:
        assert (macs + 2 * sum(normalized)) / 1e6 == pytest.approx(
            published, abs=0.05 if published > 180 else 0.005
        )
    if (name, params) in IN_DOCSTRING:
        assert (
            f"{params:,} params" in type(network).__doc__
            and f"{macs / 1e9:.3f} G" in type(network).__doc__
        )


def count_normalized(network):
    """Return a list that fills with the elements of every normalization's output."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, inputs, output: found.append(output.numel()))
    return found


def test_every_classifier_has_a_size_on_record():
    assert set(CLASSIFIERS) == {
        name for name in ARCHS if getattr(build(name), "task", "") == "classification"
    }


def torchvision_models():
    """Skip where torchvision is not installed."""
    prepare_torchvision()
    return pytest.importorskip("torchvision.models")


@pytest.mark.parametrize("name", ["ResNet18", "MobileNet_V2"])
def test_our_counter_agrees_with_torchvisions_published_sizes(name):
    """The networks for ImageNet are torchvision's; it states params and macs in G."""
    models = torchvision_models()
    stated = models.get_model_weights(name.lower()).IMAGENET1K_V1.meta
    found = complexity(models.get_model(name.lower()), (1, 3, 224, 224))
    assert found.params == stated["num_params"]
    assert found.macs / 1e9 == pytest.approx(stated["_ops"], abs=0.002)


@pytest.mark.parametrize("side, last", [(32, 4), (64, 4)])
@pytest.mark.parametrize("name", ["MobileNetV1", "MobileNetV2"])
def test_small_images_are_not_made_smaller_still(name, side, last):
    """Features before the mean are as large for 32 pixels as for 64."""
    network = build(name, width_mult=0.25, input_size=side).to("meta").eval()
    features = network.features(torch.empty(1, 3, side, side, device="meta"))
    assert features.shape[-1] == (last if name == "MobileNetV2" else last // 2)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_have_one_number_a_class_at_both_sizes(name, side):
    network = build(name, num_classes=7, input_size=side).to("meta").eval()
    assert network(torch.empty(3, 3, side, side, device="meta")).shape == (3, 7)
    assert (network.task, network.num_classes, network.input_size) == ("classification", 7, side)


def test_a_width_multiplier_gives_widths_that_processors_like():
    assert [scaled_width(24, factor) for factor in (0.25, 0.5, 0.75, 1.0, 1.4)] == [
        8,
        16,
        24,
        24,
        32,
    ]


def test_padding_puts_zeros_around_every_second_pixel():
    shortcut = build("ResNet", depth=8, num_feat=4).layer2[0].shortcut
    x = torch.rand(2, 4, 6, 6)
    y = shortcut(x)
    assert y.shape == (2, 8, 3, 3) and torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()


def test_a_mobile_net_holds_torchvisions_weights():
    theirs = torchvision_models().mobilenet_v2(num_classes=10).eval()
    ours = build("MobileNetV2", input_size=64).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for network in (ours, theirs):
        network.features[2].conv[1][0].stride = (1, 1)  # where the two differ
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.data
@pytest.mark.parametrize(
    "depth, file", [(20, "resnet20-12fca82f.th"), (56, "resnet56-4bfd9763.th")]
)
def test_published_weights_fit(depth, file, shared_weights):
    network = build("ResNet", depth=depth).eval()
    weights = load_weights(shared_weights / file)
    assert load_into(network, weights) == ()
    assert torch.equal(network.layer3[0].conv1.weight, weights["layer3.0.conv1.weight"])


def test_others_files_may_lack_constants_but_no_weight():
    network = build("ResNet", depth=8, num_feat=4)
    weights = {key: value for key, value in network.state_dict().items() if "shortcut" not in key}
    assert load_into(network, {k: v for k, v in weights.items() if "num_batches" not in k}) == ()
    with pytest.raises(UserError, match=r"missing: layer2.0.bn2.weight"):
        load_into(network, {k: v for k, v in weights.items() if k != "layer2.0.bn2.weight"})


def test_padding_is_followed_as_three_groups():
    """The engine's trace knows the zeros as channels of their own."""
    network = build("ResNet", depth=8, num_feat=4)
    names = [
        str(node.target)
        for node in trace(network, torch.zeros(1, 3, 8, 8)).graph_module.graph.nodes
    ]
    assert {"layer2.0.shortcut.before", "layer2.0.shortcut.after"} <= set(names)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        (
            "ResNet",
            {"depth": 21},
            r"`depth` \(=21\) must be 6 n \+ 2 with basic blocks, such as 20",
        ),
        (
            "ResNet",
            {"depth": 32, "block": "bottleneck"},
            r"`depth` \(=32\) must be 9 n \+ 2 with bottleneck blocks",
        ),
        ("ResNet", {"block": "wide"}, r"`block` \(='wide'\) must be one of basic, bottleneck"),
        ("ResNet", {"shortcut": "A"}, r"`shortcut` \(='A'\) must be one of padding, projection"),
        ("DenseNet", {"depth": 41}, r"`depth` \(=41\) must be 3 n \+ 4"),
        ("VGG", {"depth": 12}, r"`depth` \(=12\) must be one of 11, 13, 16, 19"),
        ("VGG", {"input_size": 16}, r"`input_size` \(=16\) must be an integer of at least 32"),
        (
            "MobileNetV1",
            {"width_mult": 0.0},
            r"`width_mult` \(=0.0\) must be a finite number above 0",
        ),
        ("MobileNetV2", {"dropout": 1.0}, r"`dropout` \(=1.0\) must be a number from 0 to below 1"),
        (
            "MobileNetV2",
            {"num_classes": 0},
            r"`num_classes` \(=0\) must be an integer of at least 1",
        ),
    ],
)
def test_mistakes_are_explained(name, arguments, message):
    with pytest.raises(UserError, match=message):
        build(name, **arguments)
