"""Layers that compute their weight in the forward, in networks that others wrote."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from computed_weights import (
    COMPUTED_WEIGHTS,
    Computed,
    EqualizedConv,
    FlatKernels,
    ModulatedConv,
    StandardizedConv,
)
from third_party import third_party_info
from topology_base import conv
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.model import CostModel
from dhp_sr.deploy import load_model, save_model
from dhp_sr.deploy.model_info import CONSTRUCTORS
from dhp_sr.graph.equal_modules import ComputedLayers
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.operators import computed_layers
from dhp_sr.operators.channel_experiment import ChannelExperiment
from dhp_sr.reports.plan import plan_text
from dhp_sr.training.plan_summary import summarize_plan


@pytest.fixture(autouse=True)
def doubles():
    """float64 for tensors that a forward makes itself."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def spandrel_arch(path):
    prepare_torchvision()
    pytest.importorskip("spandrel")
    return pytest.importorskip(f"spandrel.architectures.{path}")


class Adaptive(nn.Module):
    """AuraSR's convolution: kernels mixed by a softmax, modulated, and demodulated or not."""

    def __init__(self, *, demod):
        super().__init__()
        kind = spandrel_arch("AuraSR.__arch.aura_sr").AdaptiveConv2DMod
        self.first, self.last = conv(3, 16), conv(24, 3)
        self.style, self.choice = nn.Linear(16, 16), nn.Linear(16, 4)
        self.inner = kind(16, 24, 3, demod=demod, num_conv_kernels=4)

    def forward(self, x):
        y = self.first(x)
        summary = y.mean((2, 3))
        y = self.inner(y, mod=self.style(summary), kernel_mod=self.choice(summary))
        return self.last(F.leaky_relu(y))


def gfpgan():
    """StyleGAN2's modulated convolutions, with noise, upsampling and features added on the way."""
    kind = spandrel_arch("GFPGAN.__arch.gfpganv1_clean_arch").GFPGANv1Clean
    sizes = {"out_size": 32, "num_style_feat": 16, "channel_multiplier": 1, "narrow": 0.0625}
    return kind(**sizes, num_mlp=2, input_is_latent=True, different_w=True, sft_half=True)


def big_transfer():
    """timm's ResNetV2 with standardized weights and group normalizations."""
    pytest.importorskip("timm")
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2((1, 1), (128, 256), num_classes=5, stem_chs=32, conv_layer=StdConv2dSame)


def normalizer_free():
    """timm's scaled standardized weights, grouped ones among them."""
    pytest.importorskip("timm")
    from timm.models.nfnet import NormFreeNet, _nfreg_cfg

    return NormFreeNet(_nfreg_cfg(depths=(1, 1, 1, 1), channels=(32, 64, 64, 64)), num_classes=5)


# Name -> network, side of its input, groups that are prunable at least, whether statistics are over
# the kept channels.
NETWORKS = {
    "adaptive": (lambda: Adaptive(demod=True), 16, 3, False),
    "adaptive without demodulation": (lambda: Adaptive(demod=False), 16, 3, True),
    "gfpgan": (gfpgan, 32, 25, False),
    "big transfer": (big_transfer, 32, 7, True),
    "normalizer-free": (normalizer_free, 64, 10, True),
}


def built(name):
    torch.manual_seed(0)
    make, side, least, keeps = NETWORKS[name]
    network = make().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network, torch.rand(1, 3, side, side), least, keeps


def halved(hyper):
    torch.manual_seed(1)
    masks = {}
    for group in hyper.plan.prunable:
        masks[group.name] = torch.randperm(group.width) < group.width // 2
    hyper.set_masks(masks)
    return hyper


