"""Least-squares correction: normal equations, layers as regressions, promises of the whole pass."""

import copy

import pytest
import torch
from networks import SHALLOW_CASES, example, network
from torch import nn

from dhp_sr.hyper import convert
from dhp_sr.surgery.correct import correct
from dhp_sr.surgery.layer_samples import as_kernel, is_transposed, num_features, sample_features
from dhp_sr.surgery.least_squares import NormalEquations, solve_with_held_out_ridge
from dhp_sr.surgery.side_by_side import Execution


def masks_with_share(hyper, share):
    masks = {}
    for group in hyper.plan.prunable:
        mask = torch.zeros(group.width, dtype=torch.bool)
        mask[torch.randperm(group.width)[: max(1, round(share * group.width))]] = True
        masks[group.name] = mask
    return masks


def regression(rows=200, features=6, outputs=3):
    x = torch.randn(rows, features, dtype=torch.double)
    y = x @ torch.randn(features, outputs, dtype=torch.double)
    y += 0.3 + 0.1 * torch.randn(rows, outputs, dtype=torch.double)
    equations = NormalEquations(features, outputs)
    for chunk, targets in zip(x.split(37), y.split(37), strict=True):
        equations.add(chunk, targets, targets)
    return x, y, equations


@pytest.mark.parametrize("intercept", [True, False])
def test_normal_equations_solve_as_lstsq_does(intercept):
    x, y, equations = regression()
    coefficients, intercepts = equations.solve(1e-14, intercept)
    design = torch.cat((x, torch.ones(len(x), 1)), dim=1) if intercept else x
    expected = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(coefficients.T, expected[: x.shape[1]], rtol=1e-8, atol=1e-8)
    if intercept:
        torch.testing.assert_close(intercepts, expected[-1], rtol=1e-8, atol=1e-8)


def test_the_error_in_closed_form_is_that_of_the_rows():
    x, y, equations = regression()
    coefficients = torch.randn(3, 6, dtype=torch.double)
    intercepts = torch.randn(3, dtype=torch.double)
    direct = (y - x @ coefficients.T - intercepts).square().sum()
    assert equations.error(coefficients, intercepts) == pytest.approx(float(direct), rel=1e-10)


def test_ridge_solution_without_penalty_on_the_intercept():
    _, y, equations = regression()
    coefficients, intercepts = equations.solve(1e6, intercept=True)
    assert coefficients.abs().max() < 1e-4
    torch.testing.assert_close(intercepts, y.mean(0), rtol=1e-3, atol=1e-3)


def test_noise_is_not_fitted():
    """Residuals that have nothing to do with the features leave the layer nearly as it is."""
    generator = torch.Generator().manual_seed(1)
    halves = []
    for _ in range(2):
        x = torch.randn(40, 30, dtype=torch.double, generator=generator)
        noise = torch.randn(40, 1, dtype=torch.double, generator=generator)
        equations = NormalEquations(30, 1)
        equations.add(x, noise, noise)
        halves.append(equations)
    solution = solve_with_held_out_ridge(*halves, intercept=False)
    free, _ = halves[0].solve(1e-12, intercept=False)
    if solution is not None:
        assert solution.coefficients.norm() < 0.7 * free.norm()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("rows", [3, 20, 60])
def test_the_error_on_all_calibration_rows_never_rises(rows, intercept):
    """Also with fewer rows than features, equal features, and residuals far from linear."""
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        halves = []
        mixing = torch.randn(4, 9, dtype=torch.double, generator=generator)
        for _ in range(2):
            x = torch.randn(rows, 4, dtype=torch.double, generator=generator) @ mixing
            y = (x[:, :2] * 3).sin() + seed * x[:, 2:4]
            equations = NormalEquations(9, 2)
            equations.add(x, y, y + 1)
            halves.append(equations)
        solution = solve_with_held_out_ridge(*halves, intercept)
        if solution is None:
            continue
        both = halves[0].plus(halves[1])
        left = both.error(solution.coefficients, solution.intercepts)
        assert left <= both.residual_square * (1 + 1e-9)
        assert solution.held_out_error < halves[1].residual_square


