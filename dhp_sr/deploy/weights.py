"""Weights of dense networks that come from elsewhere: other projects' .pth files, plain safetensors."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhp_sr.deploy.pickle_check import check_extent, check_pickle
from dhp_sr.deploy.safetensors_io import (
    ModelFileError,
    looks_like_safetensors,
    open_tensors,
    read_tensors,
)
from dhp_sr.utils.modules import load_values

_WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which training programs put the weights, the best one first (BasicSR; many others)."""

_DATA_PARALLEL = "module."

KEY_MAPS: dict[str, tuple[tuple[str, str], ...]] = {}
"""Architecture -> (pattern, replacement) for the keys of other projects' checkpoints.

Networks whose layers bear the names of the project that publishes their checkpoints need no row: EDSR has BasicSR's
names, DnCNN has KAIR's, ResNet has akamaster's.
"""

_OWN_CONSTANTS = re.compile(r"(^|\.)(num_batches_tracked|shortcut\.(before|after))$")
"""Keys that others' files need not have: counters that old versions of torch left out, and constants of ours."""


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of weights without running code from it.

    Args:
        path: safetensors, or a .pth / .pt / .th of `torch.save` that holds tensors only. Weights under `params_ema`,
            `params` or `state_dict` are found, and the prefix `module.` is taken off.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        ModelFileError: no such file, damaged, with code or objects in it, or without weights.
    """
    path = Path(path)
    if not path.is_file() or looks_like_safetensors(path):
        with open_tensors(path) as file:
            return read_tensors(file)
    try:
        check_pickle(path)
        return _weights_in(_unpickle_tensors(path))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def load_into(
    network: nn.Module, weights: Mapping[str, torch.Tensor], strict: bool = True
) -> tuple[str, ...]:
    """Copy `weights` into `network`; keys of known other projects are renamed on the way.

    Args:
        network: changed in place, unless an error is raised.
        weights: tensors by key, as from `load_weights`.
        strict: refuse a missing, unexpected or wrong-shape key; otherwise load what fits.

    Returns:
        One line for each key left out; empty when all were loaded.

    Raises:
        ModelFileError: the keys do not fit and `strict` is set, or none of them does.
    """
    own = network.state_dict()
    weights = _renamed(type(network).__name__, weights)
    fitting = {
        key: tensor
        for key, tensor in weights.items()
        if key in own and own[key].shape == tensor.shape
    }
    left_out = _differences(own, weights)
    if left_out and (strict or not fitting):
        raise _misfit(network, left_out)
    load_values(network, fitting, strict=False)
    return left_out


def check_fit(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Compare keys and shapes alone; the network may be on the meta device.

    Raises:
        ModelFileError: `load_into` would refuse the weights.
    """
    left_out = _differences(network.state_dict(), _renamed(type(network).__name__, weights))
    if left_out:
        raise _misfit(network, left_out)


def _misfit(network: nn.Module, lines: Sequence[str]) -> ModelFileError:
    return ModelFileError(
        f"the weights do not fit {type(network).__name__}:\n  " + "\n  ".join(lines)
    )


def _unpickle_tensors(path: Path) -> Any:
    try:
        # a stream: given a name, torch lets the suffix decide what the file is
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore", UserWarning)  # what matters comes as an error
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            "expected tensors only, found a pickle with other things in it, which could run code when loaded: "
            f"{_what_was_found(str(error))}. In the program that wrote it, save `network.state_dict()` alone"
        ) from None
    except Exception as error:  # torch raises all kinds for files of other formats
        reason = (
            "TorchScript"
            if "TorchScript" in str(error)
            else f"{type(error).__name__}: {str(error).split('.')[0]}"
        )
        raise ModelFileError(
            f"expected a file of weights, found one of another kind or cut short ({reason})"
        ) from None


def _what_was_found(advice: str) -> str:
    """Take the finding out of torch's message, most of which is advice to load the file unsafely."""
    found = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", advice)
    return (found.group(1) or found.group(2)) if found else "unknown content"


def _weights_in(content: Any) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelFileError(f"expected a dictionary of tensors, found {type(content).__name__}")
    others = [
        str(key)
        for key, value in content.items()
        if not (isinstance(key, str) and torch.is_tensor(value))
    ]
    if others:
        raise ModelFileError(
            f"expected a tensor under every key (or under those of {', '.join(_WRAPPERS)}), found something else at "
            f"{', '.join(others[:9])}"
        )
    for key, tensor in content.items():
        check_extent(key, tensor)
    strip = all(key.startswith(_DATA_PARALLEL) for key in content)
    return {
        key.removeprefix(_DATA_PARALLEL) if strip else key: tensor
        for key, tensor in content.items()
    }


def _renamed(architecture: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def rename(key: str) -> str:
        for pattern, replacement in KEY_MAPS.get(architecture, ()):
            key = re.sub(pattern, replacement, key)
        return key

    return {rename(key): tensor for key, tensor in weights.items()}


def _differences(
    own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> tuple[str, ...]:
    missing = [
        f"missing: {key}" for key in own if key not in weights and not _OWN_CONSTANTS.search(key)
    ]
    unexpected = [f"unexpected: {key}" for key in weights if key not in own]
    wrong = [
        f"wrong shape: {key}: expected {tuple(own[key].shape)}, found {tuple(weights[key].shape)}"
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    return (*missing, *unexpected, *wrong)
