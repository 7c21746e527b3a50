"""Checks of a .pth file of other programs before torch reads it.

`torch.load(weights_only=True)` runs no code, but it unpacks compressed entries of any size, and
calls `bytearray` and tensor types with any number. Here the pickle is only disassembled, operation
by operation: it may call what a state dict needs, and ask for no more bytes than the file has.
Objects of other programs may be in it, which `inert_pickle` reads without making them.
"""

import pickletools
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

from dhp_sr.deploy.safetensors_io import ModelFileError, recognize

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _STORAGES),
    *(f"torch.cuda {kind}Storage" for kind in _STORAGES),
}
"""Callables in the pickle of a state dict, as "module name"."""

_BUILTINS = "bool bytes complex dict float frozenset int list long object range set slice str tuple"
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
PASSIVE = {
    "_codecs encode",
    "argparse Namespace",
    "functools partial",
    "types SimpleNamespace",
    "uuid UUID",
    *(f"collections {kind}" for kind in ("Counter", "defaultdict", "deque")),
    *(f"datetime {kind}" for kind in ("date", "datetime", "timedelta", "timezone")),
    *(f"pathlib {kind}" for kind in _PATHS),
    *(f"pathlib._local {kind}" for kind in _PATHS),
    *(f"builtins {kind}" for kind in _BUILTINS.split()),
    *(f"__builtin__ {kind}" for kind in _BUILTINS.split()),
}
"""Names of Python's own library that programs store beside weights. All others of it are refused,
since a checkpoint has no use for them and an attack has."""

_PYTHON_2 = {"__builtin__", "commands", "copy_reg"}
"""Modules of its library that Python has no more."""

MAX_PICKLE_BYTES = 2**22
"""Limit of the pickle itself, which names tensors and their shapes, and up to 2 KiB for each module
of a whole network; numbers are stored outside of it."""

_WRONG_KIND = "expected a file of weights, got another kind of file or a truncated file"
_NUM_LEGACY_PICKLES = 5
"""Magic number, protocol, system, content, keys: in sequence in files of torch before 1.6."""


def is_passive(name: str) -> bool:
    """Whether a name in a pickle, as "module name", may be read as a stand-in.

    Nothing is called by any name outside of `ALLOWED`; what tells that a file is an attack is
    refused all the same.
    """
    package = name.split(" ")[0].split(".")[0]
    of_python = package in sys.stdlib_module_names or package in _PYTHON_2
    return name in PASSIVE or not of_python


def check_pickle(path: Path) -> bool:
    """Check a file of `torch.save` without loading it.

    Returns:
        Whether it holds other things than tensors and plain values, which need `inert_pickle`.

    Raises:
        ModelFileError: It is of another kind, damaged, compressed, or names what runs code.
    """
    with open(path, "rb") as file:
        beginning = file.read(64)
        head = beginning[:4]
        file.seek(0)
        if head == b"PK\x03\x04":
            return check_zip(path)
        if head[:1] == b"\x80":
            # Tensors' bytes follow the pickles, so the rest of the file is not disassembled.
            return any([_has_objects(file) for _ in range(_NUM_LEGACY_PICKLES)])
        known = recognize(beginning)
        if known is not None:
            raise ModelFileError(f"expected a file of weights, got {known}")
        raise ModelFileError(f"{_WRONG_KIND} (it begins with {head!r})")


def check_extent(name: str, tensor: torch.Tensor) -> None:
    """Check that the file holds all values of a tensor.

    A stride of 0 repeats a single number: a tensor of any shape fits into a few bytes.

    Raises:
        ModelFileError: It does not, or the tensor is no ordinary tensor.
    """
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ModelFileError(
            f"{name}: expected an ordinary tensor, got layout {tensor.layout} on {tensor.device}"
        )
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise ModelFileError(
            f"{name}: declares the shape {tuple(tensor.shape)}, but the file holds {held} bytes "
            "of it"
        )


