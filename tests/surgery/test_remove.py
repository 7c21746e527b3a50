"""Networks without some of their branches: cut == masked, said cost == measured cost; and blocks
that are left out: what goes past them, and what the layers behind make up for."""

import copy

import pytest
import torch
from networks import SHALLOW_CASES, example, network
from real_networks import build_real, real_example
from topology_base import Net, conv
from torch import nn

from dhp_sr.graph.capture import trace
from dhp_sr.hyper import convert
from dhp_sr.metrics.complexity import complexity
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.surgery.correct import correct
from dhp_sr.surgery.remove import RemovalError, constants_left, find_bypass
from dhp_sr.utils.errors import UserError

RESIDUAL = [
    case
    for case in SHALLOW_CASES
    if str(getattr(case, "values", case)[0]).startswith(
        ("edsr", "srresnet", "rlfn", "resnet", "mobilenet_v2")
    )
]
OTHERS = ("MSRResNet", "RCAN", "RIDNet", "resnet18", "mobilenet_v3_small")


def remove(hyper, every, keep=1.0):
    """Remove every so-many-th branch; keep a share of all other channels."""
    torch.manual_seed(0)
    masks = {}
    for group in hyper.plan.prunable:
        masks[group.name] = torch.rand(group.width) < keep
        masks[group.name][torch.randint(group.width, ())] = True
    for branch in hyper.plan.branches[::every]:
        for name in branch.groups:
            masks[name] = torch.zeros_like(masks[name])
    hyper.set_masks(masks)


def check(hyper, small, x):
    with torch.no_grad():
        actual, expected = small(x), hyper(x)
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def check_cost(hyper, small, x):
    measured = complexity(small, (1, *x.shape[1:]))
    assert hyper.cost().params == measured.params
    assert hyper.cost().macs == measured.macs


@pytest.mark.parametrize("every, keep", [(1, 1.0), (2, 0.6)])
@pytest.mark.parametrize("case", RESIDUAL)
def test_cut_equals_masked_without_branches(case, every, keep):
    plain = network(case)
    x = example(plain, batch=2)
    hyper = convert(plain, x).eval()
    remove(hyper, every, keep)
    small = hyper.cut()
    assert type(small) is type(plain)
    check(hyper, small, x)
    check_cost(hyper, small, x)
    # No layer of a removed branch is left, and no weight of it but the constant.
    for branch in hyper.plan.removed_branches(hyper.mask):
        for layer in branch.layers:
            assert isinstance(small.get_submodule(layer.name), ConstantMap)
            kept = [name for name in small.state_dict() if name.startswith(f"{layer.name}.")]
            assert kept == ([f"{layer.name}.bias"] if layer.leaves != "nothing" else [])


@pytest.mark.parametrize("case", ["edsr_x3", "srresnet_x2", "rlfn_x2"])
def test_the_size_of_the_input_is_free(case):
    plain = network(case)
    hyper = convert(plain, example(plain)).eval()
    remove(hyper, 1, 0.7)
    check(hyper, hyper.cut(), torch.rand(3, plain.in_channels, 21, 34, dtype=torch.float64))


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_others(name):
    """RCAN adds in place, torchvision's ResNet as well, and some have gates inside the branch."""
    plain = build_real(name)
    x = real_example(name)
    hyper = convert(plain, x).eval()
    assert hyper.plan.branches
    remove(hyper, 2, 0.7)
    small = hyper.cut()
    check(hyper, small, x)
    check(hyper, small, torch.rand(2, 3, 2 * x.shape[2], x.shape[3], dtype=torch.float64))
    check_cost(hyper, small, x)


@pytest.mark.parametrize("parametrization", ["factored", "full"])
def test_every_parametrization_removes_branches(parametrization):
    plain = network("edsr_x2")
    x = example(plain)
    hyper = convert(plain, x, parametrization).eval()
    with torch.no_grad():
        for latent in hyper.latents.values():
            latent.normal_()
    remove(hyper, 2, 0.6)
    check(hyper, hyper.cut(), x)


