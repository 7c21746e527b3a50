"""OBS search: statistics, elimination, database of re-solved layers, evolution of widths."""

import typing
from dataclasses import replace

import pytest
import torch
from networks import example, network
from torch import nn

from dhp_sr.allocation.budget import Budget, BudgetError
from dhp_sr.allocation.diagnostics import lower_bound
from dhp_sr.config.compress import OBSOptions
from dhp_sr.hyper import convert
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.search import SearchSettings, build_search
from dhp_sr.search.obs.channel_orders import CHANNEL_ORDERS, OrderInputs, elimination_order
from dhp_sr.search.obs.database import WidthDatabase, output_loss
from dhp_sr.search.obs.evolution import WidthEvolution
from dhp_sr.search.obs.statistics import layer_statistics
from dhp_sr.surgery.cut import zero_outside
from dhp_sr.training.pruning import prune_for_trial


class Mixed(nn.Module):
    """Readers of every kind: transposed, linear, without bias, behind a shuffle and a concat."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.shuffle = nn.PixelShuffle(2)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.join = nn.Conv2d(14, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        first = torch.relu(self.first(x))
        up = torch.relu(self.up(self.shuffle(torch.tanh(self.second(first)))))
        wide = nn.functional.interpolate(first, scale_factor=4)
        joined = torch.relu(self.join(torch.cat((up, wide), dim=1)))
        return self.head(joined.mean((2, 3)))


@pytest.fixture
def mixed():
    torch.manual_seed(0)
    plain = Mixed().double().eval()
    x = torch.randn(6, 2, 8, 8, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], ridge=1e-9)
    return hyper, layers, x


def test_statistics_of_all_layers_that_read_prunable_channels(mixed):
    _, layers, _ = mixed
    names = {layer.weight for layer in layers}
    assert names == {"second.weight", "up.weight", "join.weight", "head.weight"}


def test_covariance_is_that_of_the_layers_input(mixed):
    hyper, layers, x = mixed
    head = next(layer for layer in layers if layer.weight == "head.weight")
    seen = []
    hook = hyper.network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    hyper(x)
    hook.remove()
    torch.testing.assert_close(head.covariance_FF, torch.cov(seen[0].T, correction=0))
    torch.testing.assert_close(head.mean_F, seen[0].mean(0))


def test_samples_of_a_small_batch_count_as_much_as_others():
    """As the last of nine samples, alone in its batch, which is unlike the others."""
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1)).double().eval()
    x = torch.rand(9, 1, 64, 64, dtype=torch.float64)
    x[8] += 5
    hyper = convert(network, x[:1])
    means = []
    for batches in ([x], [x[:8], x[8:]]):
        (layer,) = layer_statistics(network, hyper.plan, hyper.generate(), batches, ridge=1e-4)
        means.append(layer.mean_F)
    torch.testing.assert_close(means[0], means[1], rtol=0.05, atol=0.05)


def test_dense_widths_give_the_dense_network(mixed):
    hyper, layers, x = mixed
    orders = [torch.arange(group.width) for group in hyper.plan.prunable]
    database = WidthDatabase(hyper, orders, layers)
    (output,) = database.outputs([group.width for group in hyper.plan.prunable], [x])
    torch.testing.assert_close(output, hyper(x), rtol=1e-5, atol=1e-6)


def test_solved_weights_are_the_least_squares_solution(mixed):
    hyper, layers, x = mixed
    groups = hyper.plan.prunable
    orders = [torch.randperm(group.width) for group in groups]
    database = WidthDatabase(hyper, orders, layers)
    widths = [max(1, group.width // 2) for group in groups]
    values = database.values(widths)
    # The last layer, whose output is not pruned: compare with a regression on its dense input.
    seen = []
    hook = hyper.network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    hyper(x)
    hook.remove()
    kept = values["head.weight"].abs().sum(0) > 0
    design = torch.cat((seen[0][:, kept], torch.ones(len(x), 1)), dim=1)
    expected = torch.linalg.lstsq(design, hyper(x)).solution
    found = torch.cat((values["head.weight"][:, kept], values["head.bias"][:, None]), dim=1)
    torch.testing.assert_close(design @ found.T, design @ expected, rtol=1e-4, atol=1e-4)


class SeveralUses(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = torch.relu(self.body(torch.relu(self.first(x))))
        return self.last(torch.relu(self.other(x)))


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_weight_of_several_uses_is_not_solved_for_one_of_them(is_tied):
    plain = SeveralUses().double().eval()
    if is_tied:
        plain.other.weight = plain.body.weight
    else:
        plain.other = plain.body
    x = torch.rand(6, 2, 8, 8, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], ridge=1e-6)
    assert {layer.weight: layer.uses for layer in layers} == {"body.weight": 2, "last.weight": 1}
    database = WidthDatabase(hyper, [torch.arange(8) for _ in hyper.plan.prunable], layers)
    widths = [4] * len(hyper.plan.prunable)
    masked = hyper.generate_with(database.mask(widths))
    assert torch.equal(database.values(widths)["body.weight"], masked["body.weight"])


def test_masks_of_the_database_keep_the_first_channels_of_the_orders(mixed):
    hyper, layers, _ = mixed
    groups = hyper.plan.prunable
    orders = [torch.randperm(group.width) for group in groups]
    mask = WidthDatabase(hyper, orders, layers).mask([1] * len(groups))
    assert int(mask.sum()) == len(groups)
    for group, order in zip(groups, orders, strict=True):
        assert mask[group.start + order[0]]


def added_error(layer, channel):
    """Error that a layer gains, re-solved without a channel, by a regression on the others."""
    covariance, weight = layer.covariance_FF, layer.weight_OF
    taps = layer.features_per_channel
    kept = torch.tensor([f for f in range(len(covariance)) if f // taps != channel])
    cross = covariance[kept] @ weight.T
    total = (weight @ covariance * weight).sum()
    return float(total - (torch.linalg.solve(covariance[kept][:, kept], cross) * cross).sum())


class TwoReaders(nn.Module):
    """Two layers read the same channels, and disagree on which of them matters."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 1)
        self.near = nn.Conv2d(6, 3, 1)
        self.wide = nn.Conv2d(6, 4, 3, padding=1)
        with torch.no_grad():
            self.near.weight[:, :3] *= 0.1
            self.wide.weight[:, 3:] *= 0.1
            self.wide.weight *= 10  # errors are relative to each layer's output

    def forward(self, x):
        x = torch.relu(self.first(x))
        return torch.cat((self.near(x), self.wide(x)), dim=1)


