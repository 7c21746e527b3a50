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


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Return, for every name of a parameter or buffer, the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def parameter_names_by_path(network: nn.Module) -> dict[str, str]:
    """Return, for every parameter of every module, each module once, the first name of the same tensor."""
    first = canonical_names(network)
    names = [
        f"{path}.{leaf}" if path else leaf
        for path, module in network.named_modules()
        for leaf in _leaves(module)
    ]
    return {name: first[name] for name in names}


def _leaves(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)]