class PreNormalized(Net):
    """A branch of linear layers with the channels last, behind a normalization over channels."""

    def __init__(self):
        super().__init__(norm=nn.LayerNorm(8), inner=nn.Linear(8, 12), outer=nn.Linear(12, 8))

    def middle(self, x):
        x = x.permute(0, 2, 3, 1)
        x = x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))
        return x.permute(0, 3, 1, 2)


class Strided(Net):
    """Two strided convolutions beside pooling, added in place."""

    def __init__(self):
        super().__init__(inner=conv(8, 12, stride=2), outer=conv(12, 8, stride=2, bias=False))
        self.norm = nn.BatchNorm2d(8, affine=False)

    def middle(self, x):
        y = self.norm(self.outer(torch.relu(self.inner(x))))
        y += nn.functional.avg_pool2d(x, 4, 4, ceil_mode=True)
        return y


@pytest.mark.parametrize("make, left", [(PreNormalized, "bias"), (Strided, "buffer")])
def test_other_forms_of_branches(make, left):
    torch.manual_seed(0)
    plain = make().double().eval()
    for buffer in plain.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    hyper = convert(plain, x).eval()
    assert {layer.leaves for layer in hyper.plan.branches[0].layers} == {"nothing", left}
    remove(hyper, 1, 0.6)
    small = hyper.cut()
    for side in (8, 11):
        check(hyper, small, torch.rand(1, 2, side, side, dtype=torch.float64))
    check_cost(hyper, small, x)


class WithNoiseLevel(Net):
    """A network of two inputs."""

    def forward(self, x, level):
        x = self.first(x * level)
        return self.last(x + self.outer(torch.relu(self.inner(x))))


def test_a_network_of_several_inputs():
    plain = WithNoiseLevel(inner=conv(8, 12), outer=conv(12, 8)).double().eval()
    example = (torch.rand(2, 2, 8, 8, dtype=torch.float64), torch.rand((), dtype=torch.float64))
    hyper = convert(plain, example).eval()
    remove(hyper, 1, 0.6)
    torch.testing.assert_close(hyper.cut()(*example), hyper(*example), rtol=1e-10, atol=1e-10)


def test_a_network_without_branches_is_cut_again():
    plain = network("srresnet_x2")
    x = example(plain)
    hyper = convert(plain, x).eval()
    remove(hyper, 1)
    again = convert(hyper.cut(), x).eval()
    assert not again.plan.branches
    remove(again, 1, 0.5)
    check(again, again.cut(), x)
    check_cost(again, again.cut(), x)


def test_the_constant_is_trained_as_the_bias_was():
    plain = network("edsr_x2")
    x = example(plain)
    plain.body[0].conv2.bias.requires_grad_(False)
    hyper = convert(plain, x)
    remove(hyper, 1)
    small = hyper.cut()
    assert [block.conv2.bias.requires_grad for block in small.body] == [False, True]
    small(x).sum().backward()
    assert float(small.body[1].conv2.bias.grad.abs().min()) > 0
    torch.testing.assert_close(small.body[1].conv2.bias, plain.body[1].conv2.bias)


@pytest.mark.parametrize(
    "case, names, message",
    [
        ("edsr_x2", ["conv_first"], "conv_first keeps no channel: not the inner channels"),
        ("rlfn_x2", ["block_1.c1_r"], "removed together with block_1.c2_r"),
    ],
)
def test_masks_that_keep_nothing_elsewhere_are_refused(case, names, message):
    plain = network(case)
    hyper = convert(plain, example(plain))
    before = hyper.mask.clone()
    with pytest.raises(ValueError, match=message):
        hyper.set_masks({name: torch.zeros_like(hyper.masks[name]) for name in names})
    assert torch.equal(hyper.mask, before)