def test_errors_of_all_layers_that_read_a_group_are_summed():
    torch.manual_seed(6)
    plain = TwoReaders().double().eval()
    x = torch.randn(8, 2, 12, 12, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    (group,) = hyper.plan.prunable
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], 1e-4)
    assert {layer.weight for layer in layers} == {"near.weight", "wide.weight"}
    sums = [0.0] * 6
    least = []
    for layer in layers:
        errors = [added_error(layer, channel) / layer.output_variance for channel in range(6)]
        least.append(errors.index(min(errors)))
        sums = [total + error for total, error in zip(sums, errors, strict=True)]
    order = elimination_order(group, layers, hyper.plan.size)
    assert int(order[-1]) == sums.index(min(sums))
    assert len(set(least)) == 2, "each layer alone would remove another channel first"


def test_the_first_channel_removed_is_the_one_that_the_others_replace_best():
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 3, padding=1)).double().eval()
    x = torch.randn(8, 2, 12, 12, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    (group,) = hyper.plan.prunable
    with torch.no_grad():  # an input with six independent channels
        hyper.network[0].weight.zero_()
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], 1e-9)
    (layer,) = layers
    noise = torch.randn(400, 54, dtype=torch.double) @ torch.randn(54, 54, dtype=torch.double)
    covariance = noise.T @ noise / 400
    object.__setattr__(layer, "covariance_FF", covariance)
    errors = [added_error(layer, channel) for channel in range(6)]
    order = elimination_order(group, [layer], hyper.plan.size)
    assert int(order[-1]) == errors.index(min(errors))


def test_of_two_equal_channels_the_second_goes_late():
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double().eval()
    with torch.no_grad():
        plain[0].weight[5] = plain[0].weight[1]
        plain[0].bias[5] = plain[0].bias[1]
        plain[2].weight[:, (1, 5)] *= 10  # together they matter most
    x = torch.randn(8, 2, 10, 10, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    (group,) = hyper.plan.prunable
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], 1e-7)
    order = elimination_order(group, layers, hyper.plan.size).tolist()
    assert order[-1] in (1, 5)
    assert order[0] in (1, 5)


