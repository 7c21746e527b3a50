"""What a model file says about its network, and the checks of what others' files say.

The manifest is JSON in the header of the file. Its first part is derived from the network, and compared with the
rebuilt network when a file is loaded; the second part holds facts: scores, multiply-adds, the parent's name, ...
"""

import json
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr import __version__
from dhp_sr.archs import ARCHS
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.deploy.strict_json import FORMAT, check_version, read_json
from dhp_sr.deploy.third_party import CLASSIFICATION, Origin, origin_of
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

FORMAT_VERSION = 1
LARGEST_SIDE = 1024
LARGEST = 65536
"""Bound of every number among a file's arguments: no useful network is wider, no hostile file gets more."""

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
"""Keys that every manifest has, and their types. `value_range` is that of images before any normalization."""

CLASSIFIER: dict[str, type] = {"input_size": int}
"""Keys that a classifier's manifest has beside them: the side in pixels that its images are meant to have."""

FACTS: dict[str, Any] = {
    "macs": None,
    "macs_input": None,
    "scores": {},
    "parent": None,
    "licence": None,
}
"""Facts that every manifest has, and what stands there where they are not known."""

_LAYER_COUNTS = ("num_block", "num_layer", "num_level", "num_group", "num_conv")
"""Beginnings of the names of arguments that say how often something is repeated."""


def describe(network: nn.Module) -> dict[str, Any]:
    """Return the derived part of the manifest of a network of `archs`, or of one with an origin, on any device."""
    source = origin_of(network) or network
    described = {
        "architecture": source.name if isinstance(source, Origin) else type(network).__name__,
        "arguments": _listed(source.arguments),
        "task": source.task,
        "scale": source.scale,
        "in_channels": source.in_channels,
        "colour": colour_of(source.in_channels),
        "value_range": [0, 1],
        "size_multiple": source.size_multiple,
        "params": sum(parameter.numel() for parameter in network.parameters()),
        "widths": layer_widths(network),
    }
    if source.task == CLASSIFICATION:
        described["input_size"] = (
            source.smallest_side if isinstance(source, Origin) else source.input_size
        )
    return described


def colour_of(channels: int) -> str:
    """Return what the channels of an image are: `grey`, `RGB` or `other`."""
    return {1: "grey", 3: "RGB"}.get(channels, "other")


def derived(manifest: Mapping[str, Any]) -> dict[str, type]:
    """Return the keys that a manifest must have, and their types: a classifier's has some of its own."""
    return {**DERIVED, **CLASSIFIER} if manifest.get("task") == CLASSIFICATION else DERIVED


def _listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON gives them back: lists for tuples."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
    }


def origin(manifest: Mapping[str, Any]) -> Origin | None:
    """Return the origin that a checked manifest states; None for a network of `archs`."""
    if manifest["architecture"] in ARCHS:
        return None
    side = manifest.get("smallest_side", Origin.smallest_side)
    if not isinstance(side, int) or not 1 <= side <= LARGEST_SIDE:
        raise ModelFileError(
            f"manifest: expected smallest_side from 1 to {LARGEST_SIDE}, found {_short(side)}"
        )
    given = {
        key: manifest[key] for key in ("arguments", "task", "scale", "in_channels", "size_multiple")
    }
    return Origin(manifest["architecture"], smallest_side=side, **given)


def layer_widths(network: nn.Module) -> dict[str, list[int]]:
    """Return [channels out, channels in] of every convolution and linear layer, by name, from the weights' shapes."""
    widths = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _ConvTransposeNd):
            widths[name] = [layer.weight.shape[1] * layer.groups, layer.weight.shape[0]]
        elif isinstance(layer, _ConvNd):
            widths[name] = [layer.weight.shape[0], layer.weight.shape[1] * layer.groups]
        elif isinstance(layer, nn.Linear):
            widths[name] = [layer.weight.shape[0], layer.weight.shape[1]]
    return widths


