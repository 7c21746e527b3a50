import pytest
import torch
from torch import nn

from dhp_sr.config.schema import OptimizerSettings
from dhp_sr.training.checkpoint import pack, unpack
from dhp_sr.training.optimizers import (
    Muon,
    build_optimizer,
    load_optimizer,
    named_state,
    slice_state,
    transfer_state,
)


def stepped(network, optimizer_class=torch.optim.Adam, **settings):
    optimizer = optimizer_class(network.parameters(), **settings)
    network(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("settings", "expected", "momentum"),
    [
        ({"type": "SGD"}, torch.optim.SGD, 0.9),
        ({"type": "SGD", "momentum": 0.5}, torch.optim.SGD, 0.5),
        ({"type": "Muon"}, Muon, 0.95),
        ({"type": "Muon", "momentum": 0.5}, Muon, 0.5),
        ({"type": "AdamW"}, torch.optim.AdamW, None),
        ({"type": "Adam"}, torch.optim.Adam, None),
    ],
)
def test_settings_of_every_optimizer(settings, expected, momentum):
    optimizer = build_optimizer(
        OptimizerSettings(lr=0.1, weight_decay=0.01, **settings), [nn.Parameter(torch.zeros(1))]
    )
    assert type(optimizer) is expected
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group.get("momentum")) == (0.1, 0.01, momentum)


def test_a_loaded_state_takes_the_layout_of_its_weights():
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = stepped(network)
    saved = unpack(*pack(optimizer.state_dict()))
    other = torch.optim.Adam(network.parameters())
    load_optimizer(other, saved)
    moment = other.state[network.weight]["exp_avg"]
    assert moment.stride() == network.weight.stride()
    assert torch.equal(moment, optimizer.state[network.weight]["exp_avg"])


def test_state_goes_to_parameters_of_the_same_name_and_shape():
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3))
    state = named_state(stepped(source), source)
    wider = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    optimizer = torch.optim.Adam(wider.parameters())
    transfer_state(state, optimizer, wider)
    assert torch.equal(optimizer.state[wider[0].weight]["exp_avg"], state["0.weight"]["exp_avg"])
    assert wider[1].weight not in optimizer.state


def test_state_of_parameters_that_are_not_optimized_is_dropped():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3))
    state = named_state(stepped(network), network)
    optimizer = torch.optim.Adam(network[0].parameters())
    transfer_state(state, optimizer, network)
    assert set(optimizer.state) == {network[0].weight, network[0].bias}


def test_a_sliced_state_covers_the_kept_entries():
    network = nn.Conv2d(3, 4, 3)
    state = named_state(stepped(network), network)
    kept = {("weight", 0): torch.tensor([1, 3]), ("bias", 0): torch.tensor([1, 3])}
    sliced = slice_state(state, network, kept)
    assert torch.equal(sliced["weight"]["exp_avg"], state["weight"]["exp_avg"][[1, 3]])
    assert torch.equal(sliced["bias"]["exp_avg_sq"], state["bias"]["exp_avg_sq"][[1, 3]])
    assert sliced["weight"]["step"] == state["weight"]["step"] == 1
    sliced["weight"]["step"] += 1
    assert state["weight"]["step"] == 1, "a copy: every target has its own"
