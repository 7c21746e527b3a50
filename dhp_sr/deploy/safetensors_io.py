"""Safetensors files: opened with a reason when they cannot be, written whole and the same every time."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write

LARGEST_HEADER = 2**23
"""Bytes; the header names tensors and holds the description."""

DESCRIPTION = "dhp_sr.description"
"""Key of the tensor that repeats a file's description, see `embedded.py`; no weight, so it is not read as one."""


class ModelFileError(UserError):
    """A file that is not what it should be; the message says what it is and what to do."""


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file for reading; nothing in it is executed.

    Every `ModelFileError` raised inside the block is given the file's name.

    Raises:
        ModelFileError: there is no such file, or it is of another kind, cut short or damaged.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ModelFileError(
                "is a folder, expected a file" if path.is_dir() else "there is no such file"
            )
        if path.name.encode("utf-8", "replace").decode("utf-8") != path.name:
            raise ModelFileError(
                "expected a name in UTF-8, which safetensors asks for; rename the file"
            )
        _check_header(path)
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise ModelFileError(_diagnosis(path, error)) from None
        with file:
            yield file
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _check_header(path: Path) -> None:
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if looks_like_safetensors(path) and length > LARGEST_HEADER:
        raise ModelFileError(
            f"the file is cut short or damaged (a header of {length} bytes; at most {LARGEST_HEADER})"
        )


def read_shapes(file: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of an opened file, by key."""
    return {key: tuple(file.get_slice(key).get_shape()) for key in _weights(file)}


def read_tensors(file: Any) -> dict[str, torch.Tensor]:
    """Return every weight of an opened file, on the CPU and independent of the file."""
    return {key: file.get_tensor(key).clone() for key in _weights(file)}


def read_description(file: Any) -> dict[str, torch.Tensor]:
    """Return the description among an opened file's tensors, by its key; nothing where there is none."""
    return {key: file.get_tensor(key) for key in file.keys() if key == DESCRIPTION}  # noqa: SIM118 - not a mapping


def _weights(file: Any) -> list[str]:
    return [key for key in file.keys() if key != DESCRIPTION]  # noqa: SIM118 - not a mapping


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write one safetensors file, whole or not at all; equal contents give equal bytes.

    Args:
        path: the file; folders above it are made.
        tensors: by key, on any device.
        metadata: kept in the file's header.
    """
    plain = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    content = memoryview(save(plain, dict(metadata)))
    length = int.from_bytes(content[:8], "little")
    header = _canonical(bytes(content[8 : 8 + length]))
    with atomic_write(path) as stream:
        stream.write(len(header).to_bytes(8, "little"))
        stream.write(header)
        stream.write(content[8 + length :])


def looks_like_safetensors(path: str | Path) -> bool:
    """Whether the file begins as a safetensors file does: the length of a header, then the header's JSON."""
    with open(path, "rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def _canonical(header: bytes) -> bytes:
    """Put the metadata in order (the library writes it in a random one), padded to 8 bytes as the format has it."""
    entries = json.loads(header)
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def _diagnosis(path: Path, error: SafetensorError) -> str:
    with open(path, "rb") as stream:
        head = stream.read(64)
    if not head:
        return f"the file is empty ({os.path.getsize(path)} bytes)"
    if looks_like_safetensors(path):
        return f"the file is cut short or damaged ({error}); copy or download it again"
    if path.suffix.lower() == ".pt2":
        return "expected a safetensors file, found a program of torch.export: torch.export.load(FILE).module() runs it"
    if head.startswith((b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))):
        return (
            "expected a safetensors file, found a pickle (a .pth file of torch.save, whatever its name). A pickle can "
            "run code, so it is not opened as a model; as starting weights of a dense network use "
            "path.pretrain_network_g, or make it a model file by export.py --arch NAME"
        )
    if head.startswith(b"version https://git-lfs"):
        return "expected a safetensors file, found a git-lfs pointer; fetch the file itself with `git lfs pull`"
    return f"expected a safetensors file, found something else (it begins with {head[:8]!r})"