def test_option_files_know_every_order():
    values = typing.get_args(OBSOptions.model_fields["order"].annotation)
    assert set(values) == set(CHANNEL_ORDERS)


@pytest.mark.parametrize("order", ["fisher", "taylor"])
def test_sensitivity_is_that_of_the_output_to_each_channel(order):
    """Against the change of the output when a channel of a linear network is scaled."""
    torch.manual_seed(4)
    plain = nn.Sequential(nn.Conv2d(2, 6, 1), nn.Conv2d(6, 3, 1)).double().eval()
    x = torch.randn(400, 2, 1, 1, dtype=torch.double)
    hyper = convert(plain, x[:1]).eval()
    (group,) = hyper.plan.prunable
    hyper.set_masks({group.name: torch.arange(6) < 3})
    inputs = OrderInputs(hyper, [], list(x.split(1)), seed=0)
    (channels,) = CHANNEL_ORDERS[order](inputs)
    # A channel's latent multiplies its producer and its reader, but for the producer's bias.
    produced = plain[0].weight[:, :, 0, 0] @ x[:, :, 0, 0].T
    read = plain[1].weight[:, :, 0, 0]
    change = 2 * produced + plain[0].bias[:, None]
    if order == "fisher":
        expected = change.square().mean(1) * read.square().sum(0)
        assert channels.tolist() == expected.argsort(descending=True).tolist()
    expected = (change.abs().mean(1) * read.abs().sum(0)).argsort(descending=True)
    assert channels[0] == expected[0]
    assert channels[-1] == expected[-1]
    assert hyper.masks[group.name].sum() == 3  # as it was


@pytest.mark.parametrize("order", sorted(CHANNEL_ORDERS))
def test_every_order_holds_every_channel_once(order):
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Conv2d(9, 7, 3), nn.Conv2d(7, 1, 1))
    x = torch.rand(10, 1, 12, 12)
    hyper = convert(plain.eval(), x[:1]).eval()
    search = build_search("obs", hyper, settings(order=order))
    search.observe(x)
    report = search.finish()
    assert abs(report.macs_ratio - 0.5) <= 0.02
    assert [len(set(order.tolist())) for order in search._orders] == [9, 7]


def settings(keep_ratio=0.5, **options):
    defaults = {**dict(OBSOptions()), "statistics_samples": 6, "evaluation_samples": 4}
    budget = Budget("macs", keep_ratio, 0.02, 1, 1)
    return SearchSettings(budget, 4, method_options={**defaults, "generations": 30, **options})


def test_evolution_finds_widths_of_lower_loss_at_the_same_cost():
    hyper = convert(
        nn.Sequential(nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 1, 1)),
        torch.rand(1, 1, 4, 4),
    )
    orders = [torch.arange(16), torch.arange(16)]
    seen = []

    def loss(widths, complete):
        seen.append(tuple(widths))
        return (widths[0] - 14) ** 2  # the second group does not matter

    budget = Budget("macs", 0.5, 0.03, 1, 1)
    evolution = WidthEvolution(hyper, orders, budget, loss)
    widths = evolution.run([[0.7, 0.7]], generations=60)
    assert abs(widths[0] - 14) <= 1
    for choice in seen:
        mask = torch.cat([torch.arange(16) < width for width in choice])
        assert abs(hyper.costs.ratio(mask, "macs") - 0.5) <= 0.03 + 1e-9


def test_evolution_refuses_a_budget_that_no_widths_meet():
    hyper = convert(nn.Sequential(nn.Conv2d(1, 16, 1), nn.Conv2d(16, 1, 1)), torch.rand(1, 1, 4, 4))
    evolution = WidthEvolution(
        hyper, [torch.arange(16)], Budget("macs", 0.3, 0.001, 8, 8), lambda widths, complete: 0.0
    )
    with pytest.raises(BudgetError):
        evolution.run([[0.5]], generations=1)


def test_search_beats_uniform_pruning_of_a_network_with_an_idle_half():
    """Half of the channels have no influence on the output; the search finds them in one layer."""
    torch.manual_seed(3)
    plain = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()),
        nn.Conv2d(12, 1, 3, padding=1),
    ).eval()
    with torch.no_grad():
        plain[2].weight[:, ::2] = 0
    x = torch.rand(10, 1, 12, 12)
    losses = {}
    for method in ("obs", "uniform"):
        hyper = convert(plain, x[:1]).eval()
        options = settings() if method == "obs" else SearchSettings(settings().budget, 4)
        search = build_search(method, hyper, options)
        search.observe(x)
        search.finish()
        with torch.no_grad():
            losses[method] = output_loss([hyper.cut(calibration=[x[:6]])(x)], [plain(x)])
    assert losses["obs"] < 0.5 * losses["uniform"]


