"""Preparation of `import basicsr` (1.4.2), and construction of BasicSR's networks.

Two things keep `import basicsr` from working. `basicsr.data.degradations` imports
`torchvision.transforms.functional_tensor`, which torchvision 0.17 removed. And PyPI's torchvision
beside a CPU-only torch registers shape rules for operators that its extension, which cannot load
there, should have declared: "operator torchvision::nms does not exist".
"""

import importlib.util
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from dhp_sr.utils.errors import UserError, constructor_error, nearest

_REMOVED_MODULE = "torchvision.transforms.functional_tensor"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A declared operator exists as long as its Library object, so the object must not be collected.
_libraries: list[torch.library.Library] = []


def prepare_basicsr() -> None:
    """Make `import basicsr` work; harmless when called again or when nothing is missing.

    Raises:
        ModuleNotFoundError: basicsr or torchvision is not installed.
    """
    for name in ("torchvision", "basicsr"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"training needs {name}, which is not installed: pip install 'dhp_sr[train]'"
            )
    prepare_torchvision()
    _restore_functional_tensor()


def prepare_torchvision() -> None:
    """Make `import torchvision` work; harmless when called again or when nothing is missing."""
    if "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")  # finds the package without importing it
    if spec is not None and spec.origin is not None:
        _declare_operators(Path(spec.origin).parent)


def build_basicsr_network(
    name: str, arguments: Mapping[str, object], also_known: Iterable[str] = ()
) -> nn.Module:
    """Construct a network of BasicSR's registry with fresh weights.

    Args:
        name: As registered, without BasicSR's suffix `_basicsr`.
        arguments: Arguments of the constructor.
        also_known: Names of networks outside the registry, to suggest for a misspelled name.

    Raises:
        UserError: The name is unknown, or the constructor refuses the arguments.
        ModuleNotFoundError: basicsr or torchvision is not installed.
    """
    prepare_basicsr()
    from basicsr.utils.registry import ARCH_REGISTRY

    importlib.import_module("basicsr.archs")  # fills the registry
    for registered in (name, f"{name}_basicsr"):
        if registered in ARCH_REGISTRY:
            break
    else:
        known = [*also_known, *ARCH_REGISTRY.keys()]
        raise UserError(
            f"network type {name!r} is unknown{nearest(name, known)}; known: {', '.join(known)}"
        )
    try:
        return ARCH_REGISTRY.get(registered)(**arguments)
    except Exception as error:
        raise constructor_error(name, arguments, error) from error


def _declare_operators(folder: Path) -> None:
    """Declare the operators of torchvision's extension, unless the extension itself loads."""
    if _libraries or hasattr(torch.ops.torchvision, "nms"):
        return
    for path in sorted(folder.glob("_C*.so")):
        try:
            torch.ops.load_library(path)
            return
        except OSError:
            continue  # built for another torch, or for CUDA
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)


def _restore_functional_tensor() -> None:
    """Put a stand-in for the module that torchvision 0.17 removed into `sys.modules`."""
    # First sys.modules: find_spec raises ValueError for a module without a spec, as ours is.
    if _REMOVED_MODULE in sys.modules or importlib.util.find_spec(_REMOVED_MODULE) is not None:
        return
    # Imported here, since the operators must be declared before.
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(_REMOVED_MODULE)
    setattr(module, "rgb_to_grayscale", rgb_to_grayscale)  # noqa: B010 - unknown to type checkers
    sys.modules[_REMOVED_MODULE] = module