LAYERS = {
    "3x3": lambda: nn.Conv2d(4, 5, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 5, 3, stride=2),
    "dilated": lambda: nn.Conv2d(4, 5, 3, padding=2, dilation=2),
    "reflected": lambda: nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"),
    "same": lambda: nn.Conv2d(4, 5, (3, 5), padding="same"),
    "no bias": lambda: nn.Conv2d(4, 5, 1, bias=False),
    "one dimension": lambda: nn.Conv1d(4, 5, 3, padding=1),
    "three dimensions": lambda: nn.Conv3d(4, 5, (1, 3, 3), padding=(0, 1, 1)),
    "transposed": lambda: nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1),
    "transposed, dilated": lambda: nn.ConvTranspose2d(4, 5, 3, stride=3, dilation=2),
    "linear": lambda: nn.Linear(4, 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_features_times_kernel_are_the_layers_output(name):
    layer = LAYERS[name]().double()
    dims = {nn.Conv1d: 1, nn.Conv3d: 3, nn.Linear: 0}.get(type(layer), 2)
    shape = (2, 7, 4) if dims == 0 else (2, 4, *[6, 7, 8][:dims])
    x = torch.randn(shape, dtype=torch.double)
    output = layer(x)
    channels, positions = torch.arange(4), torch.arange(output[0].numel() // 5)
    features = sample_features(layer, x[1], output[1], channels, positions)
    assert features.shape == (len(positions), num_features(layer, 4))
    # as_kernel maps coefficients to the weight; solve for them by asking for the weight itself
    flat = torch.eye(features.shape[1], dtype=torch.double)
    basis = torch.stack([as_kernel(layer, row[None]) for row in flat])
    weight = layer.weight if not is_transposed(layer) else layer.weight.transpose(0, 1)
    basis = basis.transpose(1, 2) if is_transposed(layer) else basis
    coefficients = torch.stack([(basis[:, 0] * kernel).flatten(1).sum(1) for kernel in weight])
    expected = output[1].flatten(1).T if dims else output[1].reshape(-1, 5)
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(features @ coefficients.T + bias, expected)


@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_a_network_that_lost_nothing_stays_as_it_is(case):
    plain = network(case).eval()
    x = example(plain, batch=2)
    hyper = convert(plain, x).eval()
    small = hyper.cut(calibration=[x])
    for name, value in small.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.parametrize("case", SHALLOW_CASES)
def test_corrected_networks_are_cut_exactly_and_no_layer_gets_worse(case):
    plain = network(case).eval()
    x = torch.cat([example(plain, batch=2) for _ in range(3)])
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    small = hyper.cut(calibration=[x[:3], x[3:]])  # compares itself with the masked network
    before = hyper.cut()
    assert [p.shape for p in small.parameters()] == [p.shape for p in before.parameters()]
    report = hyper.correction_report
    assert any(layer.ridge > 0 for layer in report.layers)
    assert all(layer.error_after <= layer.error_before for layer in report.layers)


def test_norms_that_were_trained_under_masks_become_those_of_the_dense_network():
    """A search trains statistics of the masked channels, which are zeros: these are no targets."""
    plain = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 2, 3, padding=1),
    )
    x = torch.rand(6, 2, 12, 12)
    for _ in range(30):
        plain(x)
    plain.eval()
    trained, untouched = convert(plain, x[:1]), convert(plain, x[:1]).eval()
    trained.set_masks(masks_with_share(trained, 0.5))
    untouched.mask.copy_(trained.mask)
    with torch.no_grad():
        for _ in range(30):
            trained.train()(x)
        trained.network[1].weight.mul_(2)
    reference = plain.state_dict()
    corrected = trained.eval().cut(calibration=[x], reference=reference).state_dict()
    expected = untouched.cut(calibration=[x], reference=reference).state_dict()
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(corrected[name], value, msg=name)


class ConstantChannel(nn.Module):
    """A layer without bias reads a channel that is always 1; what reads its output varies."""

    def __init__(self, behind):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 1)
        self.second = nn.Conv2d(6, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)
        self.behind = behind
        with torch.no_grad():
            self.first.weight[0] = 0
            self.first.bias[0] = 1
            self.norm.running_mean.normal_()

    def forward(self, x):
        return self.last(self.behind(self, self.second(torch.relu(self.first(x)))))


