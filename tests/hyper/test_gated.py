"""Gates: 0 equals a masked channel, 1 an unmasked one, and a closed gate has a gradient."""

import copy
import dataclasses

import pytest
import torch
from computed_weights import COMPUTED_WEIGHTS
from networks import CASES, DEEP, example, network
from topologies import TOPOLOGIES
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.hyper.gated import use_gates
from dhp_sr.hyper.hypernet import HyperNet


def close_half(hyper: HyperNet) -> dict[str, torch.Tensor]:
    """Set random 0/1 latents and return them as masks."""
    keep = {
        group.name: torch.randperm(group.width) < (group.width + 1) // 2
        for group in hyper.plan.prunable
    }
    with torch.no_grad():
        for name, latent in hyper.latents.items():
            latent.copy_(keep[name])
    return keep


def open_all(hyper: HyperNet) -> None:
    with torch.no_grad():
        for latent in hyper.latents.values():
            latent.fill_(1)


GATED = [name for name in (*CASES, *TOPOLOGIES) if name not in DEEP]


@pytest.mark.parametrize("name", GATED)
def test_a_closed_gate_is_a_masked_channel(name):
    if name in CASES:
        plain = network(name)
        x = example(plain, batch=2)
    else:
        plain, x = (
            copy.deepcopy(TOPOLOGIES[name][1]).double().eval(),
            torch.rand(1, 2, 8, 8, dtype=torch.float64),
        )
    hyper = convert(plain, x).eval()
    gate_all_axes = use_gates(hyper)
    assert not gate_all_axes or name in TOPOLOGIES
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-10, atol=1e-10)
    keep = close_half(hyper)
    with torch.no_grad():
        gated = hyper(x)
        open_all(hyper)
        hyper.set_masks(keep)
        masked = hyper(x)
    assert float((gated - masked).abs().max()) <= 1e-10 * float(masked.abs().max())


def test_channels_that_are_zero_for_an_image_do_not_hide_the_others():
    plain = copy.deepcopy(TOPOLOGIES["linear_attention_relu"][1]).double().eval()
    for layer in (plain.q, plain.k):
        layer.bias.data[:] = torch.tensor([10.0, -100.0] * 3)
    hyper = convert(plain, torch.rand(1, 2, 8, 8, dtype=torch.float64)).eval()
    assert use_gates(hyper) == ("q",)


def test_the_gradient_of_a_gate_is_that_of_a_gate_behind_the_activation():
    """Also for closed gates, with a norm and a ReLU between the convolution and the gate."""
    plain = network("dncnn_gray")
    x = example(plain, batch=2)
    hyper = convert(plain, x).eval()
    use_gates(hyper)
    keep = close_half(hyper)
    hyper(x).square().sum().backward()
    gates = [keep[group.name].double().requires_grad_() for group in hyper.plan.prunable]
    activations = [module for module in plain.modules() if isinstance(module, nn.ReLU)]
    assert len(activations) == len(gates) == 4
    for module, gate in zip(activations, gates, strict=True):
        module.register_forward_hook(lambda _, __, out, gate=gate: out * gate[:, None, None])
    plain(x).square().sum().backward()
    for group, gate in zip(hyper.plan.prunable, gates, strict=True):
        assert gate.grad[gate == 0].any()
        torch.testing.assert_close(hyper.latents[group.name].grad, gate.grad)


def test_values_between_scale_a_channel_once():
    plain = network("edsr_x4")
    x = example(plain)
    hyper = convert(plain, x).eval()
    use_gates(hyper)
    name = "body.0.conv1"
    with torch.no_grad():
        hyper.latents[name].fill_(0.5)
        plain.body[0].conv2.weight.mul_(0.5)
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-10, atol=1e-10)


class ReadByParameter(nn.Module):
    """A bare parameter reads the channels of the first layer; no layer of the plan does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)
        self.weight = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x):
        return self.last(torch.relu(self.first(x)) * self.weight)


def test_groups_that_are_gated_along_all_axes_are_returned():
    """With its reading axis hidden from the plan, a group is gated along all axes of its mask."""
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    hyper = convert(ReadByParameter().double().eval(), x).eval()
    assert use_gates(hyper) == ()
    blind = convert(ReadByParameter().double().eval(), x).eval()
    blind.plan = dataclasses.replace(blind.plan, layers=())
    assert use_gates(blind) == ("first",)
    keep = close_half(blind)
    gated = blind(x)
    open_all(blind)
    blind.set_masks(keep)
    torch.testing.assert_close(gated, blind(x), rtol=1e-10, atol=1e-10)


def test_a_layer_that_computes_its_weight_is_left_its_bias_where_all_gates_before_it_are_closed():
    """A sample of the gates may close a whole group, which masks never do there."""
    plain = copy.deepcopy(COMPUTED_WEIGHTS["weight_standardized"][1]).double().eval()
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    hyper = convert(plain, x).eval()
    assert [channels.layer for channels in hyper.plan.kept_statistics] == ["inner"]
    use_gates(hyper)
    with torch.no_grad():
        hyper.latents["first"].zero_()
        bias = plain.inner.bias[None, :, None, None].expand(2, -1, 8, 8)
        expected = plain.last(plain.outer(torch.relu(bias)))
        torch.testing.assert_close(hyper(x), expected, rtol=1e-10, atol=1e-10)


def test_the_full_hypernetwork_has_no_gates():
    plain = network("edsr_x2")
    with pytest.raises(ValueError, match="factored"):
        use_gates(convert(plain, example(plain), "full"))
