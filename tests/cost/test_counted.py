"""Counted costs against forward hooks and the parameters of the cut network."""

import pytest
import torch
from networks import SHALLOW_CASES, example, network
from torch import nn

from dhp_sr.channels.build_plan import make_plan
from dhp_sr.cost.counted import COUNTED_COSTS
from dhp_sr.cost.model import Cost, CostModel
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.utils.cost_kinds import COST_KINDS

COUNTED = list(COUNTED_COSTS)
LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


class ManyLayers(nn.Module):
    """Grouped, depthwise, transposed convolutions, a shared layer, linear layers."""

    in_channels = 3

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.shared = nn.Conv2d(12, 12, 1)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=3)
        self.up = nn.ConvTranspose2d(24, 16, 4, stride=2, padding=1)
        self.up_depthwise = nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16)
        self.up_grouped = nn.ConvTranspose2d(16, 12, 2, stride=2, groups=2)
        self.hidden = nn.Linear(12, 10)
        self.last = nn.Linear(10, 5)

    def forward(self, x):
        x = torch.relu(self.shared(self.depthwise(self.first(x))))
        x = self.grouped(torch.relu(self.shared(x)))
        x = self.up_grouped(self.up_depthwise(torch.relu(self.up(x))))
        return self.last(torch.relu(self.hidden(x.mean((2, 3)))))


def build(case):
    return ManyLayers().double().eval() if case == "many_layers" else network(case)


def hooked_activations(module, x):
    """Return the elements that the layers of a network put out, as forward hooks count them."""
    outputs = []
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(lambda _layer, _inputs, out: outputs.append(out.numel()))
    with torch.no_grad():
        module(x)
    return sum(outputs)


@pytest.mark.parametrize("case", [*SHALLOW_CASES, "many_layers"])
def test_costs_are_those_of_the_cut_network(case):
    plain = build(case)
    x = example(plain)
    hyper = convert(plain, x)
    counts = {}
    for name, half in (("dense", False), ("cut", True)):
        if half:
            masks = {
                group.name: torch.arange(group.width) % 2 == 0 for group in hyper.plan.prunable
            }
            hyper.set_masks(masks)
        small = hyper.cut(check=False)
        counts[name] = {
            "macs": complexity(small, tuple(x.shape)).macs,
            "params": sum(parameter.numel() for parameter in small.parameters()),
            "activations": hooked_activations(small, x),
        }
        assert hyper.cost().values == counts[name]
    assert hyper.dense_cost().values == counts["dense"]
    for kind in COUNTED:
        assert hyper.cost_ratio(kind) == counts["cut"][kind] / counts["dense"][kind] < 1


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("case", [*SHALLOW_CASES, "many_layers"])
def test_attribution_adds_up_and_marginal_cost_is_the_derivative(case, kind):
    plain = build(case)
    plan = make_plan(plain, example(plain))
    costs = CostModel(plan)
    kept = torch.rand(plan.size, dtype=torch.double)
    assert float(costs.by_parameter(kept, kind).sum()) == pytest.approx(costs.evaluate(kept, kind))
    marginal = costs.marginal(kept, kind)
    for channel in (0, plan.size - 1):
        step = torch.zeros_like(kept)
        step[channel] = 1e-3
        difference = costs.evaluate(kept + step, kind) - costs.evaluate(kept - step, kind)
        assert float(marginal[channel]) == pytest.approx(difference / 2e-3, rel=1e-6)


def test_half_of_the_activations():
    plain = network("srresnet_x4")
    x = example(plain)
    hyper = convert(plain, x)
    report = hyper.prune_to(activations=0.5, round_to=1)
    kept = hooked_activations(hyper.cut(), x) / hooked_activations(network("srresnet_x4"), x)
    assert report.activations_ratio == report.achieved("activations") == kept
    assert 0.49 <= kept <= 0.5
    assert report.budget.kind == "activations" and hyper.cost().activations > 0


def test_every_kind_is_known_to_the_engine():
    counted = {name for name, kind in COST_KINDS.items() if not kind.is_measured}
    assert counted == set(COUNTED_COSTS)
    plain = network("dncnn_gray")
    costs = CostModel(make_plan(plain, example(plain)))
    assert set(costs.kinds) == counted


def test_a_cost_has_the_kinds_of_the_table_as_attributes():
    cost = Cost({"macs": 7})
    assert cost.macs == cost["macs"] == 7
    assert cost.latency != cost.latency, "nan: no latency model is loaded"
    with pytest.raises(AttributeError, match="flops"):
        _ = cost.flops