@torch.no_grad()
def error_without_the_constant(behind):
    torch.manual_seed(0)
    plain = ConstantChannel(behind).double().eval()
    x = torch.randn(8, 2, 10, 10, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks({"first": torch.arange(6) > 0})
    small = hyper.cut(calibration=[x])
    return float((small(x) - plain(x)).abs().max()), plain, small


def test_the_norm_behind_a_layer_without_bias_holds_its_constant():
    """As in every ResNet: its stored mean becomes that of the cut network."""
    error, plain, small = error_without_the_constant(lambda net, y: torch.relu(net.norm(y)))
    assert error < 1e-8
    shift = plain.second.weight[:, 0, 0, 0]
    torch.testing.assert_close(small.norm.running_mean, plain.norm.running_mean - shift)


@pytest.mark.parametrize(
    "behind",
    [
        lambda net, y: net.norm(y) + y,
        lambda net, y: net.norm(torch.relu(y)),
        lambda net, y: net.norm(torch.tanh(net.norm(y))),
        lambda net, y: net.norm(y) + net.norm.running_mean.reshape(-1, 1, 1),
    ],
    ids=["another reader", "not at once", "called twice", "its mean is read besides"],
)
def test_a_norm_that_others_rely_on_keeps_its_mean(behind):
    error, plain, small = error_without_the_constant(behind)
    assert torch.equal(small.norm.running_mean, plain.norm.running_mean)
    assert error > 1e-4, "the constant cannot be made up for"


ORIGINALS = [0, 1, 0, 1, 4, 5, 4, 5]
"""For each of 8 channels the one whose copy it is, in both halves, as groups of two have them."""
HALVES = [0, 1, 2, 3, 0, 1, 2, 3]
"""The same where four channels go together."""
KEPT = {8: [0, 1, 4, 5], 4: [0, 1], 2: [0]}
"""Width of a group of channels -> those that are no copies."""


def repeating(layer, originals=ORIGINALS):
    """Let some output channels of a layer be copies of others."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[originals])
        layer.bias.copy_(layer.bias[originals])
    return layer


class ChannelsLast(nn.Module):
    """A layer over the last axis, on images."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Join(nn.Module):
    def forward(self, x):
        return torch.cat((x, torch.tanh(x)), dim=1)


class Stream(nn.Module):
    """A residual sum, whose channels two layers write and two read."""

    def __init__(self):
        super().__init__()
        self.inner = repeating(nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        return x + self.inner(torch.relu(x))


class Attention(nn.Module):
    """Self attention over positions; its values repeat, queries and keys do not."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.value = repeating(nn.Conv2d(8, 8, 1))

    def forward(self, x):
        query, key, value = [layer(x).flatten(2) for layer in (self.query, self.key, self.value)]
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        return (value @ attention.transpose(1, 2)).reshape(x.shape)


class Repeated(nn.Module):
    """Half of what the first layer writes is there twice."""

    def __init__(self, between, last, originals):
        super().__init__()
        self.first = repeating(nn.Conv2d(2, 8, 3, padding=1), originals)
        self.between, self.last = between, last

    def forward(self, x):
        return torch.tanh(self.last(self.between(torch.tanh(self.first(x)))))


CONSUMERS = {
    "strided": lambda: (nn.Identity(), nn.Conv2d(8, 3, 3, stride=2, padding=1)),
    "dilated": lambda: (nn.Identity(), nn.Conv2d(8, 3, 3, dilation=2, padding=2)),
    "grouped": lambda: (nn.Identity(), nn.Conv2d(8, 4, 3, groups=2)),
    "transposed": lambda: (nn.Identity(), nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)),
    "linear": lambda: (nn.Identity(), ChannelsLast(nn.Linear(8, 3))),
    "depthwise": lambda: (
        repeating(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        nn.Conv2d(8, 3, 1),
    ),
    "behind a batch norm": lambda: (nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3)),
    "behind a layer norm": lambda: (ChannelsLast(nn.LayerNorm(8)), nn.Conv2d(8, 3, 3)),
    "behind a group norm": lambda: (nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 3)),
    "behind a shuffle": lambda: (nn.PixelShuffle(2), nn.Conv2d(2, 3, 3)),
    "behind a concat": lambda: (Join(), nn.Conv2d(16, 3, 3)),
    "residual sum": lambda: (Stream(), nn.Conv2d(8, 3, 3)),
    "attention": lambda: (Attention(), nn.Conv2d(8, 3, 1)),
}


@pytest.mark.parametrize("name", CONSUMERS)
@torch.no_grad()
def test_channels_that_others_repeat_are_made_up_for_exactly(name):
    """By every kind of layer that reads them, whatever lies between, on inputs of any size."""
    torch.manual_seed(0)
    originals = HALVES if name in ("behind a shuffle", "behind a group norm") else ORIGINALS
    plain = Repeated(*CONSUMERS[name](), originals).double().eval()
    x = [torch.randn(4, 2, *size, dtype=torch.double) for size in ((12, 12), (8, 14), (14, 10))]
    hyper = convert(plain, x[0][:1]).eval()
    masks = {}
    for group in hyper.plan.prunable:
        if group.name == "first" or group.width == 8:
            masks[group.name] = torch.zeros(group.width, dtype=torch.bool)
            masks[group.name][KEPT[group.width]] = True
    hyper.set_masks(masks)
    unseen = torch.randn(1, 2, 16, 10, dtype=torch.double)
    target = plain(unseen)
    scale = target.abs().max()
    assert (hyper.cut()(unseen) - target).abs().max() > 0.01 * scale
    small = hyper.cut(calibration=x)
    assert (small(unseen) - target).abs().max() < 1e-3 * scale
    assert not hyper.correction_report.skipped


class ResidualBlock(nn.Module):
    """A block whose branch could give back what its input lost; the shortcut is computed last."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.head = nn.Conv2d(2, 6, 1)
        self.inner = nn.Conv2d(6, 8, 1)
        self.outer = nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.shortcut = nn.Identity()
        self.tail = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.head(x)
        branch = self.norm(self.outer(torch.relu(self.inner(x))))
        return self.tail(self.join(branch, self.shortcut(x)))


@pytest.mark.parametrize(
    "join",
    [
        lambda branch, shortcut: branch * 0.5 + shortcut,
        lambda branch, shortcut: shortcut - branch,
        lambda branch, shortcut: branch - shortcut,
        lambda branch, shortcut: shortcut.add(branch, alpha=0.2),
        lambda branch, shortcut: torch.sub(branch, shortcut, alpha=2),
    ],
)
def test_a_branch_makes_up_for_the_error_of_its_shortcut(join):
    plain = ResidualBlock(join).double().eval()
    x = torch.randn(8, 2, 10, 10, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks({"inner": torch.tensor([True] * 3 + [False] * 5)})
    values = hyper.generate()
    with torch.no_grad():
        values["head.bias"] += 0.2  # an error of the shortcut, before the branch
    fixed, _ = correct(plain, hyper.plan, hyper.mask, values, [x])
    sums = []
    for chosen in (dict(plain.named_parameters()), values, fixed):
        copied = copy.deepcopy(plain)
        copied.load_state_dict({**copied.state_dict(), **chosen})
        seen = []
        copied.tail.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        copied(x)
        sums.append(seen[0])
    dense, broken, corrected = sums
    assert (corrected - dense).square().mean() < 0.3 * (broken - dense).square().mean()


def test_the_constant_of_a_removed_branch_is_the_mean_of_the_dense_one():
    plain = network("srresnet_x2")
    x = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    hyper = convert(plain, x[:1]).eval()
    seen = []
    hook = plain.body[0].bn2.register_forward_hook(
        lambda layer, inputs, output: seen.append(output)
    )
    plain(x)
    hook.remove()
    hyper.set_masks({"body.0.conv1": torch.zeros(16, dtype=torch.bool)})
    small = hyper.cut(calibration=[x[:2], x[2:]])
    torch.testing.assert_close(small.body[0].bn2.bias, seen[0].mean((0, 2, 3)))
    corrected = hyper.correction_report.layers
    assert [layer.layer for layer in corrected][:2] == ["conv_first", "body.0.bn2"]
    assert corrected[1].error_after < corrected[1].error_before


@pytest.mark.parametrize("case", ["edsr_x2", "rlfn_x2", "resnet_projection"])
@torch.no_grad()
def test_networks_without_branches_are_corrected(case):
    """The next block makes up for what the constant cannot; the cut checks itself."""
    plain = network(case)
    x = [example(plain, batch=4) for _ in range(3)]
    hyper = convert(plain, x[0][:1]).eval()
    masks = masks_with_share(hyper, 0.8)
    for name in hyper.plan.branches[0].groups:
        masks[name] = torch.zeros_like(masks[name])
    hyper.set_masks(masks)
    distances = []
    for small in (hyper.cut(), hyper.cut(calibration=x)):
        distances.append(sum(float((small(y) - plain(y)).square().mean()) for y in x))
    assert distances[1] < distances[0]
    for layer in hyper.correction_report.layers:
        assert layer.error_after <= layer.error_before


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 8, 3)
        self.body = nn.Conv2d(8, 8, 1)
        self.tail = nn.Conv2d(8, 1, 1)

    def again(self, x):
        return self.body(x)

    def forward(self, x):
        return self.tail(self.again(torch.relu(self.body(self.head(x)))))


class Tied(CalledTwice):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(8, 8, 1)
        self.other.weight = self.body.weight

    def again(self, x):
        return self.other(x)


class TiedBias(Tied):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(8, 8, 1)
        self.other.bias = self.body.bias


class ReadBesides(CalledTwice):
    def again(self, x):
        return nn.functional.conv2d(x, self.body.weight)


@pytest.mark.parametrize("cls", [CalledTwice, Tied, TiedBias, ReadBesides])
def test_a_weight_of_several_uses_stays_and_is_listed(cls):
    """To bring its first output closer would move the second away."""
    plain, x = cls().double().eval(), torch.randn(4, 1, 8, 8, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    uncorrected = hyper.cut()
    corrected = hyper.cut(calibration=[x])
    assert torch.equal(corrected.body.weight, uncorrected.body.weight)
    assert torch.equal(corrected.body.bias, uncorrected.body.bias)
    assert "body" in hyper.correction_report.skipped


def test_a_transposed_layer_that_is_told_its_size_is_corrected():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(2, 8, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(8, 2, 3, stride=2, padding=1)

        def forward(self, x):
            return self.up(torch.relu(self.down(x)), output_size=x.shape[2:])

    plain, x = Up().double().eval(), torch.randn(4, 2, 8, 8, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    hyper.cut(calibration=[x])
    (up,) = [layer for layer in hyper.correction_report.layers if layer.layer == "up"]
    assert up.error_after < up.error_before


def test_a_grouped_transposed_layer_stays_and_is_listed():
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, groups=2)]
    plain = nn.Sequential(*layers).eval()
    x = torch.randn(4, 2, 8, 8)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    uncorrected = hyper.cut()
    corrected = hyper.cut(calibration=[x])
    assert torch.equal(corrected[2].weight, uncorrected[2].weight)
    assert "grouped transposed" in hyper.correction_report.skipped["2"]


def test_values_are_forgotten_as_soon_as_nothing_reads_them(monkeypatch):
    """Else memory would grow with the depth of a network, times all calibration images."""
    live = []
    release = Execution.release

    def count(self, nodes):
        release(self, nodes)
        live.append(len(self.values[0]))

    monkeypatch.setattr(Execution, "release", count)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    for _ in range(6):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    plain, x = nn.Sequential(*layers, nn.Conv2d(8, 1, 1)).eval(), torch.rand(2, 1, 8, 8)
    hyper = convert(plain, x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    hyper.cut(calibration=[x])
    assert len(live) > 2 * len(layers) and max(live) == 1


def test_no_calibration_images():
    plain = network("edsr_x2")
    hyper = convert(plain, example(plain))
    with pytest.raises(ValueError, match="calibration"):
        hyper.cut(calibration=[])


def test_a_layer_too_large_to_be_solved_stays_and_is_listed(monkeypatch):
    """The first linear layer of vgg16 would take all memory."""
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1))
    x = torch.randn(4, 1, 12, 12)
    hyper = convert(plain.eval(), x[:1]).eval()
    hyper.set_masks(masks_with_share(hyper, 0.5))
    monkeypatch.setattr("dhp_sr.surgery.correct.MAX_FEATURES", 20)
    uncorrected = hyper.cut()
    corrected = hyper.cut(calibration=[x])
    assert torch.equal(corrected[2].weight, uncorrected[2].weight)
    assert not torch.equal(corrected[3].weight, uncorrected[3].weight)
    (reason,) = hyper.correction_report.skipped.values()
    assert "36 values" in reason and list(hyper.correction_report.skipped) == ["2"]
