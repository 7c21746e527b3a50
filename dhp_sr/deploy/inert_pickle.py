"""Reading .pth files with objects of other programs in them, without making these objects.

Programs save whole networks (`torch.save(network)`), and their settings, scores and paths beside
the weights. Every name in such a pickle that is not one of tensors is given an empty stand-in,
which takes what the pickle gives it and does nothing: no module is imported, no code of the file or
of an installed program runs. Of a whole network the tensors remain, by the names that its state
dict would have.
"""

import pickle
import types
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dhp_sr.deploy.pickle_check import ALLOWED, is_passive, refusal
from dhp_sr.deploy.safetensors_io import ModelFileError

MAX_MODULES = 10_000
"""Modules of a network, at most: where several hold the same one, their number multiplies."""

MAX_NESTING = 100
"""Modules inside each other, at most."""

_DICTIONARIES = {"collections defaultdict", "collections Counter"}
_SETS = {"builtins set", "__builtin__ set", "builtins frozenset", "__builtin__ frozenset"}


class StandIn:
    """What an object in a file is replaced by: its content, and no behavior.

    Attributes:
        attributes: Those that the file gives the object.
        entries: What the file sets by key, as in a dictionary.
    """

    name = ""
    """Name of the object's class in the file."""

    dump_patches = False
    """torch asks for it where a file holds the source text of a module."""

    def __new__(cls, *_arguments: object, **_options: object) -> "StandIn":
        """Make an empty one, whatever the arguments are."""
        made = super().__new__(cls)
        made.attributes = {}
        made.entries = OrderedDict()
        return made

    def __init__(self, *_arguments: object, **_options: object) -> None:
        self.attributes: dict[Any, Any]
        self.entries: OrderedDict[Any, Any]

    def __setstate__(self, state: object) -> None:
        """Keep the attributes, which may come in two dictionaries (`__dict__` and slots)."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes.update(part)

    def __setitem__(self, key: object, value: object) -> None:
        """Keep an entry."""
        self.entries[key] = value

    def append(self, value: object) -> None:
        """Take an element of a list: none holds weights."""

    def extend(self, values: object) -> None:
        """Take elements of a list."""

    add = append


def read_inert(path: Path) -> object:
    """Load a file of `torch.save`, with stand-ins for what is neither tensor nor plain value.

    `check_pickle` must have looked through it.

    Returns:
        The content. Whole networks in it are the dictionaries of their tensors, objects with
        entries are dictionaries; other objects are `StandIn`.

    Raises:
        ModelFileError: Modules hold one another without end.
        Exception: torch raises all kinds of them for files that are damaged.
    """
    module: Any = types.ModuleType("stand_ins")
    module.Unpickler = _Unpickler
    module.load = _load
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")
        # Safe without `weights_only`: the names in the file go through `_Unpickler` alone.
        content = torch.load(file, map_location="cpu", pickle_module=module, weights_only=False)
    return _plain(content, {})


class _Unpickler(pickle.Unpickler):
    """Unpickler that looks up the names of tensors and gives all others a stand-in."""

    def find_class(self, module: str, name: str) -> object:
        """Return the callable or class of a name in the file.

        Raises:
            ModelFileError: The name is one that could run code, which a state dict never has.
        """
        full_name = f"{module} {name}"
        if full_name in ALLOWED:
            return super().find_class(module, name)
        if full_name in _DICTIONARIES:
            # Their first argument makes missing entries, or is itself entries: dropped.
            return _empty_dictionary
        if full_name in _SETS:
            return set
        if not is_passive(full_name):
            raise ModelFileError(refusal(full_name))
        return type("StandIn", (StandIn,), {"name": f"{module}.{name}"})


def _load(file: IO[bytes], *, encoding: str) -> object:
    return _Unpickler(file, encoding=encoding).load()


def _empty_dictionary(*_arguments: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _plain(content: object, done: dict[int, object]) -> object:
    """Replace stand-ins inside dictionaries by dictionaries where they hold something.

    Args:
        content: What was read.
        done: Results by identity; a file may name an object many times.
    """
    if id(content) in done:
        return done[id(content)]
    if isinstance(content, StandIn) and "_modules" in content.attributes:
        tensors = _state_dict(content)
        done[id(content)] = tensors
        return tensors
    if isinstance(content, StandIn):
        content = content.entries or content
    if not isinstance(content, Mapping):
        return content
    result: OrderedDict[object, object] = OrderedDict()
    done[id(content)] = result
    for key, value in content.items():
        result[key] = _plain(value, done)
    return result


def _state_dict(network: StandIn) -> OrderedDict[str, Tensor]:
    """Return parameters and persistent buffers by the names that they have in the state dict."""
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    pending = [(network, "", 0)]
    num_modules = 0
    while pending:
        module, prefix, nesting = pending.pop()
        num_modules += 1
        if num_modules > MAX_MODULES or nesting > MAX_NESTING:
            raise ModelFileError("expected a network, got modules that hold one another")
        left_out = module.attributes.get("_non_persistent_buffers_set")
        left_out = left_out if isinstance(left_out, set) else set()
        for name, value in _entries(module, "_parameters"):
            if torch.is_tensor(value):
                tensors[f"{prefix}{name}"] = value
        for name, value in _entries(module, "_buffers"):
            if torch.is_tensor(value) and name not in left_out:
                tensors[f"{prefix}{name}"] = value
        inner = []
        for name, value in _entries(module, "_modules"):
            if isinstance(value, StandIn):
                inner.append((value, f"{prefix}{name}.", nesting + 1))
        pending += reversed(inner)
    return tensors


def _entries(module: StandIn, kind: str) -> list[tuple[object, object]]:
    value = module.attributes.get(kind)
    return list(value.items()) if isinstance(value, Mapping) else []
