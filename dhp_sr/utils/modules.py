"""Modules and their values."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def load_values(network: nn.Module, values: Mapping[str, Tensor], **how: Any) -> None:
    """Load values that were kept without the versions of their modules, which are those of the network's own modules.

    Some modules, such as torchvision's MNASNet, refuse values without a version or take them for older ones.

    Args:
        network: changed in place.
        values: tensors by key.
        how: arguments of `torch.nn.Module.load_state_dict`.
    """
    state = OrderedDict(values)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, **how)
