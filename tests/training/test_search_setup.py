"""From the option file to the search."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dhp_sr.allocation.budget import Budget
from dhp_sr.config import load_options
from dhp_sr.surgery.cut import CutError
from dhp_sr.tasks.registry import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.search_setup import begin_search, convert_plain, rehearse

QUICKSTART = Path(__file__).parents[2] / "options" / "quickstart.yml"


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
    settings = begin_search(
        convert_plain(
            task_of(options).build_network(options),
            options,
            DistributedContext(torch.device("cpu")),
        ),
        options,
    ).settings
    assert settings.budget == Budget.from_target(
        "macs", 0.4, tolerance=0.02, round_to=4, min_width=6
    )
    assert (settings.iterations, settings.seed, settings.method_options["cost_exponent"]) == (
        7,
        11,
        0.5,
    )
    assert settings.preset == "default"


class Scaled(nn.Module):
    """The layer's number of channels, which a trace does not see."""

    in_channels = 3

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = (
            nn.Conv2d(*ends, 1) for ends in ((3, 16), (16, 16), (16, 3))
        )

    def forward(self, x):
        return self.last(self.inner(self.first(x)) * self.inner.in_channels**-0.5)


def test_a_network_whose_cut_computes_something_else_is_refused_before_training():
    """The channels that the number speaks of are excluded, or the network is not trained."""
    changes = ["compress.round_to=2", "compress.min_width=2", "compress.tolerance=0.2"]
    options, cpu = load_options(QUICKSTART, changes), DistributedContext(torch.device("cpu"))
    network = Scaled()
    before, state = (
        {name: one.clone() for name, one in network.state_dict().items()},
        torch.get_rng_state(),
    )
    with pytest.raises(
        CutError, match=r"differs from the masked one .*`conv.out_channels`.*`compress.exclude`"
    ):
        rehearse(network, options, cpu)
    rehearse(network, load_options(QUICKSTART, [*changes, "compress.exclude=[first]"]), cpu)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
