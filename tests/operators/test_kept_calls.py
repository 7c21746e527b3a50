"""Functions over channels: over the kept ones, while channels are masked as after the cut."""

import copy
import warnings

import einops
import pytest
import torch
import torch.nn.functional as F
from channel_statistics import CHANNEL_STATISTICS, SpatialGate
from topologies import Net, Sequence, conv, masked
from torch import nn
from torch.utils.checkpoint import checkpoint

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.reports.plan import plan_text
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.training.plan_summary import summarize_plan
from dhp_sr.utils.errors import UserError

CALLS = {
    "mean": lambda y: y.mean(1, keepdim=True),
    "mean by keywords": lambda y: torch.mean(input=y, dim=1, keepdim=True),
    "mean of the last axis": lambda y: y.permute(0, 2, 3, 1).mean(-1)[:, None],
    "mean over all": lambda y: y.mean((1, 2, 3), keepdim=True),
    "sum": lambda y: y.sum(dim=1, keepdim=True),
    "amax": lambda y: torch.amax(y, 1, keepdim=True),
    "maximum and its indices": lambda y: torch.max(y, 1)[0][:, None],
    "minimum by name": lambda y: torch.min(y, dim=1, keepdim=True).values,
    "standard deviation": lambda y: y.std(1, keepdim=True),
    "norm": lambda y: torch.norm(y, dim=1, keepdim=True),
    "norm as a method": lambda y: y.norm(p=2, dim=1, keepdim=True),
    "softmax": lambda y: y.softmax(1),
    "functional softmax": lambda y: F.softmax(y, dim=1),
    "unit length": lambda y: F.normalize(y),
    "logsumexp": lambda y: torch.logsumexp(y, 1, keepdim=True),
    "variance over channels and rows": lambda y: y.var((1, 2), keepdim=True),
    "variance and mean": lambda y: sum(torch.var_mean(y, 1, keepdim=True)),
    "median": lambda y: y.median(1, keepdim=True)[0],
    "local responses": lambda y: F.local_response_norm(y, 3),
    "layer norm": lambda y: F.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2]).permute(0, 3, 1, 2),
    "group norm": lambda y: F.group_norm(y, 1, eps=0.1),
    "in a loop": lambda y: sum(z.mean(1, keepdim=True) for z in (y, y * 2)),
}


class Weighted(Net):
    def __init__(self, function):
        super().__init__(inner=conv(8, 8), outer=conv(8, 8))
        self.function = function

    def middle(self, x):
        y = self.inner(x)
        return self.outer(y * self.function(y))


def at_most(difference, expected):
    assert float(difference.detach().abs().max()) <= 1e-10 * float(expected.detach().abs().max())


@pytest.mark.parametrize("name", CALLS)
def test_cut_equals_masked_and_keeps_its_class(name):
    hyper, x = masked(Weighted(CALLS[name]), 0.5)
    assert [group.name for group in hyper.plan.prunable] == ["first", "inner", "outer"]
    for calibration in (None, [x] * 2):
        small = hyper.cut(calibration=calibration)
        assert type(small) is Weighted
    small = hyper.cut()
    x = torch.rand(1, 2, 9, 14, dtype=torch.float64)
    with torch.no_grad():
        expected = hyper(x)
        at_most(small(x) - expected, expected)
        zeros = {g.name: torch.ones(g.width, dtype=torch.bool) for g in hyper.plan.prunable}
        hyper.set_masks(zeros)
        at_most(hyper(x) - hyper.network(x), expected)


@pytest.mark.parametrize("name", CHANNEL_STATISTICS)
def test_plan_and_counter_agree_on_the_cut_network(name):
    hyper, x = masked(CHANNEL_STATISTICS[name][1], 0.5)
    assert hyper.cost().macs == complexity(hyper.cut(), (1, *x.shape[1:])).macs


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.argmax(1, keepdim=True),
        lambda y: y.max(1, keepdim=True)[1],
        lambda y: torch.gather(y, 1, torch.max(y, 1, keepdim=True).indices),
    ],
)
def test_indices_of_channels_pin_them(function):
    plan = make_plan(Weighted(function), torch.rand(1, 2, 8, 8))
    reasons = {group.name: group.reason for group in plan.groups}
    assert "over channels" in reasons["inner"]
    assert not plan.has_kept_statistics


