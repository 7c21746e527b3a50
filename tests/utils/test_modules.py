"""Values without versions."""

import pytest
import torch
from torch import nn

from dhp_sr.utils.modules import load_values


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
