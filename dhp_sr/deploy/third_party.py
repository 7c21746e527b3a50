"""Networks of other packages: which of them a model file may name, and what describes one.

A file holds a name such as "basicsr:RCAN", never a path to code. What the name means is said by whoever loads the file:
`register` fills the table, and nothing is imported because a file asks for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

CLASSIFICATION = "classification"
RESTORATION = ("sr", "denoise")
"""Tasks of networks whose output is an image."""

Builder = Callable[..., nn.Module]
BUILDERS: dict[str, Builder] = {}
"""Name in model files, "package:NAME" -> constructor."""

HINTS = {
    "basicsr": "pip install 'dhp_sr[train]', then call dhp_sr.zoo.specs.register_basicsr()",
    "torchvision": "pip install torchvision, then call dhp_sr.zoo.specs.register_torchvision()",
}
"""Package -> what makes its networks known."""


@dataclass(frozen=True)
class Origin:
    """What rebuilds and describes a network that is not of `dhp_sr.archs`."""

    name: str
    """Name of the constructor in `BUILDERS`, such as "basicsr:RCAN"."""
    arguments: Mapping[str, Any]
    """Arguments of the unpruned network."""
    task: str = "sr"
    """`sr`, `denoise` or `classification`."""
    scale: int = 1
    """Enlargement; 1 for other tasks."""
    in_channels: int = 3
    size_multiple: int = 1
    """Sides of inputs are multiples of it."""
    smallest_side: int = 16
    """An input of this side passes through the network."""


def check_restores(task: str, where: object) -> None:
    """Check that a network of this task makes images.

    Args:
        task: As its file says.
        where: What the error names, such as the file.

    Raises:
        ModelFileError: it does not.
    """
    if task not in RESTORATION:
        raise ModelFileError(
            f"{where}: expected a network that restores images, found one for {task}"
        )


def register(name: str, build: Builder) -> None:
    """Let model files name a network: `build(**arguments)` gives it, unpruned.

    Raises:
        UserError: the name is not of the form "package:NAME".
    """
    if name.count(":") != 1 or not all(name.split(":")):
        raise UserError(f"expected a name such as 'basicsr:RCAN', found {name!r}")
    BUILDERS[name] = build


def is_registered(name: str) -> bool:
    """Return whether model files may name this network here."""
    return name in BUILDERS


def builder(name: str) -> Builder:
    """Return the constructor of a name.

    Raises:
        UserError: nobody registered it.
    """
    if name not in BUILDERS:
        package = name.partition(":")[0]
        known = [other for other in BUILDERS if other.startswith(f"{package}:")]
        hint = (
            f"known: {', '.join(known)}"
            if known
            else HINTS.get(package, "register it by dhp_sr.deploy.register")
        )
        raise UserError(f"network {name!r} is of another package and not registered here; {hint}")
    return BUILDERS[name]


def origin_of(network: nn.Module) -> Origin | None:
    """Return the origin that a loaded or marked network carries."""
    found = getattr(network, "origin", None)
    return found if isinstance(found, Origin) else None


def mark(network: nn.Module, origin: Origin) -> nn.Module:
    """Note on a network where it comes from, and what describes it where it has no attribute of that name."""
    network.origin = origin
    for name in ("arguments", "task", "scale", "in_channels", "size_multiple"):
        if not hasattr(network, name):
            setattr(network, name, getattr(origin, name))
    if origin.task == CLASSIFICATION and not hasattr(network, "input_size"):
        network.input_size = origin.smallest_side
    return network