@pytest.mark.parametrize(
    "function",
    [
        lambda y: F.layer_norm(y, y.shape[1:]),
        lambda y: F.layer_norm(y.flatten(1), (8 * y.shape[2] * y.shape[3],)).view_as(y),
        lambda y: F.layer_norm(y, (y.shape[1],)) if y.shape[-1] == 8 else y,
    ],
)
def test_norms_over_other_shapes_than_the_channels_pin_them(function):
    plan = make_plan(Weighted(function), torch.rand(1, 2, 8, 8))
    assert [group.name for group in plan.prunable] == ["first", "outer"]


def test_a_literal_shape_of_a_norm_is_another_after_the_cut():
    def norm(y):
        return F.layer_norm(y.movedim(1, -1), (8,)).movedim(-1, 1)

    hyper, x = masked(Weighted(norm), 0.5)
    small = hyper.cut()
    assert isinstance(small, RewrittenNetwork)
    at_most(small(x) - hyper(x), hyper(x))


def test_without_kept_statistics_the_channels_are_pinned():
    network = Weighted(CALLS["mean"])
    plan = make_plan(network, torch.rand(1, 2, 8, 8), kept_statistics=False)
    assert [group.name for group in plan.prunable] == ["first", "outer"]
    assert not plan.has_kept_statistics


@pytest.mark.parametrize("name", ["convolution_along_channels", "triplet_attention"])
def test_channels_that_a_layer_goes_along_are_cut_while_training(name):
    hyper, x = masked(CHANNEL_STATISTICS[name][1], 0.5)
    small = hyper.cut().train()
    expected = hyper.train()(x)
    at_most(small(x) - expected, expected)
    hyper.cut(calibration=[x])
    skipped = hyper.correction_report.skipped
    assert "it slides along the channels" in skipped.values()


@pytest.mark.parametrize("settings", [{"stride": 2}, {"padding": 0}, {"padding_mode": "reflect"}])
def test_a_convolution_that_shortens_an_axis_of_channels_pins_them(settings):
    class Along(Net):
        def middle(self, x):
            return x * self.along(self.inner(x).mean((2, 3))[:, None]).sum()

    along = nn.Conv1d(1, 1, 3, **{"padding": 1, **settings})
    plan = make_plan(Along(inner=conv(8, 8), along=along), torch.rand(1, 2, 8, 8))
    assert "inner" not in {group.name for group in plan.prunable}


with warnings.catch_warnings(action="ignore"):  # deprecated

    @torch.jit.script
    def compiled(y: torch.Tensor) -> torch.Tensor:
        return y.mean(1, keepdim=True)


