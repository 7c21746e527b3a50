"""Safetensors files: opened with a diagnosis, written whole, with a checksum and equal bytes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write

MAX_HEADER_BYTES = 2**23
"""Limit of the header, which names the tensors and holds the manifest."""

DESCRIPTION = "dhp_sr.description"
"""Key of the tensor that repeats a file's manifest, see `model_file.embed`; it is no weight."""

CHECKSUM = "sha256"
"""Key of the checksum in the header; the first files had none."""


class ModelFileError(UserError):
    """A file that is not what it should be; the message says what it is and what to do."""


@contextmanager
def open_tensors(path: str | Path) -> Iterator[safe_open]:
    """Open a safetensors file for reading; nothing in it is executed.

    Every `ModelFileError` raised inside the block is prefixed with the file's name.

    Yields:
        The file, as `safetensors.safe_open` gives it.

    Raises:
        ModelFileError: There is no such file, or it is of another kind, truncated or damaged.
    """
    path = Path(path)
    try:
        check_is_file(path)
        if path.name.encode("utf-8", "replace").decode("utf-8") != path.name:
            raise ModelFileError(
                "expected a file name in UTF-8, as safetensors requires; rename it"
            )
        # The library would allocate whatever length the first eight bytes state.
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if looks_like_safetensors(path) and header_bytes > MAX_HEADER_BYTES:
            raise ModelFileError(
                f"the file is truncated or damaged (a header of {header_bytes} bytes; "
                f"at most {MAX_HEADER_BYTES})"
            )
        try:
            tensors = safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise ModelFileError(diagnose(path, error)) from None
        with tensors:
            yield tensors
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def check_is_file(path: Path) -> None:
    """Check that a path names a file.

    Raises:
        ModelFileError: It is a folder, or does not exist.
    """
    if path.is_dir():
        raise ModelFileError("is a folder, expected a file")
    if not path.is_file():
        raise ModelFileError("there is no such file")


def read_shapes(file: safe_open) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of an opened file, by key, from its header alone."""
    return {key: tuple(file.get_slice(key).get_shape()) for key in _weight_keys(file)}


def read_tensors(file: safe_open) -> dict[str, Tensor]:
    """Return every weight of an opened file, on the CPU."""
    # Cloned: the library's tensors are views of the memory-mapped file.
    return {key: file.get_tensor(key).clone() for key in _weight_keys(file)}


def read_description(file: safe_open) -> dict[str, Tensor]:
    """Return the embedded manifest by its key; empty where there is none."""
    keys = list(file.keys())
    return {DESCRIPTION: file.get_tensor(DESCRIPTION)} if DESCRIPTION in keys else {}


def _weight_keys(file: safe_open) -> list[str]:
    return [key for key in list(file.keys()) if key != DESCRIPTION]


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; equal contents give equal bytes.

    Args:
        path: The file; folders above it are created.
        tensors: By key, on any device.
        header: Texts kept in the file's header.

    Raises:
        OSError: The file cannot be written.
    """
    contiguous = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    content = memoryview(save(contiguous, dict(header)))
    # The format: 8 bytes of header length, the header's JSON, the tensors' bytes.
    length = int.from_bytes(content[:8], "little")
    sorted_header = _sort_header(bytes(content[8 : 8 + length]))
    with atomic_write(path) as file:
        file.write(len(sorted_header).to_bytes(8, "little"))
        file.write(sorted_header)
        file.write(content[8 + length :])


def _sort_header(header: bytes) -> bytes:
    entries = json.loads(header)
    # The library writes the metadata in the random order of a hash map.
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    # The format aligns the tensors to 8 bytes by spaces after the header.
    return text + b" " * (-len(text) % 8)


def checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a file's manifest and tensors: keys, types, shapes and numbers.

    A weight with a flipped bit looks like any other weight; only a checksum tells.

    Args:
        header: With the manifest's text.
        tensors: All of the file, by key, on any device.
    """
    digest = hashlib.sha256(header["manifest"].encode())
    # Types and shapes too: the same bytes can be read as other numbers.
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def verify_checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Compare a file's checksum, where there is any, with its content.

    Raises:
        ModelFileError: They differ.
    """
    if header.get(CHECKSUM) not in (None, checksum(header, tensors)):
        raise ModelFileError(
            "the file is damaged: weights or description differ from its checksum; copy it again"
        )


def looks_like_safetensors(path: str | Path) -> bool:
    """Return whether a file begins like safetensors: a length, then a JSON object."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def recognize(head: bytes) -> str | None:
    """Say what a file is that is no model of any kind, from its beginning; None: not known."""
    if not head:
        return "an empty file (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; get the file itself by `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, such as one that asks before a download; download the file again"
    return None


def diagnose(path: Path, error: SafetensorError) -> str:
    """Return the most likely reason why the library could not open a file."""
    with open(path, "rb") as file:
        head = file.read(64)
    # Zip archives of torch.save, and bare pickles of protocols 2 to 5.
    pickle_heads = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
    if looks_like_safetensors(path):
        return f"the file is truncated or damaged ({error}); copy or download it again"
    if path.suffix.lower() == ".pt2":
        return (
            "expected a safetensors file, got a program of torch.export: "
            "torch.export.load(FILE).module() runs it"
        )
    if head.startswith(pickle_heads):
        return (
            "expected a safetensors file, got a pickle (a .pth file of torch.save, whatever its "
            "name). A pickle can run code, so it is not opened as a model; as starting weights of "
            "a dense network use path.pretrain_network_g, or make it a model file by "
            "export.py --arch NAME"
        )
    known = recognize(head) or f"something else (it begins with {head[:8]!r})"
    return f"expected a safetensors file, got {known}"
