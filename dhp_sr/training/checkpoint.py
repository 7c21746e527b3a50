"""Checkpoints: training states as safetensors files, and what a resumed run must have in common.

A state is a tree of tensors and plain values. It is written as a safetensors file, the tensors
by number and the rest as JSON in the metadata, never as a pickle: loading one runs no code.
"""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dhp_sr.config.schema import Options
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path
from dhp_sr.utils.modules import StateTree
from dhp_sr.utils.strict_json import Json, JsonObject

FORMAT = "dhp_sr.state.3"
OLD_FORMAT = "dhp_sr.state.2"
"""States of the first edition. They are read, too, though they have no checksum."""
CHECKSUM = "sha256"
"""Key of the checksum in the metadata."""
NUM_KEPT = 2
"""States kept in a folder: the newest, and the one before it in case the newest is damaged."""
PLAIN_TYPES = (str, int, float, bool, type(None))

FIXED_OPTIONS = ("scale", "manual_seed", "network_g", "compress", "train")
"""Sections that a resumed run cannot change."""
FREE_IN_COMPRESS = ("tolerance", "round_to", "min_width", "latency_table")
"""Keys of `compress` that it may change, so that a search which has missed its budget by a little
need not start again."""
FREE_IN_DATA = (
    "name",
    "dataroot",
    "dataroot_gt",
    "dataroot_lq",
    "cache",
    "cache_dir",
    "num_worker_per_gpu",
)
"""Keys of `datasets.train` that it may change: they say where the images are, not which."""


class CheckpointError(UserError):
    """A file that is no training state, or a damaged one."""


def pack(tree: object) -> tuple[dict[str, Tensor], Json]:
    """Split a tree into named tensors and a skeleton for JSON.

    Args:
        tree: Nested dicts, lists and tuples of tensors, NumPy arrays of integers, and plain
            values. Keys of dicts may be any of these, too.

    Raises:
        TypeError: A value of another type.
    """
    tensors: dict[str, Tensor] = {}

    def add(tensor: Tensor) -> str:
        name = f"t{len(tensors)}"
        # A copy: safetensors refuses tensors that share memory, as tied weights do.
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return name

    def skeleton_of(node: object) -> Json:
        if isinstance(node, Tensor):
            return {"tensor": add(node)}
        if isinstance(node, np.ndarray):
            # The state of NumPy's generator is uint32, which older torch versions do not have.
            return {
                "array": add(torch.from_numpy(node.astype(np.int64))),
                "dtype": str(node.dtype),
            }
        if isinstance(node, dict):
            # As a list of pairs: JSON would turn every key into text.
            pairs = [[skeleton_of(key), skeleton_of(value)] for key, value in node.items()]
            return {"dict": pairs}
        if isinstance(node, tuple):
            return {"tuple": [skeleton_of(value) for value in node]}
        if isinstance(node, list):
            return [skeleton_of(value) for value in node]
        if isinstance(node, PLAIN_TYPES):
            return node
        raise TypeError(
            f"a training state holds tensors and plain values, got {type(node).__name__}"
        )

    return tensors, skeleton_of(tree)


