"""Identities of hyper networks: converted == plain, cut == masked; every latent has a gradient."""

import copy
from itertools import pairwise

import pytest
import torch
from networks import CASES, DEEP, SHALLOW_CASES, example, network
from topologies import TOPOLOGIES
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.hyper.parametrization import PARAMETRIZATIONS
from dhp_sr.metrics.complexity import complexity


def random_masks(hyper, share):
    masks = {}
    for group in hyper.plan.prunable:
        masks[group.name] = torch.rand(group.width) < share
        masks[group.name][torch.randint(group.width, ())] = True
    return masks


def random_latents(hyper):
    """Set latents, and the parameters of hypernetworks, to random values."""
    with torch.no_grad():
        for tensor in [*hyper.latents.values(), *hyper.parametrization.parameters()]:
            tensor.normal_()


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_converted_equals_plain(case, parametrization):
    plain = network(case)
    x = example(plain, batch=2)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    hyper = convert(plain, x, parametrization).eval()
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-11, atol=1e-11)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())


def test_factored_conversion_is_exact_in_single_precision():
    plain = network("edsr_x4").float()
    x = example(plain).float()
    assert torch.equal(convert(plain, x).eval()(x), plain(x))


CUTS = [(case, "factored", 0.5) for case in CASES]
CUTS += [
    pytest.param(case, *choice, marks=pytest.mark.slow if case in DEEP else ())
    for case in CASES
    for choice in (("full", 0.25), ("full", 0.5), ("factored", 0.25))
]
"""Deep networks with a single choice by default: what differs between these is not the network."""


@pytest.mark.parametrize("case, parametrization, share", CUTS)
def test_cut_equals_masked(case, parametrization, share):
    plain = network(case)
    x = example(plain, batch=2)
    hyper = convert(plain, x, parametrization).eval()
    random_latents(hyper)
    hyper.set_masks(random_masks(hyper, share))
    small = hyper.cut()
    with torch.no_grad():
        actual, expected = small(x), hyper(x)
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert type(small) is type(plain)
    assert small.state_dict().keys() == plain.state_dict().keys()
    assert hyper.cost().params == sum(parameter.numel() for parameter in small.parameters())
    assert hyper.cost().macs == complexity(small, (1, *x.shape[1:])).macs


RESTORERS = [case for case in CASES if case.startswith(("edsr", "srresnet", "dncnn", "unet"))]


@pytest.mark.parametrize("size", [(33, 57), (17, 1), (1, 1)])
@pytest.mark.parametrize("case", RESTORERS)
def test_cut_equals_masked_at_sizes_that_the_trace_has_not_seen(case, size):
    plain = network(case)
    hyper = convert(plain, example(plain)).eval()
    random_latents(hyper)
    hyper.set_masks(random_masks(hyper, 0.5))
    x = torch.rand(2, plain.in_channels, *size, dtype=torch.float64)
    with torch.no_grad():
        actual, expected = hyper.cut()(x), hyper(x)
    assert actual.shape == (2, actual.shape[1], *(plain.scale * side for side in size))
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("case", ["unet_gray", "unet_color"])
def test_a_plan_made_at_an_odd_size_is_the_same(case):
    plain = network(case)
    even, odd = (convert(plain, example(plain, side=side)).plan for side in (16, 21))
    assert [(group.name, group.members, group.reason) for group in odd.groups] == [
        (group.name, group.members, group.reason) for group in even.groups
    ]