def test_a_call_in_compiled_code_pins_the_channels():
    hyper, _ = masked(Weighted(lambda y: compiled(y)), 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert reasons["inner"] == "mean at mean mixes all channels"
    hyper.cut()


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.flatten(1).mean(1)[:, None, None, None],
        lambda y: y.permute(0, 2, 3, 1).reshape(len(y), -1).std(1).view(-1, 1, 1, 1),
        lambda y: y.flatten(1).softmax(1).view_as(y),
        lambda y: nn.Softmax(1)(y.flatten(1)).view_as(y),
    ],
)
def test_channels_and_pixels_along_one_axis_pin_the_channels(function):
    """Their number depends on the size of the image."""
    hyper, x = masked(Weighted(function), 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert "over channels, several entries each" in reasons["inner"]
    x = torch.rand(1, 2, 9, 14, dtype=torch.float64)
    at_most(hyper.cut()(x) - hyper(x), hyper(x))


def test_one_place_that_calls_over_channels_and_over_pixels_pins_the_channels():
    def function(y):
        return y * einops.reduce(y, "n c h w -> n c 1 1", "mean")

    def pooled(y):
        return function(y) + einops.reduce(y, "n c h w -> n 1 h w", "mean")

    hyper, x = masked(Weighted(pooled), 0.5)
    reasons = {group.name: group.reason for group in hyper.plan.groups}
    assert "one call in the source with others" in reasons["inner"]
    at_most(hyper.cut()(x) - hyper(x), hyper(x))


class Checkpointed(Net):
    """A function, or a module, that the backward pass runs again."""

    def __init__(self, as_module):
        super().__init__(inner=Gate(), outer=conv(8, 8))
        self.as_module = as_module

    def middle(self, x):
        y = self.outer(x)
        part = self.inner if self.as_module else lambda y: y * y.mean(1, keepdim=True)
        return checkpoint(part, y, use_reentrant=False)


class Gate(nn.Module):
    def forward(self, x):
        return x * x.mean(1, keepdim=True)


def test_a_checkpointed_module_takes_its_statistics_over_the_kept_channels_again():
    hyper, x = masked(Checkpointed(as_module=True), 0.5)
    small = hyper.cut()
    expected = small.requires_grad_(True)(x.requires_grad_())
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    (actual,) = torch.autograd.grad(hyper(x).square().sum(), x)
    at_most(actual - gradient, gradient)


def test_a_checkpointed_function_with_statistics_is_refused_in_training_alone():
    hyper, x = masked(Checkpointed(as_module=False), 0.5)
    small = hyper.cut()
    with torch.no_grad():
        at_most(small(x) - hyper(x), small(x))
    with pytest.raises(UserError, match="kept_statistics=False"):
        hyper.train()(x)


def test_a_method_and_a_module_of_one_name_are_told_apart():
    class Named(Net):
        def middle(self, x):
            return self.mean(x) * x.mean(1, keepdim=True)

    hyper, x = masked(Named(mean=conv(8, 8)), 0.5)
    assert [group.name for group in hyper.plan.prunable] == ["first", "mean"]
    at_most(hyper.cut()(x) - hyper(x), hyper(x))


def test_one_call_over_different_channels_pins_them():
    class Pooled(Net):
        def middle(self, x):
            maps = [y.mean(1, keepdim=True) for y in (self.inner(x), self.outer(x))]
            return x * maps[0] * maps[1]

    plan = make_plan(Pooled(inner=conv(8, 4), outer=conv(8, 6)), torch.rand(1, 2, 8, 8))
    reasons = {group.name: group.reason for group in plan.groups}
    assert "one call in the source" in reasons["inner"]
    assert reasons["outer"] == reasons["inner"]


def test_the_plan_names_the_calls():
    network = nn.Sequential(conv(2, 8), copy.deepcopy(CHANNEL_STATISTICS["spatial_gate"][1].gate))
    network.append(conv(8, 2))
    hyper = convert(network, torch.rand(1, 2, 8, 8))
    assert [call.name for call in hyper.plan.kept_calls] == [
        "1.compress.max_1()",
        "1.compress.mean()",
    ]
    text = plan_text({"name": "", "targets": [], **summarize_plan(hyper, network, 1, 1)})
    assert "2 function calls, 1.compress.max_1()" in " ".join(text.split())


def test_a_cut_network_is_cut_again():
    """Its forward is generated, anew in each copy of it."""

    class Halves(Net):
        def middle(self, x):
            y = self.inner(x)
            return y[:, :4] * y.mean(1, keepdim=True)

    hyper, x = masked(Halves(inner=conv(8, 8), outputs=4), 0.75)
    small = hyper.cut()
    assert isinstance(small, RewrittenNetwork)
    hyper, x = masked(small, 0.5)
    smaller = copy.deepcopy(hyper).cut(calibration=[x])
    smaller = hyper.cut()
    with torch.no_grad():
        expected = hyper(x)
        at_most(smaller(x) - expected, expected)


def test_a_copy_of_a_masked_network_has_masks_of_its_own():
    hyper, x = masked(Weighted(CALLS["mean"]), 0.5)
    copied = copy.deepcopy(hyper)
    expected = hyper(x)
    copied.set_masks({"inner": torch.arange(8) < 2})
    copied(x)
    assert torch.equal(hyper(x), expected)
    assert not torch.equal(copied(x), expected)


class Switched(SpatialGate):
    """A forward chosen when the module is made."""

    def __init__(self):
        super().__init__()
        self.forward = self.doubled

    def doubled(self, x):
        return x * torch.sigmoid(self.spatial(self.compress(x)) + x.mean(1, keepdim=True)) * 2


def test_a_forward_of_the_instance_stays():
    hyper, x = masked(Sequence(conv(8, 8), Switched(), conv(8, 8)), 0.5)
    small = hyper.cut()
    with torch.no_grad():
        expected = hyper(x)
        at_most(small(x) - expected, expected)
    assert "KeptCalls" not in str(vars(small.parts[1])["forward"])
