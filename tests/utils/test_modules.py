"""Values without versions, copies of networks."""

import copy

import pytest
import torch
from torch import nn

from dhp_sr.metrics import complexity
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import copy_network, deep_copy, load_values


class Versioned(nn.Linear):
    _version = 3

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *others):
        if local_metadata.get("version") != self._version:
            raise ValueError("an unknown version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_modules_are_told_their_own_version():
    network, other = nn.Sequential(Versioned(2, 2)), nn.Sequential(Versioned(2, 2))
    values = dict(other.state_dict())
    with pytest.raises(ValueError, match="an unknown version"):
        network.load_state_dict(values)
    load_values(network, values)
    assert torch.equal(network[0].weight, other[0].weight)


class WithState(nn.Module):
    """Has what modules may have besides layers: lists, shared layers, a way back, buffers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.again = self.first
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.first.weight
        self.sizes, self.plain = [1, [2]], torch.ones(2)
        self.layers = [self.first]
        self.register_buffer("unsaved", torch.zeros(2), persistent=False)
        self.second.owner = self.sizes
        self.second.register_forward_hook(_double)
        self.compiled = None

    def forward(self, x):
        self.sizes[1].append(3)
        return self.tied(self.second(self.again(x))) + self.plain + self.unsaved


def _double(module, inputs, output):
    return 2 * output


class OwnWay(nn.Linear):
    def __deepcopy__(self, memo):
        return OwnWay(1, 1)


class Restored(nn.Linear):
    def __setstate__(self, state):
        super().__setstate__(state)
        self.is_restored = True


def test_a_deep_copy_is_that_of_python():
    network = WithState().eval()
    ours, pythons = deep_copy(network), copy.deepcopy(network)
    x = torch.rand(3, 2)
    expected = network(x)
    assert torch.equal(ours(x), expected)
    assert list(ours.state_dict()) == list(pythons.state_dict())
    assert [name for name, _ in ours.named_modules()] == [n for n, _ in pythons.named_modules()]
    assert vars(ours).keys() == vars(pythons).keys()
    assert ours.again is ours.first is ours.layers[0] and ours.tied.weight is ours.first.weight
    assert ours.second.owner is ours.sizes and ours.sizes == [1, [2, 3]]
    tensors = {id(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    assert not tensors & {id(tensor) for tensor in [*ours.parameters(), *ours.buffers()]}
    assert ours.plain is not network.plain and not ours.training


def test_classes_with_a_way_of_their_own_are_copied_in_that_way():
    copied = deep_copy(nn.Sequential(OwnWay(3, 3), Restored(2, 2)))
    assert copied[0].in_features == 1 and copied[1].is_restored


class KeepsFeatures(nn.Module):
    """Leaves what it computes on itself, as networks with feature losses do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        self.feature = self.layer(x)
        self.features = [self.feature, {"inner": (self.feature * 2,)}]
        return self.feature + 1


def test_features_of_a_step_are_copied_without_their_history():
    network = KeepsFeatures()
    network(torch.ones(1, 3, 4, 4)).sum().backward()
    copied = deep_copy(network)
    assert torch.equal(copied.feature, network.feature) and copied.feature.is_leaf
    assert copied.features[0] is copied.feature and network.feature.grad_fn is not None
    assert copied.features[1]["inner"][0].is_leaf
    assert torch.equal(copied.layer.weight, network.layer.weight)
    assert complexity(network, (1, 3, 4, 4)).macs == 9 * 16


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_not_taken_for_features():
    with pytest.raises(UserError, match="remove_weight_norm"):
        copy_network(nn.Sequential(nn.utils.weight_norm(nn.Conv2d(1, 1, 1))))
