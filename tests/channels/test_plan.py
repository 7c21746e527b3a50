"""The plans of the networks, as text that a person can review."""

import pytest
import torch
import torch.nn.functional as F
from networks import CASES, example, network
from topologies import TOPOLOGIES
from torch import nn

from dhp_sr.allocation.diagnostics import describe_pinned
from dhp_sr.archs import build
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.graph.trace_errors import TraceError
from dhp_sr.hyper import convert
from dhp_sr.surgery.cut import CutError, check_cut
from dhp_sr.utils.errors import UserError


def as_text(plan):
    lines = []
    for group in plan.groups:
        state = "prunable" if group.prunable else f"pinned: {group.reason}"
        lines.append(
            f"{group.name} width {group.width} {state}; members {', '.join(group.members)}"
        )
        for axis in plan.axes if group.prunable else ():
            mine = (axis.index >= group.start) & (axis.index < group.start + group.width)
            if mine.any():
                lines.append(f"    {axis.tensor} axis {axis.dim}: {int(mine.sum())} of {len(mine)}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_groups_equal_the_golden_text(case, golden):
    plain = network(case)
    golden(f"plan_{case}.txt", as_text(make_plan(plain, example(plain))))


def test_a_group_tells_how_many_of_its_layers_an_activation_follows():
    """No activation follows EDSR's residual channels, a single PReLU SRResNet's of four layers."""

    def activated(case):
        plain = network(case)
        return {
            group.name: group.nonlinearity_fraction
            for group in make_plan(plain, example(plain)).prunable
        }

    assert activated("edsr_x4") == {
        name: float(name.startswith("body")) for name in activated("edsr_x4")
    }
    assert set(activated("dncnn_gray").values()) == {1.0}
    found = activated("srresnet_x4")
    assert 0 < found["conv_first"] < 0.5 and found["body.0.conv1"] == found["upsample.0"] == 1.0


@pytest.mark.parametrize(
    "activation",
    [F.relu, nn.GELU(), lambda x: x.tanh(), lambda x: F.leaky_relu(input=x), nn.PReLU(4)],
)
def test_activations_of_any_form_are_seen(activation):
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.activation = (
                nn.Conv2d(1, 4, 1),
                nn.Conv2d(4, 1, 1),
                activation,
            )

        def forward(self, x):
            return self.second(self.activation(self.first(x)))

    assert make_plan(Bent(), torch.rand(1, 1, 4, 4)).prunable[0].nonlinearity_fraction == 1.0


def test_neither_gates_nor_bare_parameters_count():
    class Scaled(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.first, self.second, self.activation = (
                nn.Conv2d(1, 4, 1),
                nn.Conv2d(4, 1, 1),
                activation,
            )
            self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

        def forward(self, x):
            return self.second(self.activation(self.first(x) * self.scale))

    for activation, activated in ((nn.ReLU(), 1.0), (nn.Sigmoid(), 0.0)):
        assert (
            make_plan(Scaled(activation), torch.rand(1, 1, 4, 4)).prunable[0].nonlinearity_fraction
            == activated
        )


def test_excluded_layers_stay():
    plain = network("edsr_x4")
    plan = make_plan(plain, example(plain), exclude=["body.0.*"])
    assert {group.name for group in plan.groups if group.reason == "excluded by name"} >= {
        "body.0.conv1"
    }


def test_layers_called_as_functions_can_be_excluded():
    plan = make_plan(TOPOLOGIES["functional"][1], torch.rand(1, 2, 8, 8), exclude="inner")
    assert (
        next(group for group in plan.groups if "inner" in group.members).reason
        == "excluded by name"
    )


def test_an_exclusion_that_names_nothing_is_refused():
    plain = network("edsr_x4")
    with pytest.raises(
        UserError, match=r"'bodi.0.conv1' names no layer \(did you mean 'body.0.conv1'\?\)"
    ):
        make_plan(plain, example(plain), exclude="bodi.0.conv1")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


class Median(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Conv2d(1, 8, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 1, 1),
        )

    def forward(self, x):
        return self.last(self.inner(torch.logcumsumexp(self.first(x), dim=1)))


def test_a_data_dependent_branch_is_refused_with_its_place():
    with pytest.raises(TraceError, match=r"Branching cannot be traced.*test_plan.py:\d+"):
        make_plan(Branching(), torch.rand(1, 1, 4, 4))


class Helped(Branching):
    def forward(self, x):
        return self.helper(self.conv(x))

    def helper(self, y):
        return y * 2 if y.max() > 1 else y


def test_the_place_is_the_innermost_line_of_the_network():
    with pytest.raises(
        TraceError, match=r"test_plan.py:\d+ \(return y \* 2 if y\.max\(\) > 1 else y\)"
    ):
        make_plan(Helped(), torch.rand(1, 1, 4, 4))


class MadeInForward(Branching):
    def forward(self, x):
        return nn.Conv2d(4, 1, 1)(self.conv(x))


class Listed(Branching):
    def __init__(self):
        super().__init__()
        self.further = [nn.Conv2d(4, 1, 1)]

    def forward(self, x):
        return self.further[0](self.conv(x))


@pytest.mark.parametrize(
    "network", [MadeInForward(), Listed()], ids=lambda network: type(network).__name__
)
def test_layers_that_are_no_attributes_are_refused(network):
    with pytest.raises(
        TraceError, match=r"test_plan.py:\d+ .* made in __init__ and kept as attributes"
    ):
        make_plan(network, torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize(
    "lazy", [lambda: nn.LazyConv2d(8, 1), nn.LazyBatchNorm2d], ids=["convolution", "norm"]
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_weights_without_shapes_are_refused(lazy):
    plain = nn.Sequential(nn.Conv2d(1, 8, 1), lazy(), nn.Conv2d(8, 1, 1))
    with pytest.raises(TraceError, match=r"found 1\.weight, .* run the network once on an example"):
        make_plan(plain, torch.rand(1, 1, 4, 4))
    plain(torch.rand(2, 1, 4, 4))
    assert make_plan(plain, torch.rand(1, 1, 4, 4)).prunable


def test_a_network_without_parameters_is_refused():
    with pytest.raises(
        UserError, match=r"Sequential: expected a network with parameters .* or in a ModuleList"
    ):
        convert(nn.Sequential(nn.ReLU()), torch.rand(1, 1, 4, 4))


class SeparateSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        return self.conv(x) + torch.zeros(n, c, h, w)


def test_sizes_that_torch_takes_as_plain_numbers_only():
    plan = make_plan(SeparateSizes(), torch.rand(1, 1, 4, 4))
    assert any(layer.weight == "conv.weight" for layer in plan.layers)


def test_an_example_that_does_not_fit_is_refused():
    plain = network("edsr_x2")
    with pytest.raises(TraceError, match=r"does not run on an example of shape \(1, 5, 8, 8\)"):
        make_plan(plain, torch.rand(1, 5, 8, 8))


def test_an_unknown_operator_pins_its_groups():
    plan = make_plan(Median(), torch.rand(1, 1, 4, 4))
    groups = {group.name: group for group in plan.groups}
    assert not groups["first"].prunable
    assert "operator logcumsumexp at logcumsumexp has no rule" in groups["first"].reason
    assert groups["inner"].prunable


class TwoInputs(nn.Conv2d):
    def forward(self, x, reference):
        return super().forward(x + reference)


def test_further_inputs_are_refused_by_name():
    with pytest.raises(
        TraceError, match=r"one input, found \(x, reference\); give reference a default"
    ):
        make_plan(TwoInputs(1, 1, 1), torch.rand(1, 1, 4, 4))


class AnyInputs(nn.Conv2d):
    def forward(self, *inputs):
        return super().forward(inputs[0])


def test_an_input_without_a_name_is_refused():
    with pytest.raises(TraceError, match=r"one input, found \(\*inputs\)"):
        make_plan(AnyInputs(1, 1, 1), torch.rand(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_that_cannot_be_copied_are_refused():
    with pytest.raises(UserError, match=r"Sequential cannot be copied.*remove_weight_norm"):
        make_plan(nn.Sequential(nn.utils.weight_norm(nn.Conv2d(1, 1, 1))), torch.rand(1, 1, 4, 4))


class Outputs(nn.Module):
    """A mapping with lists of results."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        y = self.last(torch.relu(self.first(x)))
        return {"image": y, "scales": [y * 2, (y * 3,)]}


def test_outputs_of_several_tensors_are_cut_and_checked():
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    hyper = convert(Outputs().double().eval(), x).eval()
    hyper.set_masks({"first": torch.arange(8) < 5})
    small = hyper.cut()
    torch.testing.assert_close(small(x), hyper(x), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        small.last.bias.add_(1)
    with pytest.raises(CutError, match="differs from the masked one"):
        check_cut(hyper, small, x)


@pytest.mark.parametrize(
    ("kind", "arguments", "gates"), [("ResNet", {"depth": 20}, 9), ("DnCNN", {"num_layers": 5}, 4)]
)
def test_without_residual_channels_the_inside_of_blocks_is_left(kind, arguments, gates):
    """As many groups as HSN has gates, which prunes none of them; a plain chain loses none."""
    plain = build(kind, **arguments)
    x = torch.rand(1, plain.in_channels, 32, 32)
    plan = make_plan(plain, x, prune_residual=False)
    assert len(plan.prunable) == gates
    assert all(group.members == (group.name,) for group in plan.prunable)
    kept = {group.name for group in make_plan(plain, x).prunable} - {
        group.name for group in plan.prunable
    }
    reasons = [group.reason for group in plan.groups if group.name in kept]
    assert len(reasons) == len(kept) and all("residual" in reason for reason in reasons)
    assert bool(kept) == (kind == "ResNet")


def test_a_message_names_the_widest_pinned_groups_and_counts_the_others():
    layers = [nn.Conv2d(3, 4, 3), *(nn.Conv2d(4, 4, 3) for _ in range(9)), nn.Conv2d(4, 32, 3)]
    plan = make_plan(nn.Sequential(*layers).eval(), torch.rand(1, 3, 32, 32), exclude=["*"])
    pinned = describe_pinned(plan, count=2).split(", ")
    assert len(pinned) == 3 and pinned[0].startswith("10 ")
    assert pinned[2] == f"and {len(plan.groups) - 2} more"
    assert "more" not in describe_pinned(plan, count=len(plan.groups))