def run(network, x):
    """The image that a network gives; noise is drawn alike."""
    torch.manual_seed(2)
    with torch.no_grad():
        result = network(x)
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_a_network_of_others(name):
    network, x, least, keeps = built(name)
    hyper = convert(network, x).eval()
    assert len(hyper.plan.prunable) >= least
    assert bool(hyper.plan.kept_statistics) == keeps
    with FlopCounterMode(display=False) as counter:
        dense = run(network, x)
    assert hyper.dense_cost().macs == counter.get_total_flops() // 2
    torch.testing.assert_close(run(hyper, x), dense, rtol=1e-11, atol=1e-11)
    small = halved(hyper).cut()
    expected = run(hyper, x)
    assert float((run(small, x) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert float((dense - expected).abs().max()) > 1e-4 * float(expected.abs().max())
    assert hyper.cost().macs == complexity(small, x.shape).macs < 0.5 * hyper.dense_cost().macs
    assert hyper.cost().params == sum(parameter.numel() for parameter in small.parameters())


def test_masks_would_not_do_where_statistics_are_over_the_kept_channels():
    x = example()
    hyper = halved(convert(topology("weight_standardized"), x)).eval()
    (channels,) = hyper.plan.kept_statistics
    assert channels.layer == "inner"
    expected = run(hyper, x)
    vars(hyper.network.get_submodule("inner"))["forward"].kept = None
    assert float((run(hyper.network, x) - expected).abs().max()) > 1e-3


def example():
    return torch.rand(2, 2, 8, 8)


def topology(name):
    return copy.deepcopy(COMPUTED_WEIGHTS[name][1]).double()


def test_without_kept_statistics_the_output_channels_alone_are_pruned():
    network = topology("weight_standardized")
    x = example()
    plan = make_plan(network, x, kept_statistics=False)
    reasons = {group.name: group.reason for group in plan.groups}
    assert reasons["inner"] == ""
    assert "StandardizedConv at inner computes its weights from all" in reasons["first"]
    assert plan.kept_statistics == ()
    hyper = halved(convert(network, x, kept_statistics=False)).eval()
    expected = run(hyper, x)
    found = run(hyper.cut(), x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_gradients_are_finite_where_a_root_of_zero_would_have_none():
    hyper = halved(convert(topology("weight_of_unit_length"), example()))
    assert [channels.layer for channels in hyper.plan.kept_statistics] == ["inner"]
    hyper(example()).sum().backward()
    for name, parameter in hyper.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def test_the_plan_names_the_layers():
    network = topology("weight_standardized_in_groups")
    summary = summarize_plan(convert(network, example()), network, 1, 1)
    assert summary["kept_statistics"] == ["inner", "outer"]
    text = " ".join(plan_text({"name": "", "targets": [], **summary}).split())
    assert "Statistics over the kept channels" in text
    assert "2 layers, inner, outer" in text


def test_what_no_rule_follows_is_pinned_with_its_cost():
    network = Computed(inner=FlatKernels(8, 12), outer=conv(12, 8)).double()
    x = example()
    plan = make_plan(network, x)
    reasons = {group.name: group.reason for group in plan.groups}
    assert "the forward computes the weight of conv2d" in reasons["first"]
    assert CostModel(plan).dense.macs == complexity(network, (1, *x.shape[1:])).macs


class Ordered(nn.Conv2d):
    """A weight whose channels are told apart by their number: it has no rule."""

    def forward(self, x):
        ramp = torch.arange(self.in_channels, dtype=x.dtype).view(1, -1, 1, 1)
        return F.conv2d(x, self.weight * ramp, self.bias, padding=1)


def test_channels_that_are_told_apart_by_their_number_are_pinned():
    inputs = {0: torch.rand(1, 4, 8, 8)}
    assert ComputedLayers().find(Ordered(4, 6, 3), inputs) is None
    assert ComputedLayers().find(StandardizedConv(4, 6, 3), inputs) is not None
    network = Computed(inner=Ordered(8, 12, 3), outer=conv(12, 8))
    plan = make_plan(network, example())
    assert [group.name for group in plan.prunable] == ["outer"]
    assert CostModel(plan).dense.macs == complexity(network, (1, 2, 8, 8)).macs


class Chain(nn.Module):
    """Modulated convolutions one after another, all alike or each another."""

    def __init__(self, width, settings):
        super().__init__()
        self.first, self.last, self.style = conv(3, width), conv(width, 3), nn.Linear(width, width)
        body = [ModulatedConv(width, width, width) for _ in settings]
        self.body = nn.ModuleList(body)
        for module, setting in zip(body, settings, strict=True):
            module.setting = setting

    def forward(self, x):
        x = self.first(x)
        style = self.style(x.mean((2, 3)))
        for module in self.body:
            x = module(x, style)
        return self.last(x)


@pytest.fixture
def tried(monkeypatch):
    """Numbers of parameters that the calls of experiments had, of the networks planned so far."""
    sizes = []
    run = ChannelExperiment._run

    def counted(self, module, inputs):
        sizes.append(sum(parameter.numel() for parameter in module.parameters()))
        return run(self, module, inputs)

    monkeypatch.setattr(ChannelExperiment, "_run", counted)
    return sizes


def calls_of_experiments(tried, network, side=8):
    tried.clear()
    plan = make_plan(network, torch.rand(1, 3, side, side))
    # Of every layer the channels are found, however it was tried.
    assert len(plan.prunable) == len(network.body) + 2
    return list(tried)


def test_layers_that_are_alike_are_tried_once(tried):
    one = calls_of_experiments(tried, Chain(24, [0]))
    assert one
    assert calls_of_experiments(tried, Chain(24, [0] * 5)) == one
    assert calls_of_experiments(tried, Chain(24, [0] * 2), side=32) == one
    # Whatever a forward may depend on: another type, another value in a list or a module inside.
    for settings in ([0, 1], [0, 0.0], [[0], [1]], [nn.Softplus(1), nn.Softplus(2)]):
        assert len(calls_of_experiments(tried, Chain(24, settings))) == 2 * len(one)


def test_multiply_adds_of_layers_that_are_alike_are_counted_once(monkeypatch):
    counted = []
    count = computed_layers.count_macs

    def recorded(node, module, args, kwargs):
        counted.append(node.name)
        return count(node, module, args, kwargs)

    monkeypatch.setattr(computed_layers, "count_macs", recorded)
    for number in (1, 3):
        network = Chain(24, [0] * number).eval()
        for side in (8, 16):
            counted.clear()
            plan = make_plan(network, torch.rand(1, 3, side, side))
            assert len(counted) == 2**3
            x = torch.rand(1, 3, side, side)
            assert CostModel(plan).dense.macs == complexity(network, tuple(x.shape)).macs


def test_what_cannot_be_told_to_be_alike_is_tried_by_itself(tried):
    one = calls_of_experiments(tried, Chain(24, [object()]))
    assert len(calls_of_experiments(tried, Chain(24, [object()] * 2))) == 2 * len(one)


def test_wide_layers_are_tried_with_few_channels(tried):
    one = calls_of_experiments(tried, Chain(24, [0]))
    assert max(one) < 24 * 24
    assert calls_of_experiments(tried, Chain(96, [0])) == one


class Stated(EqualizedConv):
    """A layer that a cut cannot tell how many channels it has."""

    def __init__(self, width):
        super().__init__(width, width)
        self.number = width

    def forward(self, x):
        weight = self.weight.reshape(self.number, self.number, 3, 3)
        return F.conv2d(x, weight * self.scale, self.bias, padding=1)


def test_a_layer_that_does_not_run_with_few_channels_is_tried_with_all(tried):
    find = ComputedLayers().find
    assert find(Stated(24), {0: torch.rand(1, 24, 8, 8)}) is None
    assert max(tried) == 24 * 24 * 9 + 24


@pytest.mark.parametrize(("groups", "width", "per_group"), [(1, 80, 40), (4, 20, 10), (40, 40, 1)])
def test_channels_found_with_few_of_them_are_those_of_the_whole_layer(groups, width, per_group):
    layer = StandardizedConv(40, 80, 3, groups=groups, bias=False)
    found = ComputedLayers().find(layer, {0: torch.rand(1, 40, 8, 8)})
    outs, *ins = found.sets
    assert outs.width == width
    assert len(outs.output) == len(outs.tensors["weight", 0]) == 80
    elements = ins[0] if ins else outs
    assert elements.width == per_group * (1 if ins else groups)
    assert len(elements.inputs[0, 1]) == 40
    assert found.is_exact == (groups == 40)  # statistics over a channel alone


def test_nothing_is_left_of_a_network_that_was_converted():
    network = Chain(24, [0] * 2)
    hyper = convert(network, torch.rand(1, 3, 8, 8))
    weights = [weakref.ref(parameter) for parameter in (*network.parameters(), *hyper.parameters())]
    del network, hyper
    gc.collect()
    assert not any(weight() is not None for weight in weights)


class Restorer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.head = EqualizedConv(3, width)
        self.body = StandardizedConv(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        return self.tail(torch.relu(self.body(torch.relu(self.head(x)))))


def test_a_cut_network_is_loaded_from_a_file(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setitem(CONSTRUCTORS, "test:Restorer", Restorer)
    x = torch.rand(1, 3, 16, 16)
    small = halved(convert(Restorer(8), x).eval()).cut()
    assert (small.head.in_channels, small.head.out_channels) == (3, 4)
    assert (small.body.in_channels, small.body.out_channels) == (4, 4)
    info = third_party_info("test:Restorer", {"width": 8}, task="sr", scale=1)
    save_model(small, tmp_path / "small.safetensors", info=info)
    assert torch.equal(run(load_model(tmp_path / "small.safetensors"), x), run(small, x))


def test_correction_runs_layers_with_the_statistics_of_the_cut_network():
    network, x = Restorer(16).eval(), torch.rand(20, 3, 16, 16)
    hyper = halved(convert(network, x[:1]).eval())
    small = hyper.cut(calibration=[x])
    report = hyper.correction_report
    assert set(report.skipped) == {"head", "body"}
    (tail,) = report.layers
    # The error of the last layer is that of the result: on the samples held out, every fifth.
    dense, found = run(network, x)[4::5], run(small, x)[4::5]
    error = float((dense - found).square().sum() / dense.square().sum())
    assert tail.error_after == pytest.approx(error, rel=0.05)
    assert tail.error_after < 0.8 * tail.error_before