def unpack(tensors: dict[str, Tensor], skeleton: Any) -> Any:
    """Invert `pack`."""
    if isinstance(skeleton, list):
        return [unpack(tensors, value) for value in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "tensor" in skeleton:
        return tensors[skeleton["tensor"]]
    if "array" in skeleton:
        return tensors[skeleton["array"]].numpy().astype(skeleton["dtype"])
    if "tuple" in skeleton:
        return tuple(unpack(tensors, value) for value in skeleton["tuple"])
    tree = {}
    for key, value in skeleton["dict"]:
        tree[unpack(tensors, key)] = unpack(tensors, value)
    return tree


def save_state(folder: Path, iteration: int, tree: StateTree) -> Path:
    """Write `<iteration>.state` atomically, then remove all but the newest states.

    Raises:
        OSError: The file cannot be written; earlier states are still there.
    """
    tensors, skeleton = pack(tree)
    path = folder / f"{iteration}.state"
    metadata = {"format": FORMAT, "tree": json.dumps(skeleton)}
    metadata[CHECKSUM] = checksum(metadata, tensors)
    write_tensors(path, tensors, metadata)
    # After the new state is on disk, never before: at any moment a state can be resumed. A later
    # one is damaged, or the run would have resumed from it: it does not count.
    states = [old for number, old in list_states(folder) if number <= iteration]
    for old in states[:-NUM_KEPT]:
        old.unlink()
    return path


def checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state: its format, its tree, and every tensor.

    A flipped bit in a weight, a moment or the number of the iteration looks like any other value.
    Without a checksum the run would continue and end in other weights, or end at once.

    Args:
        metadata: With the keys `format` and `tree`.
        tensors: All of the file, contiguous and on the CPU.
    """
    digest = hashlib.sha256()
    for key in ("format", "tree"):
        digest.update(f"{metadata[key]}\n".encode())
    for name, tensor in sorted(tensors.items()):
        # Types and shapes too: the same bytes can be read as other numbers.
        digest.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: It cannot be written, for example because the disk is full.
    """
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def list_states(folder: Path) -> list[tuple[int, Path]]:
    """Return the states in a folder as (iteration, path), the oldest first."""
    states = []
    for path in folder.glob("*.state"):
        if path.stem.isdigit() and path.is_file():
            states.append((int(path.stem), path))
    return sorted(states)


def load_state(path: Path) -> StateTree:
    """Read a state that `save_state` wrote.

    Raises:
        CheckpointError: The file is no such state (BasicSR's are pickles), or it is damaged.
    """
    # JSON and safetensors raise what they like for damaged input; all of it means the same.
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (FORMAT, OLD_FORMAT):
                raise CheckpointError(
                    f"{path}: expected a training state ({FORMAT}), "
                    f"got {metadata.get('format', 'none')}"
                )
            # `file` is no mapping, it only has keys().
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # An old state has no checksum. A new one whose format was damaged into the old one has.
        has_checksum = metadata["format"] == FORMAT or CHECKSUM in metadata
        if has_checksum and metadata[CHECKSUM] != checksum(metadata, tensors):
            raise CheckpointError(f"{path}: the state is damaged: it differs from its checksum")
        return unpack(tensors, json.loads(metadata["tree"]))
    except (SafetensorError, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected a training state in safetensors form, "
            f"got something else, or it is damaged ({error})"
        ) from error


def random_state() -> StateTree:
    """Return the state of every global random generator that training may draw from."""
    # Data and noise have generators of their own, made from the seed and the iteration; these are
    # for everything else, such as mixup, gates that are sampled, and third-party networks.
    state: StateTree = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: StateTree) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    # A run may resume on other devices than it began with; then there is nothing to restore.
    if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def fixed_options(options: Options, processes: int) -> JsonObject:
    """Return the options that a resumed run must share with the one that wrote the state.

    Args:
        options: Options of the run.
        processes: Number of processes; it decides which images make up a batch.
    """
    whole = options.model_dump(mode="json")
    train_data = whole["datasets"].get("train", {})
    fixed = {key: whole[key] for key in FIXED_OPTIONS}
    fixed["datasets"] = {"train": _without(train_data, FREE_IN_DATA)}
    fixed["processes"] = processes  # gradients are averaged over them
    return without_free_options(fixed)


def with_new_options(fixed: JsonObject, options: Options) -> JsonObject:
    """Add the options that a later version has, with their defaults, to those in a state.

    Args:
        fixed: As `fixed_options` of an earlier version returned it, under the names of today.
        options: Options of the run that is resumed; they hold what a state does not.
    """
    whole = options.model_dump(mode="json")
    train_data = whole["datasets"]["train"]
    free = {key: train_data[key] for key in FREE_IN_DATA if key in train_data}
    whole["datasets"]["train"] = {**free, **fixed["datasets"]["train"]}
    whole.update({key: fixed[key] for key in FIXED_OPTIONS})
    try:
        completed = Options.model_validate(whole)
    except ValidationError:
        return fixed  # options that have gone since; they show as differences
    return fixed_options(completed, fixed["processes"])


def without_free_options(fixed: JsonObject) -> JsonObject:
    """Remove what a resumed run may change in `compress`; earlier states may hold more of it."""
    if not fixed["compress"]:
        return fixed
    compress = _without(fixed["compress"], FREE_IN_COMPRESS)
    distill = compress.get("distill")
    if distill and distill.get("teacher"):
        # The file may lie elsewhere by now, as images may.
        compress["distill"] = {**distill, "teacher": Path(distill["teacher"]).name}
    return {**fixed, "compress": compress}


def _without(section: JsonObject, keys: tuple[str, ...]) -> JsonObject:
    return {key: value for key, value in section.items() if key not in keys}


def differences(saved: object, current: object, name: str = "") -> list[str]:
    """List the dotted keys in which two trees of options differ, with both values.

    Args:
        saved: Options in the state.
        current: Options of the run.
        name: Dotted key of the trees.
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        lines = []
        # A key that only one side has counts as null there, as a default would.
        for key in sorted({*saved, *current}):
            inner = f"{name}.{key}" if name else str(key)
            lines += differences(saved.get(key), current.get(key), inner)
        return lines
    if saved == current:
        return []
    return [f"{name}: the state has {saved!r}, the options have {current!r}"]