def test_all_budgets_come_from_one_database(monkeypatch):
    """And each has the widths that a search for it alone finds."""
    calls = []

    def count(*arguments):
        calls.append(arguments)
        return layer_statistics(*arguments)

    monkeypatch.setattr("dhp_sr.search.obs.search.layer_statistics", count)
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 1, 1))
    x = torch.rand(10, 1, 12, 12)
    hyper = convert(plain.eval(), x[:1]).eval()
    search = build_search("obs", hyper, settings())
    search.observe(x)
    masks = []
    for ratio in (0.8, 0.5, 0.3):
        budget = Budget("macs", ratio, 0.02, 1, 1)
        report = hyper.prune_to_budget(budget, search.scores_for(budget))
        assert abs(report.macs_ratio - ratio) <= 0.02
        masks.append(hyper.mask.clone())
    assert len(calls) == 1
    alone = build_search("obs", hyper, settings(keep_ratio=0.3))
    alone.observe(x)
    alone.finish()
    assert torch.equal(hyper.mask, masks[-1])


class Blocks(nn.Module):
    """Residual blocks, of which the second does next to nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3))
        self.outer = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(12, 1, 3, padding=1)
        with torch.no_grad():
            self.outer[1].weight.mul_(0.01)

    def forward(self, x):
        x = self.first(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        return self.last(x)


@pytest.mark.parametrize("remove_blocks", [False, True])
def test_a_block_that_does_next_to_nothing_is_removed(remove_blocks):
    torch.manual_seed(2)
    plain = Blocks().eval()
    x = torch.rand(10, 1, 12, 12)
    hyper = convert(plain, x[:1]).eval()
    budget = Budget("macs", 0.6, 0.03, 1, 2, remove_blocks)
    search = build_search("obs", hyper, replace(settings(), budget=budget))
    search.observe(x)
    report = search.finish()
    assert abs(report.macs_ratio - 0.6) <= 0.03
    assert [report.widths[f"inner.{number}"] == 0 for number in range(3)] == [
        False,
        remove_blocks,
        False,
    ]
    small = hyper.cut(calibration=[x[:6]])
    assert isinstance(small.inner[1], ConstantMap) == remove_blocks


def test_a_budget_that_widths_alone_cannot_meet_removes_blocks():
    torch.manual_seed(2)
    plain = Blocks().eval()
    x = torch.rand(10, 1, 12, 12)
    hyper = convert(plain, x[:1]).eval()
    # No layer below 9 of 12 channels: more than half remains, whatever the widths are.
    budget = Budget("macs", 0.45, 0.03, 1, 9)
    assert lower_bound(hyper.plan, hyper.costs, budget).ratio > 0.5
    allowing = replace(budget, remove_blocks=True)
    assert lower_bound(hyper.plan, hyper.costs, allowing).ratio < 0.1
    with pytest.raises(BudgetError, match="cannot be met"):
        prune_for_trial(hyper, budget)
    report = prune_for_trial(hyper, allowing)
    assert abs(report.macs_ratio - 0.45) <= 0.03
    assert [report.widths[f"inner.{number}"] for number in range(3)].count(0) == 1
    search = build_search("obs", hyper, replace(settings(), budget=allowing))
    search.observe(x)
    report = search.finish()
    assert abs(report.macs_ratio - 0.45) <= 0.03
    assert report.widths["inner.1"] == 0, "the output can best do without it"


def test_removed_groups_come_back_and_go_together():
    """Branches of two groups each; a step never moves a group that is removed."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)) for _ in range(3)
    )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks
            self.first, self.last = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = x + block(x)
            return self.last(x)

    hyper = convert(Net(), torch.rand(1, 1, 4, 4))
    groups = hyper.plan.prunable
    seen = []

    def loss(widths, complete):
        seen.append(tuple(width == 0 for width in widths))
        return 1 / len(seen)  # every offspring is kept

    budget = Budget("macs", 0.3, 0.05, 1, 1, remove_blocks=True)
    orders = [torch.arange(group.width) for group in groups]
    evolution = WidthEvolution(hyper, orders, budget, loss)
    evolution.run([[0.7] * len(groups)], generations=200)
    # None, each of three, and two at a time: whatever goes comes back.
    assert len(set(seen)) == 7
    names = [group.name for group in groups]
    for removed in seen:
        by_name = dict(zip(names, removed, strict=True))
        for number in range(3):
            assert by_name[f"blocks.{number}.0"] == by_name[f"blocks.{number}.1"]
        assert not by_name["first"]


