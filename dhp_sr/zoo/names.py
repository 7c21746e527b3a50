"""A plain network by its name: one of ours, of BasicSR's registry, or of torchvision's classifiers."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dhp_sr.archs import ARCHS, build
from dhp_sr.basicsr_adapter.shim import build_basicsr_network, prepare_torchvision
from dhp_sr.config.yaml import parse
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest
from dhp_sr.zoo.specs import build_classifier

PACKAGES = ("basicsr", "torchvision")


def full_name(name: str) -> str:
    """Return the name in model files: that of our table, or with the package before it, BasicSR's where none is."""
    if name in ARCHS or ":" in name:
        return name
    return f"basicsr:{name.removesuffix('_basicsr')}"


def build_named(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Construct a network with fresh weights.

    Args:
        name: `EDSR` (our table first, then BasicSR's registry), or one of a package: `basicsr:EDSR`,
            `torchvision:resnet18`.
        arguments: The constructor's.

    Raises:
        UserError: the name is unknown, or the constructor refuses the arguments.
    """
    if name in ARCHS:
        return build(name, **arguments)
    package, _, inner = full_name(name).partition(":")
    if package not in PACKAGES:
        raise UserError(
            f"network {name!r}: expected {' or '.join(PACKAGES)} before the colon{nearest(package, PACKAGES)}"
        )
    if package == "torchvision":
        return _of_torchvision(inner, arguments)
    try:
        return _of_basicsr(inner, arguments)
    except UserError as error:
        if ":" not in name and inner in _classifiers():
            raise UserError(
                f"network type {name!r} is unknown (did you mean 'torchvision:{inner}'?)"
            ) from error
        raise


def named_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Return a constructor's arguments from a command line's `key=value`, the value read as YAML.

    Raises:
        UserError: one is not of this form.
    """
    arguments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"expected an argument of the network as key=value, found {text!r}")
        arguments[key], _ = parse(value, key)
    return arguments


def _of_basicsr(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return build_basicsr_network(name, arguments, also_known=ARCHS)
    except ModuleNotFoundError as error:
        ours = f"ours are {', '.join(ARCHS)}{nearest(name, ARCHS)}"
        raise UserError(
            f"network {name!r} is none of ours ({ours}), and BasicSR cannot be asked: {error}"
        ) from error


def _of_torchvision(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    known = _classifiers()
    if name not in known:
        raise UserError(
            f"torchvision has no classifier {name!r}{nearest(name, known)}; see torchvision.models"
        )
    try:
        return build_classifier(name, arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"network torchvision:{name} cannot be built from {dict(arguments)}: {error}"
        ) from error


def _classifiers() -> list[str]:
    prepare_torchvision()
    models = importlib.import_module("torchvision.models")
    return models.list_models(module=models)
