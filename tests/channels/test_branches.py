"""Which groups can be removed with their residual branch, and why the others stay."""

import pytest
import torch
from networks import example, network
from topology_base import Net, conv
from torch import nn

from dhp_sr.channels.branches import OUTSIDE
from dhp_sr.channels.build_plan import make_plan
from dhp_sr.hyper import convert


class Block(Net):
    """x + act(branch(x)) * 0.5, with the branch under test."""

    def __init__(self, *layers):
        super().__init__(branch=nn.Sequential(*layers))

    def middle(self, x):
        return x + torch.relu(self.branch(x)) * 0.5


JOINS = {
    "x - b": lambda x, b, scale: x - b,
    "b - x": lambda x, b, scale: b - x,
    "torch.sub": lambda x, b, scale: torch.sub(x, b),
    "sub with alpha": lambda x, b, scale: x.sub(b, alpha=0.2),
    "add with alpha": lambda x, b, scale: x.add(b, alpha=0.2),
    "torch.add with alpha": lambda x, b, scale: torch.add(b, x, alpha=0.2),
    "x + scale b": lambda x, b, scale: x + scale * b,
    "x - 0.2 b": lambda x, b, scale: x - 0.2 * b,
    "-b + x": lambda x, b, scale: -b + x,
    "in place": lambda x, b, scale: x.sub_(b),
}
"""Forms of a residual block of an input and its branch."""


class JoinedBy(Net):
    def __init__(self, join):
        super().__init__(branch=pair())
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.join = join

    def middle(self, x):
        return self.join(x, self.branch(x), self.scale)


class TwoBranches(Net):
    """A sum of two branches, and no shortcut."""

    def middle(self, x):
        return self.one(x) + self.other(x)


class SharedBranch(Net):
    def middle(self, x):
        x = x + self.inner(x)
        return x + self.inner(x)


class Joined(Net):
    """The branch's own channels beside those of the shortcut."""

    def middle(self, x):
        return x + self.outer(torch.cat([x, self.inner(x)], 1))


class Gated(Net):
    """The operand of the sum depends on the input by another way."""

    def middle(self, x):
        return x + x * self.inner(x)


class Whole(nn.Module):
    """A network that is a single branch beside its input."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(2, 8), conv(8, 2)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(x)))


def pair(*more):
    return nn.Sequential(conv(8, 12), nn.ReLU(), *more, conv(12, 8))


def plan_of(plain):
    return make_plan(plain.eval(), torch.rand(1, 2, 8, 8))


def removable(plan):
    return {branch.groups for branch in plan.branches}


@pytest.mark.parametrize(
    "case, count, layers",
    [
        ("edsr_x2", 2, {"conv1": "nothing", "conv2": "bias"}),
        (
            "srresnet_x2",
            2,
            {
                "conv1": "nothing",
                "bn1": "nothing",
                "prelu": "nothing",
                "conv2": "nothing",
                "bn2": "bias",
            },
        ),
        ("rlfn_x2", 2, {"c1_r": "nothing", "c2_r": "nothing", "c3_r": "bias"}),
        ("resnet_padding", 3, None),
        ("mobilenet_v2", 11, None),
        ("vgg", 0, None),
        ("unet_gray", 0, None),
        ("dncnn_gray", 0, None),
    ],
)
def test_branches_of_our_networks(case, count, layers):
    plain = network(case)
    plan = make_plan(plain, example(plain))
    assert len(plan.branches) == count
    if layers is not None:
        left = {layer.name.split(".")[-1]: layer.leaves for layer in plan.branches[0].layers}
        assert left == layers
    marked = {group.name for group in plan.prunable if group.removable}
    assert marked == {name for branch in plan.branches for name in branch.groups}
    for group in plan.prunable:
        assert group.removable != bool(group.removal_reason)


@pytest.mark.parametrize(
    "layers",
    [
        (conv(8, 12), nn.ReLU(), conv(12, 8)),
        (conv(8, 12), conv(12, 12, groups=12), nn.GELU(), conv(12, 8, 1)),
        (conv(8, 12), nn.Dropout(), conv(12, 8), nn.PReLU(8)),
        (conv(8, 12), nn.BatchNorm2d(12), nn.PReLU(), conv(12, 8), nn.BatchNorm2d(8)),
        (nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12), nn.ReLU(), conv(12, 8)),
        (conv(8, 12), nn.AdaptiveAvgPool2d(1), conv(12, 8)),
    ],
)
def test_a_branch_with_channels_of_its_own_is_found(layers):
    plan = plan_of(Block(*layers))
    assert len(plan.branches) == 1
    assert plan.branches[0].layers[0].leaves == "nothing"
    assert "bias" in {layer.leaves for layer in plan.branches[0].layers}


@pytest.mark.parametrize("name", JOINS)
def test_a_branch_may_be_subtracted_or_scaled(name):
    torch.manual_seed(0)
    plain = JoinedBy(JOINS[name]).double().eval()
    x = torch.rand(2, 2, 8, 8, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    assert removable(hyper.plan) == {("branch.0",)}
    hyper.set_masks({"branch.0": torch.zeros(12, dtype=torch.bool)})
    with torch.no_grad():
        expected, found = hyper(x), hyper.cut()(x)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize(
    "plain, reason",
    [
        (Block(conv(8, 8)), OUTSIDE),
        (Block(conv(8, 12), nn.MaxPool2d(3, 1, 1), conv(12, 8)), "does not take"),
        (
            Block(conv(8, 12), nn.Conv2d(12, 12, 3), nn.ConvTranspose2d(12, 8, 3)),
            "height and width",
        ),
        (SharedBranch(inner=pair()), "called several times"),
        (Joined(inner=conv(8, 4), outer=conv(12, 8)), "joins"),
        (Gated(inner=pair()), "still depends on the input"),
        (Whole(), "all layers"),
    ],
)
def test_other_groups_say_why_they_stay(plain, reason):
    plan = plan_of(plain)
    assert not plan.branches
    assert any(reason in group.removal_reason for group in plan.prunable)


def test_all_inner_channels_of_a_branch_are_removed_together():
    plan = plan_of(Block(conv(8, 12), nn.ReLU(), conv(12, 8), conv(8, 8)))
    assert removable(plan) == {("branch.0", "branch.2")}


def test_a_sum_keeps_one_of_two_branches():
    """With both gone the output would not depend on the input."""
    plan = plan_of(TwoBranches(one=pair(), other=pair()))
    assert len(plan.branches) == 1
    kept = [group for group in plan.prunable if group.name == "one.0"]
    assert not kept[0].removable


def test_branches_inside_a_branch_are_part_of_it():
    inner = Block(conv(8, 12), nn.ReLU(), conv(12, 8))
    inner.first, inner.last = conv(8, 8), conv(8, 8)
    plan = plan_of(Block(inner))
    names = sorted(removable(plan), key=len)
    assert names[0] == ("branch.0.branch.0",)
    assert set(names[0]) < set(names[1])
    mask = torch.ones(plan.size, dtype=torch.bool)
    for group in plan.prunable:
        if group.removable:
            mask[group.span] = False
    assert plan.removed_branches(mask) == tuple(
        branch for branch in plan.branches if branch.groups == names[1]
    )
