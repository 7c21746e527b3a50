"""Weights of dense networks from elsewhere: other projects' .pth files, plain safetensors."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dhp_sr.deploy.inert_pickle import StandIn, read_inert
from dhp_sr.deploy.pickle_check import check_extent, check_pickle, refusal
from dhp_sr.deploy.safetensors_io import (
    ModelFileError,
    looks_like_safetensors,
    open_tensors,
    read_tensors,
)
from dhp_sr.deploy.wrappings import (
    WRAPPER_KEYS,
    Reading,
    check_finite,
    first_names,
    match_keys,
    unwrap_dictionaries,
)
from dhp_sr.utils.modules import load_values

_DATA_PARALLEL_PREFIX = "module."

KEY_MAPS: dict[str, tuple[tuple[str, str], ...]] = {}
"""Architecture -> (pattern, replacement) for the keys of other projects' checkpoints.

Networks whose layers have the names of the project that publishes their checkpoints need no row:
EDSR has BasicSR's names, DnCNN has KAIR's, ResNet has akamaster's.
"""

_OPTIONAL_KEYS = re.compile(r"(^|\.)(num_batches_tracked|shortcut\.(before|after))$")
"""Keys that other files need not have: counters that old versions of torch omitted, and constants
of ours."""


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights without running code from it.

    Args:
        path: Safetensors, or a .pth / .pt / .th of `torch.save`: tensors, with other things beside
            them, or a whole network, of which the tensors are read. Weights inside dictionaries
            (`params_ema`, `state_dict`, ...) are unwrapped, and the prefix `module.` is removed;
            `load_into` takes others away.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        ModelFileError: There is no such file, it is damaged, names what runs code, or no weights.
    """
    path = Path(path)
    # A missing file goes this way, too, for the message.
    if not path.is_file() or looks_like_safetensors(path):
        with open_tensors(path) as file:
            return _without_data_parallel(read_tensors(file))
    try:
        has_objects = check_pickle(path)
        return _without_data_parallel(unwrap_checkpoint(unpickle(path, has_objects)))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _without_data_parallel(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    # Only where every key has it: a network may have a layer called `module`.
    if all(key.startswith(_DATA_PARALLEL_PREFIX) for key in weights):
        return {key.removeprefix(_DATA_PARALLEL_PREFIX): value for key, value in weights.items()}
    return weights


def load_into(
    network: nn.Module, weights: Mapping[str, Tensor], strict: bool = True
) -> tuple[str, ...]:
    """Copy weights into a network, below whatever prefix they are in the file.

    Keys of known other projects are renamed. Where a prefix is shared by a part of the keys alone,
    a warning says which were taken.

    Args:
        network: Changed in place, unless an error is raised.
        weights: Tensors by key, as from `load_weights`.
        strict: Refuse a missing, unexpected or wrong-shape key; otherwise load what fits.

    Returns:
        A line for each omitted key; empty when all were loaded.

    Raises:
        ModelFileError: The keys do not fit and `strict` is set, or none of them fits; weights below
            several prefixes fit; or weights are no numbers.
    """
    expected = network.state_dict()
    reading = reading_for(network, weights)
    if reading.num_others:
        warnings.warn(f"{type(network).__name__}: {reading.note}", stacklevel=2)
    weights = reading.weights
    fitting = {}
    for key, tensor in weights.items():
        if key in expected and expected[key].shape == tensor.shape:
            fitting[key] = tensor
    omitted = _differences(expected, weights)
    # Not strict still means something fits: a file of another network would change nothing.
    if omitted and (strict or not fitting):
        raise _misfit(network, omitted, weights)
    check_finite(fitting)
    load_values(network, fitting, strict=False)
    return omitted


def check_fit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compare keys and shapes alone; the network may be on the meta device.

    Raises:
        ModelFileError: `load_into` would refuse the weights.
    """
    reading = reading_for(network, weights)
    differences = _differences(network.state_dict(), reading.weights)
    if differences:
        raise _misfit(network, differences, reading.weights)


def reading_for(network: nn.Module, weights: Mapping[str, Tensor]) -> Reading:
    """Return the weights of a network in a file, below whatever prefix they are.

    Raises:
        ModelFileError: Weights below several prefixes fit.
    """
    key_map = KEY_MAPS.get(type(network).__name__, ())
    renamed = {}
    for key, tensor in weights.items():
        for pattern, replacement in key_map:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return match_keys(network.state_dict().keys(), renamed, _OPTIONAL_KEYS)


def _differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    missing = []
    wrong_shape = []
    for key, tensor in expected.items():
        if key not in weights:
            if not _OPTIONAL_KEYS.search(key):
                missing.append(f"missing: {key}")
        elif weights[key].shape != tensor.shape:
            wrong_shape.append(
                f"wrong shape: {key}: expected {tuple(tensor.shape)}, "
                f"got {tuple(weights[key].shape)}"
            )
    unexpected = [f"unexpected: {key}" for key in weights if key not in expected]
    return (*missing, *unexpected, *wrong_shape)


def _misfit(
    network: nn.Module, differences: Sequence[str], weights: Mapping[str, Tensor]
) -> ModelFileError:
    listing = "\n  ".join(differences)
    text = f"the weights do not fit {type(network).__name__}:\n  {listing}"
    expected = first_names(network.state_dict())
    found = first_names(weights)
    if not set(expected) & set(found):
        text += f"\n  the keys begin with {', '.join(found[:4])}"
        text += f", expected {', '.join(expected[:4])}"
    return ModelFileError(text)


def unpickle(path: Path, has_objects: bool) -> object:
    """Load a file of `torch.save`.

    Args:
        path: The file.
        has_objects: What `check_pickle` has said of it.

    Raises:
        ModelFileError: It is damaged, or names what runs code.
    """
    try:
        if has_objects:
            return read_inert(path)
        # An open file: given a name, torch lets the suffix decide what the file is.
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Only the refused name: torch's message goes on to advise an unsafe load.
        match = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+)", str(error))
        refused = "unknown content" if match is None else match.group(1) or match.group(2)
        raise ModelFileError(refusal(refused)) from None
    except ModelFileError:
        raise
    except Exception as error:
        # torch raises all kinds of exceptions for files of other formats.
        reason = f"{type(error).__name__}: {str(error).split('.')[0]}"
        if "TorchScript" in str(error):
            reason = "TorchScript"
        raise ModelFileError(
            f"expected a file of weights, got another kind of file or a truncated file ({reason})"
        ) from None


def unwrap_checkpoint(content: object) -> dict[str, Tensor]:
    """Return the state dict inside the content of a checkpoint."""
    content = unwrap_dictionaries(content)
    if not isinstance(content, Mapping):
        name = content.name if isinstance(content, StandIn) else type(content).__name__
        raise ModelFileError(f"expected a dictionary of tensors, got {name[:99]!r}")
    if not content:
        raise ModelFileError("expected a dictionary of tensors, got one without any")
    others = []
    weights = {}
    has_tensors = any(torch.is_tensor(value) for value in content.values())
    for key, value in content.items():
        # Numbers are among the weights of some networks, such as the mode of Real-CUGAN.
        if has_tensors and isinstance(value, bool | int | float):
            value = torch.tensor(value)
        weights[key] = value
        if not isinstance(key, str) or not torch.is_tensor(value):
            others.append(str(key))
    if others:
        raise ModelFileError(
            "expected a tensor under every key (or under those of "
            f"{', '.join(WRAPPER_KEYS)}), got something else at {', '.join(others[:9])}"
        )
    for key, tensor in weights.items():
        check_extent(key, tensor)
    return weights
