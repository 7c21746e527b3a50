"""From the option file to the search, and the dry run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.config import load_options
from dhp_sr.hyper import convert
from dhp_sr.metrics import complexity
from dhp_sr.operators import register_op
from dhp_sr.operators.registry import spec_of_module
from dhp_sr.surgery.cut import CutError
from dhp_sr.tasks import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.dry_run import dry_run
from dhp_sr.training.pruning import check_counters, convert_network, start_search
from dhp_sr.utils.errors import UserError

QUICKSTART = Path(__file__).parents[2] / "options" / "quickstart.yml"
CPU = torch.device("cpu")


def test_a_search_is_made_as_the_options_say():
    given = {
        "round_to": 4,
        "min_width": 6,
        "tolerance": 0.02,
        "search_iter": 7,
        "dhp.cost_exponent": 0.5,
    }
    changes = [f"compress.{key}={value}" for key, value in given.items()]
    options = load_options(QUICKSTART, [*changes, "compress.target.macs=0.4", "manual_seed=11"])
    network = task_of(options).build_network(options)
    settings = start_search(convert_network(network, options, CPU), options).settings
    assert settings.budget == Budget.from_target(
        "macs", 0.4, tolerance=0.02, round_to=4, min_width=6
    )
    assert settings.iterations == 7
    assert settings.seed == 11
    assert settings.method_options["cost_exponent"] == 0.5
    assert settings.preset == "default"


class Scaled(nn.Module):
    """Multiplies by the number of a layer's channels, which a trace does not see."""

    in_channels = 3

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.inner = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        return self.last(self.inner(self.first(x)) * self.inner.in_channels**-0.5)


def test_a_network_whose_cut_computes_something_else_is_refused_before_training():
    """Either the channels that the number counts are excluded, or the network is not trained."""
    changes = ["compress.round_to=2", "compress.min_width=2", "compress.tolerance=0.2"]
    context = DistributedContext(CPU)
    network = Scaled()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(CutError, match=r"compress\.exclude"):
        dry_run(network, load_options(QUICKSTART, changes), context)
    dry_run(network, load_options(QUICKSTART, [*changes, "compress.exclude=[first]"]), context)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_dry_run_draws_no_random_numbers(make_options):
    options = make_options(compress={"preset": "paper", "parametrization": "full"})
    network = task_of(options).build_network(options)
    before = torch.get_rng_state()
    dry_run(network, options, DistributedContext(CPU))
    assert torch.equal(torch.get_rng_state(), before)


class RunTwice(nn.Conv2d):
    """A layer whose entry counts a single pass, while it computes two."""

    def forward(self, x):
        return super().forward(x) + super().forward(x)


def test_a_wrong_count_of_multiply_adds_is_refused_before_training(registry_restored):
    """Where the plan and the running network disagree, a budget would be met on paper only."""
    entry = spec_of_module(nn.Conv2d(1, 1, 1))
    register_op(RunTwice, channels=entry.channels, macs=entry.macs, resize=entry.resize)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), RunTwice(16, 3, 3))
    hyper = convert(network, torch.rand(1, 3, 16, 16))
    with pytest.raises(UserError) as caught:
        check_counters(network, hyper)
    planned = hyper.dense_cost().macs
    counted = complexity(network, (1, 3, 16, 16)).macs
    assert counted > planned
    assert f"{planned:,}" in str(caught.value) and f"{counted:,}" in str(caught.value)
    twice = replace(entry.macs, positions=lambda op: 2 * entry.macs.positions(op))
    register_op(RunTwice, channels=entry.channels, macs=twice, resize=entry.resize)
    check_counters(network, convert(network, torch.rand(1, 3, 16, 16)))
