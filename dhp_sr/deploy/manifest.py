"""The manifest: a model file's description of its network, and the checks of other people's files.

It is JSON in the header of the safetensors file. The first half is derived from the network and
compared with the rebuilt network when a file is loaded. The second half holds facts that cannot
be derived: scores, multiply-adds, the parent's name, the license.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dhp_sr import __version__
from dhp_sr.archs import ARCHS
from dhp_sr.deploy.model_info import (
    CLASSIFICATION,
    DEFAULT_SIDE,
    ModelInfo,
    SizeRequirements,
    attached_info,
    stated_info,
)
from dhp_sr.deploy.removed import removed_layers
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.surgery.layer_samples import Layer, num_groups
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.utils.errors import UserError, nearest
from dhp_sr.utils.modules import out_dim
from dhp_sr.utils.strict_json import Json, JsonObject, dump_json, parse_json, to_json

FORMAT = "dhp_sr"
"""Value of the key `format` in our files."""

FORMAT_VERSION = 1
"""Raised only for files that older versions of this program would misread."""

MAX_SIDE = 1024
MAX_NUMBER = 65536
"""Bound of every number among a file's arguments: no useful network is wider, and a hostile file
cannot ask for more."""

# The spelling of these keys is the file format's, and stays.
DERIVED: dict[str, type] = {
    "architecture": str,
    "arguments": dict,
    "task": str,
    "scale": int,
    "in_channels": int,
    "colour": str,
    "value_range": list,
    "size_multiple": int,
    "params": int,
    "widths": dict,
}
"""Keys of every manifest that are read from the network, and their types."""

CLASSIFIER: dict[str, type] = {"input_size": int}
"""Further keys of a classifier: height and width in pixels that it is meant for."""

FACTS: dict[str, Json] = {
    "macs": None,
    "macs_input": None,
    "scores": {},
    "parent": None,
    "licence": None,
}
"""Facts of every manifest, and the value of those that are not known."""

REBUILDING = ("forward", "smallest_side", "removed")
"""Keys that some networks need beyond class and arguments."""


def describe(network: nn.Module) -> JsonObject:
    """Return the derived half of a network's manifest.

    Args:
        network: Network of `dhp_sr.archs`, or with an attached `ModelInfo`; on any device.
    """
    info = stated_info(network)
    # Tuples are written as lists, as JSON returns them, so that both sides compare equal.
    arguments = {}
    for name, value in info.arguments.items():
        arguments[name] = list(value) if isinstance(value, tuple) else value
    described = {
        "architecture": info.architecture,
        "arguments": arguments,
        "task": info.task,
        "scale": info.scale,
        "in_channels": info.in_channels,
        "colour": info.color,
        "value_range": [0, 1],
        "size_multiple": info.sizes.multiple,
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "widths": layer_widths(network),
    }
    if info.task == CLASSIFICATION:
        described["input_size"] = info.input_size
    return described


def derived_keys(manifest: JsonObject) -> dict[str, type]:
    """Return the derived keys that a manifest must have, and their types."""
    if manifest.get("task") == CLASSIFICATION:
        return {**DERIVED, **CLASSIFIER}
    return DERIVED


def layer_widths(network: nn.Module) -> dict[str, list[int]]:
    """Return [output channels, input channels] of every convolution and linear layer, by name."""
    widths = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, Layer):
            continue
        # Shapes rather than attributes, which in a pruned layer may still be those of its class.
        # The second axis holds the channels of a single group.
        first, second = layer.weight.shape[:2]
        channels = [first, second * num_groups(layer)]
        if out_dim(layer) == 1:
            channels.reverse()
        widths[name] = channels
    return widths


def third_party_info(manifest: JsonObject) -> ModelInfo:
    """Return the description that a checked manifest states of a network of another package.

    Raises:
        ModelFileError: `smallest_side` is out of range.
    """
    minimum = manifest.get("smallest_side", DEFAULT_SIDE)
    if not isinstance(minimum, int) or not 1 <= minimum <= MAX_SIDE:
        raise ModelFileError(
            f"manifest: expected smallest_side from 1 to {MAX_SIDE}, got {shorten(minimum)}"
        )
    # `smallest_side` of a classifier is the size that it is meant for.
    classifies = manifest["task"] == CLASSIFICATION
    return ModelInfo(
        architecture=manifest["architecture"],
        arguments=manifest["arguments"],
        task=manifest["task"],
        scale=manifest["scale"],
        in_channels=manifest["in_channels"],
        sizes=SizeRequirements(manifest["size_multiple"], minimum),
        input_size=minimum if classifies else None,
    )


def pack(network: nn.Module, facts: Mapping[str, object]) -> dict[str, str]:
    """Return the header of the file that will hold a network.

    Returns:
        `format`, `format_version` and `manifest`, the manifest as JSON.

    Raises:
        UserError: A fact cannot be written as JSON, has the name of a derived key, or is `macs`
            without the input's shape.
    """
    versions = {"tool_version": __version__, "torch_version": str(torch.__version__)}
    reserved = {*DERIVED, *CLASSIFIER, *REBUILDING, *versions}
    # A fact of such a name would silently replace what was read from the network.
    conflicts = sorted(reserved & set(facts))
    if conflicts:
        raise UserError(
            f"{', '.join(conflicts)}: read from the network itself, cannot be given as a fact"
        )
    # Multiply-adds mean nothing without the size that they were counted for.
    if (facts.get("macs") is None) != (facts.get("macs_input") is None):
        raise UserError(
            "expected macs and macs_input (the input's shape) together, got a single fact"
        )
    manifest = {
        **describe(network),
        **_rebuilding_keys(network),
        **FACTS,
        **{key: to_json(value, key) for key, value in facts.items()},
        **versions,
    }
    return {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "manifest": dump_json(manifest),
    }


def _rebuilding_keys(network: nn.Module) -> dict[str, Json]:
    keys: dict[str, Json] = {}
    info = attached_info(network)
    if info is not None and info.package != "dhp_sr":
        keys["smallest_side"] = info.sizes.minimum
    removed = removed_layers(network)
    if removed:
        keys["removed"] = removed
    # The class's forward states sizes that no longer hold; the patched numbers go into the file,
    # never code: whoever loads it traces the class again and patches the same arguments.
    if isinstance(network, RewrittenNetwork):
        keys["forward"] = {
            "stated": list(network.sizes.values()),
            "numbers": list(network.sizes),
            "example_shape": list(network.example_shape),
        }
    return keys


def unpack(header: Mapping[str, str] | None) -> JsonObject:
    """Return the manifest in a file's header, with types and ranges checked.

    Raises:
        ModelFileError: The file is not ours, of a newer format, or its manifest is malformed.
    """
    if not header or header.get("format") != FORMAT:
        raise ModelFileError(
            "a safetensors file without dhp_sr's description of the network. If it holds weights "
            "for a dense network, give it as path.pretrain_network_g, or make it a model by "
            "export.py --arch NAME; a pruned model must be saved by dhp_sr"
        )
    version = header.get("format_version", "")
    # int() alone would accept "1_0", Unicode digits, and take minutes for a million of them.
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise ModelFileError(f"expected a format version, got {shorten(version)}")
    check_version(int(version), FORMAT_VERSION)
    manifest = read_json(header.get("manifest", ""), "manifest")
    if not isinstance(manifest, dict):
        raise ModelFileError(f"manifest: expected a JSON object, got {shorten(manifest)}")
    for key, kind in derived_keys(manifest).items():
        value = manifest.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ModelFileError(
                f"manifest: expected {key} of type {kind.__name__}, got {shorten(value)}"
            )
    # Names of other packages are checked by `rebuild`, which knows the constructors.
    name = manifest["architecture"]
    if name not in ARCHS and ":" not in name:
        raise ModelFileError(
            f"manifest: architecture {shorten(name)} is unknown{nearest(name[:99], ARCHS)}; "
            f"known: {', '.join(ARCHS)}"
        )
    for argument, value in manifest["arguments"].items():
        _check_argument(argument, value)
    return manifest


def _check_argument(name: str, value: Json, depth: int = 0) -> None:
    # bool passes as int: False and True are 0 and 1, and constructors take them.
    if isinstance(value, list) and len(value) <= 64 and depth < 2:
        for element in value:
            _check_argument(name, element, depth + 1)
        return
    if isinstance(value, int):
        valid = 0 <= value <= MAX_NUMBER
    elif isinstance(value, float):
        valid = abs(value) <= MAX_NUMBER
    elif isinstance(value, str):
        valid = len(value) <= 256
    else:
        valid = value is None
    if not valid:
        raise ModelFileError(
            f"manifest: argument {shorten(name)}: expected a number up to {MAX_NUMBER} "
            f"(integers from 0), a short text or a short list, got {shorten(value)}"
        )


def read_json(text: str | bytes, where: str) -> Any:
    """Parse strict JSON from a file.

    Raises:
        ModelFileError: It is not JSON; the message names `where`.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise ModelFileError(f"{where}: not valid JSON ({error})") from None


def check_version(version: int, newest: int) -> None:
    """Refuse a file whose format is newer than this program.

    Raises:
        ModelFileError: `version` is above `newest`.
    """
    if version > newest:
        raise ModelFileError(
            f"written in format version {version}, this dhp_sr reads up to {newest}; "
            "install a newer dhp_sr"
        )


def shorten(value: object) -> str:
    """Return a value's text for a message, of at most 80 characters."""
    # The digits of a hostile integer take quadratic time to print.
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
