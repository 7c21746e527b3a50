"""Training states: a nested tree of tensors and plain values in one safetensors file, never a pickle."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path

FORMAT = "dhp_sr.state.1"
KEPT = 2
PLAIN = (str, int, float, bool, type(None))


class StateFileError(UserError):
    """A file that is no training state, or a damaged one."""


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dicts, lists, tuples, tensors and plain values into named tensors and a JSON-able skeleton."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"t{len(tensors)}"
            tensors[name] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(node, np.ndarray):
            return {
                "array": walk(torch.from_numpy(node.astype(np.int64)))["tensor"],
                "dtype": str(node.dtype),
            }
        if isinstance(node, dict):
            return {"dict": [[walk(key), walk(value)] for key, value in node.items()]}
        if isinstance(node, tuple):
            return {"tuple": [walk(value) for value in node]}
        if isinstance(node, list):
            return [walk(value) for value in node]
        if isinstance(node, PLAIN):
            return node
        raise TypeError(
            f"a training state holds tensors and plain values, found {type(node).__name__}"
        )

    return tensors, walk(tree)


def unpack(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """Invert `pack`."""

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(value) for value in node]
        if not isinstance(node, dict):
            return node
        if "tensor" in node:
            return tensors[node["tensor"]]
        if "array" in node:
            return tensors[node["array"]].numpy().astype(node["dtype"])
        if "tuple" in node:
            return tuple(walk(value) for value in node["tuple"])
        return {walk(key): walk(value) for key, value in node["dict"]}

    return walk(skeleton)


def save_state(folder: Path, iteration: int, tree: Any) -> Path:
    """Write `<iteration>.state` whole or not at all, and remove all but the newest two."""
    tensors, skeleton = pack(tree)
    path = folder / f"{iteration}.state"
    write_tensors(path, tensors, {"format": FORMAT, "tree": json.dumps(skeleton)})
    for _, old in states(folder)[:-KEPT]:
        old.unlink()
    return path


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def states(folder: Path) -> list[tuple[int, Path]]:
    """Return the states in `folder` as (iteration, path), oldest first."""
    return sorted(
        (int(path.stem), path)
        for path in folder.glob("*.state")
        if path.stem.isdigit() and path.is_file()
    )


def load_state(path: Path) -> Any:
    """Read a state written by `save_state`.

    Raises:
        StateFileError: the file is no such state, for example a pickle of BasicSR, or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format", "none")
                raise StateFileError(f"{path}: expected a training state ({FORMAT}), found {found}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return unpack(tensors, json.loads(metadata["tree"]))
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise StateFileError(
            f"{path}: expected a training state in safetensors form, found something else or a damaged one ({error})"
        ) from error


def random_state() -> dict[str, Any]:
    """Return the state of every random generator that training may draw from."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    state["numpy"] = np.random.get_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Invert `random_state`."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def differences(saved: Any, wanted: Any, name: str = "") -> list[str]:
    """List the dotted keys in which two trees of options differ, with both values."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        found = []
        for key in sorted({*saved, *wanted}):
            found += differences(
                saved.get(key), wanted.get(key), f"{name}.{key}" if name else str(key)
            )
        return found
    return (
        [] if saved == wanted else [f"{name}: the state has {saved!r}, the options have {wanted!r}"]
    )