@pytest.mark.parametrize("case", ["srresnet_x4", "dncnn_gray", "edsr_x4", "unet_gray"])
def test_cut_equals_masked_while_training(case):
    plain = network(case)
    x = example(plain, batch=2)
    hyper = convert(plain, x)
    hyper.set_masks(random_masks(hyper, 0.5))
    small = hyper.cut().train()
    torch.testing.assert_close(small(x), hyper.train()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_cut_equals_masked_for_every_operator(name, parametrization):
    plain, x = (
        copy.deepcopy(TOPOLOGIES[name][1]).double().eval(),
        torch.rand(1, 2, 8, 8, dtype=torch.float64),
    )
    hyper = convert(plain, x, parametrization).eval()
    before = [name for name, _ in hyper.named_parameters()]
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-10, atol=1e-10)
    assert [name for name, _ in hyper.named_parameters()] == before
    random_latents(hyper)
    hyper.set_masks(
        {
            group.name: torch.randperm(group.width) < group.width // 2
            for group in hyper.plan.prunable
        }
    )
    with torch.no_grad():
        expected, actual = hyper(x), hyper.cut(check=False)(x)
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_every_latent_and_weight_gets_a_gradient(case, parametrization):
    plain = network(case)
    x = example(plain, batch=2)
    hyper = convert(plain, x, parametrization).train()
    (hyper(x) * torch.rand_like(hyper(x))).sum().backward()
    silent = [
        name
        for name, p in hyper.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert all(
        _is_bias_before_norm(hyper.network, name.removeprefix("network.")) for name in silent
    )
    for latent in hyper.latents.values():
        assert latent.grad.any()


def _is_bias_before_norm(network, name):
    """The mean that a norm subtracts takes the bias of the convolution before it away again."""
    layers = [
        (f"{path}.bias", module)
        for path, module in network.named_modules()
        if not list(module.children())
    ]
    followers = {bias: after for (bias, _), (_, after) in pairwise(layers)}
    return isinstance(followers.get(name), torch.nn.BatchNorm2d)


def test_a_latent_gradient_equals_its_finite_difference():
    plain = network("edsr_x4")
    x = example(plain)
    hyper = convert(plain, x).eval()
    name = hyper.plan.prunable[1].name
    hyper(x).square().sum().backward()
    step, latent = 1e-6, hyper.latents[name]
    with torch.no_grad():
        latent[0] += step
        above = hyper(x).square().sum()
        latent[0] -= 2 * step
        below = hyper(x).square().sum()
    assert float(latent.grad[0]) == pytest.approx(float(above - below) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("case", ["edsr_x4", "srresnet_x2", "unet_gray"])
def test_permuting_the_kept_channels_changes_nothing(case):
    """Two masks that differ in which of two identical channels they keep give the same function."""
    plain = network(case)
    x = example(plain)
    hyper = convert(plain, x).eval()
    group = hyper.plan.prunable[0]
    with torch.no_grad():
        state = hyper.network.state_dict()
        for axis in [axis for axis in hyper.plan.axes if axis.tensor in state]:
            tensor = state[axis.tensor]
            first, second = (axis.index == group.start + channel for channel in (0, 1))
            if first.any():
                moved = tensor.movedim(axis.dim, 0)
                moved[second] = moved[first]
    keep = torch.ones(group.width, dtype=torch.bool)
    outputs = []
    for dropped in (0, 1):
        mask = keep.clone()
        mask[dropped] = False
        hyper.set_masks({group.name: mask})
        outputs.append(hyper(x))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


def test_state_dict_round_trip_keeps_masks_latents_and_output():
    plain = network("srresnet_x4")
    x = example(plain)
    hyper = convert(plain, x).eval()
    random_latents(hyper)
    hyper.set_masks(random_masks(hyper, 0.5))
    other = convert(network("srresnet_x4"), x).eval()
    other.load_state_dict(hyper.state_dict())
    assert torch.equal(other(x), hyper(x))
    assert torch.equal(other.mask, hyper.mask)


def test_masks_are_checked():
    """Each error names the group and the fact that is wrong."""
    plain = network("edsr_x2")
    hyper = convert(plain, example(plain))
    group = hyper.plan.prunable[0]
    pinned = next(group for group in hyper.plan.groups if not group.prunable)
    refused = {
        "nowhere": (torch.ones(3), ["nowhere", group.name]),
        group.name: (torch.ones(3), [group.name, str((group.width,)), "(3,)"]),
        pinned.name: (torch.arange(pinned.width) > 0, [pinned.name, pinned.reason]),
    }
    for name, (mask, facts) in refused.items():
        with pytest.raises(ValueError) as error:
            hyper.set_masks({name: mask})
        assert all(fact in str(error.value) for fact in facts)
    with pytest.raises(ValueError) as error:
        hyper.set_masks({group.name: torch.zeros(group.width)})
    assert group.name in str(error.value)
    assert hyper.mask.all()
    hyper.set_masks({pinned.name: torch.ones(pinned.width, dtype=torch.bool)})


def test_an_unknown_parametrization_is_an_error():
    plain = network("edsr_x2")
    with pytest.raises(ValueError, match="factored, full"):
        convert(plain, example(plain), "twisted")


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_frozen_parameters_stay_frozen(parametrization):
    """In the hyper network and in the cut one; all others are trained."""
    plain = network("edsr_x4")
    named = dict(plain.named_parameters())
    frozen = {name: named[name] for name in ("body.0.conv1.weight", "body.0.conv2.bias")}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    x = example(plain, batch=2)
    hyper = convert(plain, x, parametrization).eval()
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-11, atol=1e-11)

    hyper.set_masks(random_masks(hyper, 0.5))
    hyper(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in hyper.network_parameters())
    weights = dict(hyper.network.named_parameters())
    generated = hyper.generate()
    for name, tensor in frozen.items():
        assert torch.equal(weights[name], tensor) and weights[name].grad is None
        kept = generated[name] != 0
        assert torch.equal(generated[name][kept], tensor[kept])

    small = dict(hyper.cut().named_parameters())
    assert {name for name, parameter in small.items() if not parameter.requires_grad} == set(frozen)
    unfrozen = convert(network("edsr_x4"), x, parametrization).cut()
    assert all(parameter.requires_grad for parameter in unfrozen.parameters())


class KeepsFeatures(nn.Module):
    """Leaves a feature on itself, as networks with feature losses do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 3, 3)

    def forward(self, x):
        self.feature = self.first(x).relu()
        return self.last(self.feature)


def test_a_network_that_keeps_its_features_is_converted_and_cut_between_steps():
    plain = KeepsFeatures()
    images = torch.rand(2, 3, 12, 12)
    plain(images).sum().backward()
    hyper = convert(plain, images)
    hyper(images).sum().backward()
    hyper.prune_to(macs=0.5, tolerance=0.1, round_to=2)
    small = hyper.cut().double()
    torch.testing.assert_close(small(images.double()).float(), hyper(images))
