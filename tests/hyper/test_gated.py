"""Gates: 0 is a masked channel, 1 an open one, and a closed gate still hears the loss."""

import copy
import dataclasses

import pytest
import torch
from networks import CASES, example, network
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


@pytest.mark.parametrize("name", [*CASES, *TOPOLOGIES])
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
    everywhere = use_gates(hyper)
    assert not everywhere or name in TOPOLOGIES
    torch.testing.assert_close(hyper(x), plain(x), rtol=1e-10, atol=1e-10)
    keep = close_half(hyper)
    with torch.no_grad():
        gated = hyper(x)
        open_all(hyper)
        hyper.set_masks(keep)
        masked = hyper(x)
    assert float((gated - masked).abs().max()) <= 1e-10 * float(masked.abs().max())


def test_the_slope_of_a_gate_is_that_of_one_behind_the_activation():
    """Also where the gate is closed, and where a norm and a ReLU lie between the convolution and the gate."""
    plain = network("dncnn_grey")
    x = example(plain, batch=2)
    hyper = convert(plain, x).eval()
    use_gates(hyper)
    keep = close_half(hyper)
    hyper(x).square().sum().backward()
    gates = [keep[group.name].double().requires_grad_() for group in hyper.plan.prunable]
    activations = [module for module in plain.modules() if isinstance(module, nn.ReLU)]
    assert len(activations) == len(gates) == 4
    for module, one in zip(activations, gates, strict=True):
        module.register_forward_hook(lambda _, __, out, one=one: out * one[:, None, None])
    plain(x).square().sum().backward()
    for group, one in zip(hyper.plan.prunable, gates, strict=True):
        assert one.grad[one == 0].any()
        torch.testing.assert_close(hyper.latents[group.name].grad, one.grad)


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


class Untold(nn.Module):
    """A bare parameter reads the channels: no layer of the plan does."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)
        self.weight = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x):
        return self.last(torch.relu(self.first(x)) * self.weight)


def test_what_is_gated_everywhere_is_named():
    """With its reading axis hidden from the plan, a group falls back to gates on all places of its mask."""
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    hyper = convert(Untold().double().eval(), x).eval()
    assert use_gates(hyper) == ()
    blind = convert(Untold().double().eval(), x).eval()
    blind.plan = dataclasses.replace(blind.plan, layers=())
    assert use_gates(blind) == ("first",)
    keep = close_half(blind)
    gated = blind(x)
    open_all(blind)
    blind.set_masks(keep)
    torch.testing.assert_close(gated, blind(x), rtol=1e-10, atol=1e-10)


def test_the_full_hypernetwork_has_no_gates():
    plain = network("edsr_x2")
    with pytest.raises(ValueError, match="gates need parametrization 'factored'"):
        use_gates(convert(plain, example(plain), "full"))
