"""Decoded images in a memory-mapped file, which is decoded again when it does not fit its sources.

The file holds, in this order, a preamble, the arrays, and an index in JSON. The preamble states
where the index lies and its SHA-256; the index states the recipe, the sources with size and time of
change, and for each array its position, shape and CRC-32. Written under another name and renamed
when complete, so that a file of this name is whole, unless its disk damages it.
"""

import hashlib
import json
import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from dhp_sr.utils.files import atomic_write
from dhp_sr.utils.strict_json import JsonObject

Arrays = tuple[np.ndarray, ...]
SourceState = tuple[str, int, int]
"""Name of an image, bytes of its file, and time of its last change in nanoseconds."""

ArrayEntry = tuple[int, Sequence[int], int]
"""Position of an array in the file, its shape, and CRC-32 of its values."""

_MAGIC = b"dhp_sr images 1\n"
_PREAMBLE = struct.Struct("<16sQQ32s")
"""Magic, position and length of the index, SHA-256 of the index."""
_ALIGNMENT = 64


class CacheItem(Protocol):
    """An image, or images that belong together, which can be decoded."""

    @property
    def recipe(self) -> str:
        """Everything that decides about the arrays apart from the sources."""

    def load(self) -> Arrays:
        """Decode the images, uint8."""

    def decoded_bytes(self) -> int:
        """Return the memory of the arrays, from the headers alone."""

    def sources(self) -> list[SourceState]:
        """Return the files that are decoded, as they are now."""

    def for_visits(self) -> "CacheItem":
        """Return an item with the same arrays that is fit to be decoded at every visit."""


class DiskCache:
    """Arrays of a cache file, read-only.

    It can be forked and pickled: every process maps the file when it needs it. Pixels are checked
    at the first visit of an item in each process. Damaged ones are decoded from their source, and
    the file is removed, so that the next start writes it anew.

    Args:
        path: The file, which `open_disk_cache` has written or checked.
        items: What it was made of.
        entries: Entries of the index, for each item its arrays.
        is_fresh: Whether this process has just written the file; its pixels are not checked again.
    """

    def __init__(
        self,
        path: Path,
        items: Sequence[CacheItem],
        entries: Sequence[Sequence[ArrayEntry]],
        *,
        is_fresh: bool = False,
    ) -> None:
        self.path = path
        self._items = list(items)
        self._entries = entries
        self._map: mmap.mmap | None = None
        self._is_good: dict[int, bool] = (
            dict.fromkeys(range(len(entries)), True) if is_fresh else {}
        )

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> Arrays:
        """Return the arrays of an item; they cannot be written to."""
        arrays = self._mapped(index)
        if index not in self._is_good:
            self._is_good[index] = self._check(index, arrays)
        return arrays if self._is_good[index] else self._items[index].load()

    def unchecked(self, index: int) -> Arrays:
        """Return the arrays of an item without a look at their checksums, for which all are read.

        Pixels that the disk has damaged may be among them: not to train on.
        """
        return self._mapped(index)

    def __getstate__(self) -> dict[str, object]:
        """Leave the map out, which another process opens itself."""
        return {**self.__dict__, "_map": None}

    def _mapped(self, index: int) -> Arrays:
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = []
        for offset, shape, _ in self._entries[index]:
            arrays.append(np.ndarray(shape, np.uint8, self._map, offset))
        return tuple(arrays)

    def _check(self, index: int, arrays: Arrays) -> bool:
        for array, (_, _, checksum) in zip(arrays, self._entries[index], strict=True):
            if zlib.crc32(array.data) != checksum:
                warnings.warn(
                    f"{self.path}: damaged; its images are decoded from their sources, and the "
                    "next start writes the file again",
                    stacklevel=3,
                )
                # the map stays valid without a name
                self.path.unlink(missing_ok=True)
                return False
        return True


def open_disk_cache(path: Path, items: Sequence[CacheItem], decoded: Iterator[Arrays]) -> DiskCache:
    """Open the cache file of some images; write it first where it is missing or out of date.

    Processes of one machine wait for each other, so that a single one decodes.

    Args:
        path: The file.
        items: The images.
        decoded: Gives the arrays of the items in turn; used only if the file has to be written.

    Raises:
        UserError: An image is damaged.
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.with_name(f"{path.name}.lock")) as is_locked:
        # lists, no tuples, as JSON gives them back
        described = [[item.recipe, list(map(list, item.sources()))] for item in items]
        index = _read_index(path)
        is_stale = index is None or index["described"] != described
        if is_stale:
            if is_locked:
                # of a process that was killed while it wrote: nobody else can be writing now
                for rest in path.parent.glob(f".{path.name[:50]}*.part"):
                    rest.unlink(missing_ok=True)
            _write(path, described, decoded)
            index = _read_index(path)
    assert index is not None
    return DiskCache(path, items, index["arrays"], is_fresh=is_stale)


def cache_file(folder: Path, items: Sequence[CacheItem]) -> Path:
    """Return the file for some images; it does not depend on their contents."""
    digest = hashlib.sha256()
    for item in items:
        names = [name for name, _, _ in item.sources()]
        digest.update(json.dumps([item.recipe, names]).encode())
    return folder / f"{digest.hexdigest()[:24]}.images"


def _write(path: Path, described: Sequence[object], decoded: Iterator[Arrays]) -> None:
    entries = []
    with atomic_write(path) as file:
        file.write(bytes(_PREAMBLE.size))
        for arrays in decoded:
            entries.append([_write_array(file, array) for array in arrays])
        index = json.dumps({"described": described, "arrays": entries}).encode()
        position = file.tell()
        file.write(index)
        # last: a file without its preamble is not taken for a cache
        file.seek(0)
        checksum = hashlib.sha256(index).digest()
        file.write(_PREAMBLE.pack(_MAGIC, position, len(index), checksum))


def _write_array(file: IO[bytes], array: np.ndarray) -> ArrayEntry:
    """Write an array at an aligned position; return its position, shape and CRC-32."""
    array = np.ascontiguousarray(array, np.uint8)
    file.write(bytes(-file.tell() % _ALIGNMENT))
    position = file.tell()
    file.write(array.data)
    return position, array.shape, zlib.crc32(array.data)


def _read_index(path: Path) -> JsonObject | None:
    """Read the index of a cache file; None where there is no whole file."""
    try:
        with open(path, "rb") as file:
            preamble = file.read(_PREAMBLE.size)
            magic, position, length, checksum = _PREAMBLE.unpack(preamble)
            # the index is last: a file that is cut short has another length
            is_whole = os.fstat(file.fileno()).st_size == position + length
            if magic == _MAGIC and is_whole:
                file.seek(position)
                index = file.read(length)
                if hashlib.sha256(index).digest() == checksum:
                    return json.loads(index)
    except FileNotFoundError:
        return None
    except (OSError, struct.error):
        pass
    warnings.warn(f"{path}: damaged or cut short; the images are decoded again", stacklevel=3)
    return None


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a lock among the processes of this machine; it ends with the process.

    Yields:
        Whether there is a lock: some file systems have none. Files are whole without it, too,
        since they are renamed; they may then be written twice.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield False
        return
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