def test_a_branch_that_is_not_constant_is_refused():
    """The cut relies on the plan; values that contradict it are noticed."""
    plain = network("edsr_x2")
    hyper = convert(plain, example(plain)).eval()
    layers = hyper.plan.branches[0].layers
    with pytest.raises(RemovalError, match="every position"):
        constants_left(plain, hyper.plan, layers, dict(plain.named_parameters()), {})


class Block(nn.Module):
    """A linear residual block, or one with an activation."""

    def __init__(self, *, is_linear):
        super().__init__()
        self.inner, self.outer = conv(8, 8, 1), conv(8, 8, 1)
        self.act = nn.Identity() if is_linear else nn.ReLU()

    def forward(self, x):
        return x + 0.3 * self.outer(self.act(self.inner(x)))


class Blocks(nn.Module):
    def __init__(self, is_linear):
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 3)
        self.body = nn.Sequential(*(Block(is_linear=linear) for linear in is_linear))

    def forward(self, x):
        y = self.first(x)
        return self.last(self.body(y) + y)


def built(*is_linear):
    torch.manual_seed(0)
    return Blocks(is_linear).double().eval(), torch.rand(6, 3, 12, 12, dtype=torch.float64)


def corrected(network, x, left_out):
    """Return the network without blocks, corrected; its body is shorter."""
    hyper = convert(network, x[:1])
    mask = torch.ones_like(hyper.mask)
    values = dict(network.named_parameters())
    values, report = correct(network, hyper.plan, mask, values, [x], left_out=left_out)
    shorter = copy.deepcopy(network)
    shorter.load_state_dict({**network.state_dict(), **values})
    return without(shorter, left_out), report


def without(network, left_out):
    network = copy.deepcopy(network)
    body = nn.Sequential()
    for number, block in enumerate(network.body):
        if f"body.{number}" not in left_out:
            body.append(block)
    network.body = body
    return network


def test_the_layers_behind_make_up_for_linear_blocks_exactly():
    network, x = built(True, True, True)
    for block in network.body:  # at the border, zeros stand beside what a shift has moved
        for layer in (block.inner, block.outer):
            nn.init.zeros_(layer.bias)
    y = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    shorter, report = corrected(network, x, ["body.1", "body.2"])
    assert len(shorter.body) == 1
    with torch.no_grad():
        expected, found = network(y), shorter(y)
    # A ridge, not zero, is between the two.
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    # What lies before the first block that goes is left as it was.
    assert {layer.layer for layer in report.layers} == {"last"}


def test_the_correction_lowers_the_error_of_blocks_that_are_not():
    network, x = built(False, False, False)
    y = torch.rand(4, 3, 9, 9, dtype=torch.float64)
    shorter, _ = corrected(network, x, ["body.0"])
    plain = without(network, ["body.0"])
    with torch.no_grad():
        errors = [float((net(y) - network(y)).square().mean()) for net in (plain, shorter)]
    assert errors[1] < 0.5 * errors[0]


def test_a_row_of_blocks_is_passed_by_its_input():
    network, x = built(True, True, True)
    graph = trace(network, x[:1]).graph_module.graph
    bypass = find_bypass(graph, ["body.0", "body.1"])
    ((source, results),) = bypass.results.items()
    assert source.target == "first"
    assert len(results) == 2
    assert {str(node.target) for node in bypass.inside if node.op == "call_module"} == {
        *(f"body.{number}.{layer}" for number in (0, 1) for layer in ("inner", "act", "outer")),
    }


class TwoInputs(Blocks):
    def forward(self, x):
        y = self.first(x)
        return self.last(self.body[0](y) + self.body[0](y * 2))


def test_a_block_with_several_inputs_is_refused():
    network, x = TwoInputs([True]).double(), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(UserError, match=r"body\.0 cannot be left out"):
        find_bypass(trace(network, x).graph_module.graph, ["body.0"])
