"""What a .pth file of other programs may hold before torch reads it: tensors, and no more bytes than the file has.

`torch.load(weights_only=True)` runs no code, but it unpacks compressed entries of any size and calls `bytearray` and
tensor types with any number. Here the pickle is only looked at, operation by operation.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

from dhp_sr.deploy.safetensors_io import ModelFileError

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    *(f"{module} {kind}Storage" for module in ("torch", "torch.cuda") for kind in _STORAGES),
}
"""What the pickle of a state dict calls, as "module name"."""

LARGEST_PICKLE = 2**20
"""Bytes of the pickle itself, which names tensors and their shapes; the numbers lie elsewhere."""

_OF_ANOTHER_KIND = "expected a file of weights, found one of another kind or cut short"
_LEGACY_PICKLES = 5
"""Magic number, protocol, system, content, keys: one after another in files of torch before 1.6."""


def check_pickle(path: Path) -> None:
    """Look at a file of `torch.save` without loading it.

    Raises:
        ModelFileError: it is of another kind, damaged, compressed, or its pickle calls other things than tensors.
    """
    with open(path, "rb") as stream:
        head = stream.read(4)
        stream.seek(0)
        if head == b"PK\x03\x04":
            _check_zip(path)
        elif head[:1] == b"\x80":
            for _ in range(_LEGACY_PICKLES):
                _check_operations(stream)
        else:
            raise ModelFileError(f"{_OF_ANOTHER_KIND} (it begins with {head!r})")


def check_extent(name: str, tensor: torch.Tensor) -> None:
    """Check that a tensor lies whole in the file: a shape may repeat one number without end.

    Raises:
        ModelFileError: it does not, or it holds no numbers of the ordinary kind.
    """
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ModelFileError(
            f"{name}: expected an ordinary tensor, found a {tensor.layout} one on {tensor.device}"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        held = tensor.untyped_storage().nbytes()
        raise ModelFileError(
            f"{name}: declares the shape {tuple(tensor.shape)}, but the file holds {held} bytes of it"
        )


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_entries(archive.infolist(), path.stat().st_size)
            damaged = archive.testzip()
            if damaged:
                raise ModelFileError(
                    f"the file is damaged: {damaged} differs from its checksum; download it again"
                )
            for entry in archive.infolist():
                if entry.filename.endswith("/data.pkl"):
                    with archive.open(entry) as stream:
                        _check_operations(stream)
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{_OF_ANOTHER_KIND} ({type(error).__name__}: {str(error)[:99]})"
        ) from None


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename.lower() for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelFileError(f"{_OF_ANOTHER_KIND} (TorchScript, which is a program)")
    if len(set(names)) < len(names) or sum(name.endswith("/data.pkl") for name in names) != 1:
        raise ModelFileError(f"{_OF_ANOTHER_KIND} (an archive without one pickle of its own)")
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        raise ModelFileError(
            "expected a file of torch.save, which is not compressed, found an archive that unpacks to "
            f"{sum(entry.file_size for entry in entries)} bytes ({', '.join(packed[:3])})"
        )


def _check_operations(stream: IO[bytes]) -> None:
    for name in _called(stream):
        if name not in ALLOWED:
            raise ModelFileError(
                "expected tensors only, found a pickle with other things in it, which could run code when loaded: "
                f"{name.replace(' ', '.')[:200]}. In the program that wrote it, save `network.state_dict()` alone"
            )


def _called(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names of what a pickle would call, up to its end."""
    try:
        for operation, argument, place in pickletools.genops(stream):
            if (place or 0) > LARGEST_PICKLE:
                raise ModelFileError(
                    f"expected a pickle of at most {LARGEST_PICKLE} bytes, found a longer one"
                )
            if operation.name == "GLOBAL":
                yield argument
            elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                yield operation.name
    except ModelFileError:
        raise
    except Exception as error:  # whatever bytes that are no pickle raise
        raise ModelFileError(
            f"{_OF_ANOTHER_KIND} ({type(error).__name__}: {str(error)[:99]})"
        ) from None