def check_zip(path: Path) -> bool:
    """Check the archive that `torch.save` writes since torch 1.6; see `check_pickle`."""
    has_objects = False
    try:
        with zipfile.ZipFile(path) as archive:
            check_entries(archive.infolist(), path.stat().st_size)
            # Checksums of all entries, which are stored uncompressed and so have known sizes.
            damaged = archive.testzip()
            if damaged:
                raise ModelFileError(
                    f"the file is damaged: {damaged} differs from its checksum; download it again"
                )
            for entry in archive.infolist():
                # torch finds the entry whatever the case of its letters.
                if entry.filename.lower().endswith("/data.pkl"):
                    with archive.open(entry) as file:
                        has_objects |= _has_objects(file)
    except ModelFileError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        # All of them are raised by zipfile for damaged archives.
        raise ModelFileError(f"{_WRONG_KIND} ({_describe(error)})") from None
    return has_objects


def check_entries(entries: list[zipfile.ZipInfo], file_bytes: int) -> None:
    """Check the names and sizes of an archive's entries, before any is unpacked.

    Args:
        entries: Entries of the archive.
        file_bytes: Size of the file.

    Raises:
        ModelFileError: They are not those of a file of `torch.save`.
    """
    names = [entry.filename.lower() for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelFileError(f"{_WRONG_KIND} (TorchScript, which is a program)")
    # With two entries of one name, the entry checked here might not be the entry that torch reads.
    num_pickles = sum(name.endswith("/data.pkl") for name in names)
    if len(set(names)) < len(names) or num_pickles != 1:
        raise ModelFileError(f"{_WRONG_KIND} (an archive without a single pickle)")
    compressed = []
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            compressed.append(entry.filename)
    # Entries that overlap in the file can add up to more than it, without compression.
    total_bytes = sum(entry.file_size for entry in entries)
    if compressed or total_bytes > file_bytes:
        raise ModelFileError(
            "expected a file of torch.save, which is not compressed, got an archive that unpacks "
            f"to {total_bytes} bytes ({', '.join(compressed[:3])})"
        )


def _has_objects(file: IO[bytes]) -> bool:
    """Whether a pickle names other things than tensors; it is read to its end.

    Raises:
        ModelFileError: One of them is not passive.
    """
    has_objects = False
    for name in called_names(file):
        if name in ALLOWED:
            continue
        has_objects = True
        if name != UNSEEN and not is_passive(name):
            raise ModelFileError(refusal(name))
    return has_objects


def refusal(name: str) -> str:
    """Return the message about a name that is not passive."""
    return (
        "expected tensors only, got a pickle with other things in it, which could run code when "
        f"loaded: {name.replace(' ', '.')[:200]}. In the program that wrote it, save "
        "`network.state_dict()` alone"
    )


UNSEEN = "STACK_GLOBAL"
"""Operation that takes a name from the pickle's stack: known only when it is loaded."""


def called_names(file: IO[bytes]) -> Iterator[str]:
    """Yield the names that a pickle would look up, or `UNSEEN`, until its end.

    Raises:
        ModelFileError: It is longer than a state dict's, or no pickle.
    """
    try:
        for operation, argument, position in pickletools.genops(file):
            if (position or 0) > MAX_PICKLE_BYTES:
                raise ModelFileError(
                    f"expected a pickle of at most {MAX_PICKLE_BYTES} bytes, got a longer pickle"
                )
            if operation.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif operation.name == UNSEEN:
                yield UNSEEN
            elif operation.name in ("EXT1", "EXT2", "EXT4"):
                # A number in place of a name, which torch.save does not use.
                raise ModelFileError(refusal(operation.name))
            elif operation.name.endswith("PUT") and int(argument or 0) > MAX_PICKLE_BYTES:
                # Unpicklers make room for as many values as the number says.
                raise ModelFileError(f"{_WRONG_KIND} (value {argument} of its memory)")
    except ModelFileError:
        raise
    except Exception as error:
        # Bytes that are no pickle raise anything.
        raise ModelFileError(f"{_WRONG_KIND} ({_describe(error)})") from None


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:99]}"
