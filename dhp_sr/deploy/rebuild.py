"""A network made again from its description and the shapes of its tensors, without memory for weights.

The file is not trusted: the layers are made on the meta device and counted, and everything that does not fit is found
before a single weight is read.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dhp_sr.archs import build
from dhp_sr.structure.resize import resize
from dhp_sr.utils.errors import UserError

from .container import ModelFileError
from .manifest import DERIVED, LARGEST, check_counts, describe

_SMALLEST_SIDE = 16
_MOST_VALUES = 2**26


def rebuild(manifest: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Make the network that `manifest` describes, with tensors of the given shapes.

    Args:
        manifest: checked by `manifest.unpack`.
        shapes: of every tensor of the network's state dict.

    Returns:
        The network in eval mode. Its weights are on the meta device; constants that are not part of a file are real.

    Raises:
        ModelFileError: description and shapes do not make one working network; the message lists every key.
    """
    if len(shapes) > LARGEST:
        raise ModelFileError(f"expected at most {LARGEST} tensors, found {len(shapes)}")
    check_counts(manifest["arguments"], len(shapes))
    network = _build(manifest, len(shapes)).eval()
    _fit(network, shapes)
    _check_description(network, manifest)
    _check_forward(network)
    return network


class _MetaWeights(TorchFunctionMode):
    """Puts the weights of layers made inside (by `torch.empty`) on the meta device; too many are an error."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left, self.values_left = most, _MOST_VALUES

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            self.left -= 1
            kwargs["device"] = "meta"
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.values_left -= result.numel()
        if self.left < 0 or self.values_left < 0:
            raise ModelFileError("manifest: the arguments describe a larger network than the file holds")
        return result


def _build(manifest: Mapping[str, Any], tensors: int) -> nn.Module:
    try:
        with _MetaWeights(2 * tensors + 16):
            return build(manifest["architecture"], **manifest["arguments"])
    except ModelFileError:
        raise
    except Exception as error:  # whatever a constructor raises, the file's arguments are the reason
        raise ModelFileError(f"manifest: {str(error)[:500]}") from error


def _fit(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    own = network.state_dict()
    missing, unexpected = [key for key in own if key not in shapes], [key for key in shapes if key not in own]
    lines = [*_listing("missing", missing), *_listing("unexpected", unexpected)]
    try:
        resize(network, {key: shape for key, shape in shapes.items() if key in own})
    except UserError as error:
        lines += ["wrong shape: " + line.strip() for line in str(error).splitlines()[1:]]
    if lines:
        described = f"{type(network).__name__}({_call(network.arguments)})"
        raise ModelFileError(f"the tensors are not those of {described}:\n  " + "\n  ".join(lines))


def _check_description(network: nn.Module, manifest: Mapping[str, Any]) -> None:
    rebuilt = describe(network)
    for key in DERIVED:
        if key not in ("arguments", "widths") and manifest[key] != rebuilt[key]:
            raise ModelFileError(f"manifest: {key} is {manifest[key]!r}, but the tensors make it {rebuilt[key]!r}")
    for name in {**rebuilt["widths"], **manifest["widths"]}:
        stated, actual = manifest["widths"].get(name), rebuilt["widths"].get(name)
        if stated != actual:
            raise ModelFileError(f"manifest: width of {name} is {stated!r}, but the tensors make it {actual!r}")


def _check_forward(network: nn.Module) -> None:
    """Pass shapes through the network: layers that do not fit each other show here, at no cost."""
    side = network.size_multiple * -(-_SMALLEST_SIDE // network.size_multiple)
    picture = torch.empty(1, network.in_channels, side, side, device="meta")
    try:
        with torch.no_grad():
            result = copy.deepcopy(network).to("meta")(picture)
    except Exception as error:  # shapes from a file: any failure means that they do not fit
        raise ModelFileError(f"the layers' widths do not fit each other: {str(error)[:500]}") from error
    expected = (side * network.scale, side * network.scale)
    found = tuple(result.shape[-2:])
    if found != expected:
        raise ModelFileError(f"expected an output of {expected} for a {side}x{side} input, found {found}")


def _listing(what: str, keys: list[str]) -> list[str]:
    return [f"{what}: {key}" for key in keys[:50]] + ([f"{what}: and {len(keys) - 50} more"] if len(keys) > 50 else [])


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())