def test_a_removed_branch_gives_its_mean_in_the_database():
    """The convolution before the last normalization has no bias that could hold it."""
    plain = network("resnet_projection")
    x = example(plain, batch=8)
    hyper = convert(plain, x[:1]).eval()
    norm = hyper.network.layer1[0].bn2
    seen = []
    with torch.no_grad():
        hook = norm.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        hyper.network(x)
        hook.remove()
        norm.running_mean.copy_(seen[0].mean((0, 2, 3)))
    layers = layer_statistics(hyper.network, hyper.plan, hyper.generate(), [x], ridge=1e-9)
    groups = hyper.plan.prunable
    database = WidthDatabase(hyper, [torch.arange(group.width) for group in groups], layers)
    widths = [0 if group.name == "layer1.0.conv1" else group.width for group in groups]
    means = []
    hook = norm.register_forward_hook(lambda layer, inputs, output: means.append(output))
    database.outputs(widths, [x])
    hyper.network(x)
    hook.remove()
    removed, dense = means
    torch.testing.assert_close(removed[0, :, 0, 0], dense.mean((0, 2, 3)))


def test_vectors_of_any_device_are_masked():
    """Those of norms lie on the network's device, kept entries on the CPU."""
    assert zero_outside(torch.ones(4, device="meta"), torch.arange(2), 0).is_meta


def test_a_search_without_inputs_says_what_to_call():
    hyper = convert(nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1)), torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="observe"):
        build_search("obs", hyper, settings()).finish()


def test_loss_of_logits_is_a_divergence():
    logits = torch.randn(5, 4)
    assert output_loss([logits], [logits]) == pytest.approx(0, abs=1e-6)
    assert output_loss([logits + 3.0], [logits]) == pytest.approx(0, abs=1e-6)
    assert output_loss([logits * 2], [logits]) > 0


class SeveralInputsAndOutputs(nn.Module):
    """Reads a mask beside the image, has a further head, and calls a layer by keyword."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 1, 3, padding=1)
        self.classes = nn.Linear(16, 4)

    def forward(self, image, mask):
        features = torch.relu(self.first(torch.cat((image, mask), dim=1)))
        features = torch.relu(self.second(input=features))
        logits = self.classes(features.mean((2, 3)))
        return {"image": self.head(features), "further": [logits, logits.argmax(1)]}


@pytest.mark.parametrize("order", CHANNEL_ORDERS)
def test_networks_with_several_inputs_and_outputs(order):
    torch.manual_seed(0)
    plain = SeveralInputsAndOutputs().double().eval()
    mask = (torch.rand(1, 1, 12, 12) < 0.5).double()
    hyper = convert(plain, (torch.rand(1, 1, 12, 12).double(), mask)).eval()
    options = OBSOptions(order=order, statistics_samples=6, evaluation_samples=4, generations=9)
    settings = SearchSettings(Budget("macs", 0.5, 0.05, 1, 1), 5, method_options=dict(options))
    search = build_search("obs", hyper, settings)
    for _ in range(5):
        search.observe((torch.rand(2, 1, 12, 12).double(), mask))
    report = search.finish()
    assert report.macs_ratio == pytest.approx(0.5, abs=0.05)
    assert hyper.cut()(torch.rand(1, 1, 12, 12).double(), mask)["image"].shape == (1, 1, 12, 12)


def test_the_loss_of_several_outputs_is_their_sum():
    image, logits, classes = torch.rand(3, 1, 4, 4), torch.randn(3, 5), torch.tensor([1, 2, 3])
    other = (image + 0.5, {"logits": 2 * logits, "classes": classes + 1})
    expected = output_loss([image + 0.5], [image]) + output_loss([2 * logits], [logits])
    loss = output_loss([other], [(image, {"logits": logits, "classes": classes})])
    assert loss == pytest.approx(expected) and loss > 0.25
