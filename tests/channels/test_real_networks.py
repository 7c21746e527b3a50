"""Networks that others wrote: converted, pruned to half, cut, exported, trained a step."""

import copy

import pytest
import torch
from real_networks import BASICSR, TORCHVISION, build_real, real_example

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.model import CostModel
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.surgery.rewrite import RewrittenNetwork

# Name -> groups that are prunable at least, and the largest fraction of multiply-adds left at a
# floor of 8 channels.
REACH = {
    "MSRResNet": (6, 0.28),
    "EDSR": (5, 0.29),
    "RCAN": (11, 0.08),
    "RRDBNet": (28, 0.27),
    "SRVGGNetCompact": (5, 0.2),
    "ECBSR": (7, 0.26),  # of its depthwise layers with computed weights only half goes
    "RIDNet": (19, 0.08),
    "resnet18": (12, 0.02),
    "resnet50": (37, 0.01),
    "mobilenet_v2": (25, 0.03),
    "mobilenet_v3_small": (27, 0.07),
    "mnasnet0_5": (25, 0.1),
    "densenet121": (120, 0.02),
    "shufflenet_v2_x0_5": (20, 0.2),
    "efficientnet_b0": (40, 0.03),
    "regnet_y_400mf": (53, 0.2),
}
DEEP = (
    "resnet50",
    "mobilenet_v2",
    "mnasnet0_5",
    "densenet121",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "mobilenet_v3_small",
)
"""Networks with many layers of kinds that the others have, too."""
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in DEEP else ()) for name in REACH]
REWRITTEN = {"ECBSR"}
"""Networks whose forward states numbers of channels."""
MERGED = {"ECBSR"}
"""Networks that merge their layers in evaluation mode, where `complexity` counts."""


@pytest.fixture
def network(name):
    """The network in float64; ECBSR makes tensors of the default type in its forward."""
    plain, default = build_real(name), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield plain
    torch.set_default_dtype(default)


@pytest.mark.parametrize("name", NAMES)
def test_half_of_a_real_network(name, network):
    x = real_example(name)
    hyper = convert(network, x).eval()
    with torch.no_grad():
        dense = network(x)
        torch.testing.assert_close(hyper(x), dense, rtol=1e-11, atol=1e-11)
        step = 4 if name in BASICSR else 8
        report = hyper.prune_to(macs=0.5, round_to=step)
        small = hyper.cut(check=False)
        expected, found = hyper(x), small(x)
    assert abs(report.macs_ratio - 0.5) <= 0.01
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    assert float((dense - expected).abs().max()) > 1e-4 * float(expected.abs().max())
    assert isinstance(small, RewrittenNetwork if name in REWRITTEN else type(network))
    assert list(small.state_dict()) == list(network.state_dict())
    assert sum(p.numel() for p in small.parameters()) == hyper.cost().params
    if name not in MERGED:
        assert complexity(small, tuple(x.shape)).macs == hyper.cost().macs
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), found, rtol=1e-10, atol=1e-10)
    _check_training(small, real_example(name, batch=2))


def test_a_vision_transformer_loses_channels_everywhere():
    """The residual channels, the hidden layers, queries with keys, and values."""
    prepare_torchvision()
    models = pytest.importorskip("torchvision.models.vision_transformer")
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4}
    network = models.VisionTransformer(**sizes, hidden_dim=32, mlp_dim=64, num_classes=5)
    with torch.no_grad():
        for parameter in network.parameters():  # some are initialized with zeros
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.double().eval()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    hyper = convert(network, x).eval()
    assert len(hyper.plan.prunable) == 1 + 3 * 2
    assert hyper.dense_cost().macs == complexity(network, x.shape).macs
    for step in (1, 4):
        hyper.prune_to(macs=0.25, round_to=step, min_width=step, tolerance=0.1)
        small = hyper.cut()
        y = torch.rand(3, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            expected, found = hyper(y), small(y)
        assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
        assert hyper.cost().macs == complexity(small, x.shape).macs
    _check_training(small, x)


def _check_training(small, x):
    tuned = copy.deepcopy(small).train()
    optimizer = torch.optim.SGD(tuned.parameters(), lr=1e-3)
    before = tuned(x).square().mean()
    before.backward()
    optimizer.step()
    moved = [
        name
        for name, p in tuned.named_parameters()
        if not torch.equal(p, small.get_parameter(name))
    ]
    assert torch.isfinite(before) and len(moved) > 0.5 * len(list(small.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_plan_of_a_real_network(name, network):
    plan = make_plan(network, real_example(name))
    prunable, least = REACH[name]
    mask = torch.cat([torch.arange(group.width) < 8 for group in plan.prunable])
    cost = CostModel(plan)
    assert len(plan.prunable) >= prunable
    assert cost.value(mask).macs <= least * cost.value(torch.ones(plan.size)).macs


def test_the_table_is_complete():
    assert set(REACH) == {*BASICSR, *TORCHVISION}
