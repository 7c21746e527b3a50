"""Plain networks by name: of our table, of BasicSR's registry, of torchvision, of spandrel.

No package is imported before a network of it is constructed. A further package is a row in
`PACKAGES`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

from dhp_sr.archs import ARCHS, build
from dhp_sr.basicsr_adapter.shim import build_basicsr_network, prepare_torchvision
from dhp_sr.config.yaml import parse
from dhp_sr.deploy import load_model, register
from dhp_sr.deploy.model_info import CONSTRUCTORS
from dhp_sr.utils.errors import UserError, constructor_error, nearest
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.spandrel_networks import SPANDREL_IN_FILES, build_spandrel
from dhp_sr.zoo.user_class import build_user_class, is_user_class, user_class_name
from dhp_sr.zoo.value_range import adapt_range

BASICSR_IN_FILES = (
    "EDSR",
    "MSRResNet",
    "RCAN",
    "RRDBNet",
    "SRVGGNetCompact",
    "ECBSR",
    "RIDNet",
)
"""Networks of BasicSR that model files may name."""

TORCHVISION_IN_FILES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "mnasnet1_0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg16",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "resnext50_32x4d",
    "convnext_tiny",
)
"""Classifiers of torchvision that model files may name."""

FILE = "file:"
"""Before the path of a model file of ours: its network, of any widths, is the one that is named."""

Builder = Callable[[str, Mapping[str, object]], nn.Module]
"""(name inside the package, constructor's arguments) -> network with fresh weights."""

_DOWNLOADING_ARGUMENTS = ("weights", "pretrained", "weights_backbone")


def build_named(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network with fresh weights.

    Args:
        name: `EDSR` (our table first, then BasicSR's registry), or with a package of `PACKAGES`
            before it: `basicsr:EDSR`, `torchvision:resnet18`; or `file:PATH`, which has weights.
        arguments: The constructor's.

    Raises:
        UserError: The name is unknown, or the constructor refuses the arguments.
    """
    # Our table first: `basicsr:EDSR` means theirs.
    if name in ARCHS:
        return build(name, **arguments)
    if name.startswith(FILE):
        return _build_from_file(Path(name.removeprefix(FILE)), arguments)
    # Before the colon of other names is a package, here it is a path.
    if is_user_class(name):
        return adapt_range(lambda inner: build_user_class(name, inner), arguments)
    # What a program registered for model files, option files may name as well.
    if name in CONSTRUCTORS:
        try:
            return CONSTRUCTORS[name](**arguments)
        except UserError:
            raise
        except Exception as error:
            raise constructor_error(name, arguments, error) from error
    package, _, inner = full_name(name).partition(":")
    if package not in PACKAGES:
        raise UserError(
            f"network {name!r}: expected {' or '.join(PACKAGES)} before the colon"
            f"{nearest(package, PACKAGES)}"
        )
    try:
        return PACKAGES[package](inner, arguments)
    except UserError as error:
        # Without a package, BasicSR was asked; the user may have meant torchvision.
        if ":" not in name and _is_installed("torchvision") and inner in _torchvision_names():
            raise UserError(
                f"network type {name!r} is unknown (did you mean 'torchvision:{inner}'?)"
            ) from error
        raise


def _build_from_file(path: Path, arguments: Mapping[str, object]) -> nn.Module:
    """Load the network of a model file of ours, pruned or not.

    Raises:
        UserError: It cannot be loaded, or there are arguments.
    """
    if arguments:
        raise UserError(
            f"network {FILE}{path}: expected no arguments, which its file holds; got "
            f"{', '.join(arguments)}"
        )
    return load_model(path).float()


def full_name(name: str) -> str:
    """Return a network's name in model files: of our table, or "package:NAME".

    A name of neither form is BasicSR's.
    """
    if is_user_class(name):
        return user_class_name(name)
    if name in ARCHS or ":" in name:
        return name
    # The suffix is that of BasicSR's registry for names that are taken.
    return f"basicsr:{name.removesuffix('_basicsr')}"


def named_arguments(texts: Sequence[str]) -> JsonObject:
    """Return a constructor's arguments from a command line.

    Args:
        texts: `key=value` each, the value in YAML.

    Raises:
        UserError: A text is not of this form.
    """
    arguments: JsonObject = {}
    for text in texts:
        # Only the first "=": a value may hold more of them.
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"expected an argument of the network as key=value, got {text!r}")
        arguments[key], _ = parse(value, key)
    return arguments


def register_known() -> None:
    """Let model files name the networks of both packages; harmless when called again.

    Entry points call it. As a library, `load_model` knows our networks alone: a program
    decides for itself which constructors a file may call.
    """
    register_basicsr()
    register_torchvision()
    register_spandrel()


def register_basicsr() -> None:
    """Let model files name BasicSR's networks, as "basicsr:RCAN"."""
    for name in BASICSR_IN_FILES:
        register(f"basicsr:{name}", _constructor(build_basicsr_network, name))


def register_torchvision() -> None:
    """Let model files name torchvision's classifiers, as "torchvision:resnet50"."""
    for name in TORCHVISION_IN_FILES:
        register(f"torchvision:{name}", _constructor(build_classifier, name))


def register_spandrel() -> None:
    """Let model files name spandrel's networks, as "spandrel:Compact.SRVGGNetCompact"."""
    for name in SPANDREL_IN_FILES:
        register(f"spandrel:{name}", _constructor(build_spandrel, name))


def _constructor(build_network: Builder, name: str) -> Callable[..., nn.Module]:
    """Return a function of keyword arguments, as model files call it."""

    # A function rather than functools.partial: a network may have an argument called `name`.
    def construct(**arguments: object) -> nn.Module:
        return build_network(name, arguments)

    return construct


def build_classifier(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network of `torchvision.models` with fresh weights.

    Raises:
        UserError: torchvision is not installed, the arguments are refused, or one of them asks for
            weights from the internet.
    """
    # A model file chooses these arguments: it must not make this program open a connection.
    downloads = [key for key in _DOWNLOADING_ARGUMENTS if key in arguments]
    if downloads:
        raise UserError(f"{', '.join(downloads)}: would download weights; omit it")
    constructor = getattr(_torchvision_models(), name)
    try:
        return constructor(**arguments)
    except Exception as error:
        raise constructor_error(f"torchvision:{name}", arguments, error) from error


def build_basicsr(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a network of BasicSR's registry.

    Raises:
        UserError: BasicSR is not installed, the name is unknown, or the arguments are refused.
    """
    try:
        # Suggestions include our names: the user may not know whose network it is.
        return build_basicsr_network(name, arguments, also_known=tuple(ARCHS))
    except ModuleNotFoundError as error:
        raise UserError(
            f"network {name!r} is none of ours ({', '.join(ARCHS)}{nearest(name, ARCHS)}), "
            f"and BasicSR cannot be asked: {error}"
        ) from error


def build_torchvision(name: str, arguments: Mapping[str, object]) -> nn.Module:
    """Construct a classifier of torchvision.

    Raises:
        UserError: The name is unknown, or the arguments are refused.
    """
    known = _torchvision_names()
    if name not in known:
        raise UserError(
            f"torchvision has no classifier {name!r}{nearest(name, known)}; see torchvision.models"
        )
    return build_classifier(name, arguments)


def _is_installed(package: str) -> bool:
    # A package that is imported already may have no specification.
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _torchvision_models() -> ModuleType:
    """Import `torchvision.models`.

    Raises:
        UserError: torchvision is not installed.
    """
    if not _is_installed("torchvision"):
        raise UserError("torchvision is not installed: pip install 'dhp_sr[train]'")
    # The shim first: torchvision fails to import beside a torch without CUDA.
    prepare_torchvision()
    return importlib.import_module("torchvision.models")


def _torchvision_names() -> list[str]:
    models = _torchvision_models()
    # Of this module alone: its registry also lists detection, segmentation and video.
    return models.list_models(module=models)


PACKAGES: dict[str, Builder] = {
    "basicsr": build_basicsr,
    "torchvision": build_torchvision,
    "spandrel": build_spandrel,
}
"""Package before the colon of a name -> constructor of (name, arguments)."""