def pack(network: nn.Module, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of the file that will hold `network`: format, version, and the manifest as JSON.

    Raises:
        UserError: a fact cannot be written as JSON, has the name of a derived key, or is MACs without the input's size.
    """
    taken = sorted(
        set(facts)
        & {*DERIVED, *CLASSIFIER, "forward", "smallest_side", "tool_version", "torch_version"}
    )
    if taken:
        raise UserError(
            f"{', '.join(taken)}: read from the network itself, cannot be given as a fact"
        )
    if (facts.get("macs") is None) != (facts.get("macs_input") is None):
        raise UserError(
            "expected macs and macs_input (the input's shape) together, found only one of them"
        )
    versions = {"tool_version": __version__, "torch_version": str(torch.__version__)}
    manifest = {
        **describe(network),
        **_forward(network),
        **FACTS,
        **{key: _plain(value, key) for key, value in facts.items()},
        **versions,
    }
    text = json.dumps(manifest, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return {"format": FORMAT, "format_version": str(FORMAT_VERSION), "manifest": text}


def _forward(network: nn.Module) -> dict[str, Any]:
    """Return what rebuilds a network beyond its class and arguments."""
    found, source = {}, origin_of(network)
    if source is not None:
        found["smallest_side"] = source.smallest_side
    if isinstance(network, RewrittenNetwork):
        found["forward"] = {
            "stated": list(network.stated),
            "example_shape": list(network.example_shape),
        }
    return found


def unpack(found: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the manifest held in a file's metadata, checked in type and range.

    Raises:
        ModelFileError: the file is not ours, is of a newer format, or its manifest is not well formed.
    """
    if not found or found.get("format") != FORMAT:
        raise ModelFileError(
            "a safetensors file without dhp_sr's description of the network. If it holds weights for a dense network, "
            "give it as path.pretrain_network_g, or make it a model by export.py --arch NAME; a pruned model "
            "must be saved by dhp_sr"
        )
    _check_version(found.get("format_version", ""))
    manifest = _parse(found.get("manifest", ""))
    for key, kind in derived(manifest).items():
        if not isinstance(manifest.get(key), kind) or isinstance(manifest[key], bool):
            raise ModelFileError(
                f"manifest: expected {key} of type {kind.__name__}, found {_short(manifest.get(key))}"
            )
    name = manifest["architecture"]
    if (
        name not in ARCHS and ":" not in name
    ):  # of other packages' networks, `rebuild` knows the builders
        raise ModelFileError(
            f"manifest: architecture {_short(name)} is unknown{nearest(name[:99], ARCHS)}; known: {', '.join(ARCHS)}"
        )
    for name, value in manifest["arguments"].items():
        _check_argument(name, value)
    return manifest


def check_counts(arguments: Mapping[str, Any], tensors: int) -> None:
    """Check that no argument asks for more layers than a file with so many `tensors` can hold, before any is made.

    Raises:
        ModelFileError: one does.
    """
    for name, value in arguments.items():
        if name.startswith(_LAYER_COUNTS) and isinstance(value, int) and value > tensors:
            raise ModelFileError(
                f"manifest: {name}={value} asks for more layers than the file's {tensors} tensors"
            )


def _check_version(text: str) -> None:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ModelFileError(f"expected a format version, found {_short(text)}")
    check_version(int(text), FORMAT_VERSION)


def _parse(text: str) -> dict[str, Any]:
    manifest = read_json(text, "manifest")
    if not isinstance(manifest, dict):
        raise ModelFileError(f"manifest: expected a JSON object, found {_short(manifest)}")
    return manifest


def _check_argument(name: str, value: Any, depth: int = 0) -> None:
    if isinstance(value, list) and len(value) <= 64 and depth < 2:
        for element in value:
            _check_argument(name, element, depth + 1)
    elif not _is_plain_argument(value):
        raise ModelFileError(
            f"manifest: argument {_short(name)}: expected a number up to {LARGEST} (integers from 0), a short text or "
            f"a short list, found {_short(value)}"
        )


def _is_plain_argument(value: Any) -> bool:
    if isinstance(value, int):  # False and True are 0 and 1
        return 0 <= value <= LARGEST
    if isinstance(value, float):
        return abs(value) <= LARGEST
    return value is None or (isinstance(value, str) and len(value) <= 256)


def _plain(value: Any, key: str) -> Any:
    """Turn a fact into what JSON holds; numpy's numbers and paths included.

    Raises:
        UserError: it cannot be, or it is not finite.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(part, f"{key}.{name}") for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, f"{key}[{index}]") for index, part in enumerate(value)]
    raise UserError(
        f"{key}: expected what JSON can hold (text, finite number, list, dict), found {_short(value)}"
    )


def _short(value: Any) -> str:
    text = (
        repr(value)
        if not isinstance(value, int)
        else str(value)
        if abs(value) < 10**30
        else "a huge integer"
    )
    return text if len(text) <= 80 else text[:77] + "..."
