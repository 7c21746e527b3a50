"""Caches of decoded images: in memory, in a memory-mapped file, or none."""

import os
import shutil
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from dhp_sr.data.disk_cache import Arrays, CacheItem, cache_file, open_disk_cache
from dhp_sr.data.memory import available_memory
from dhp_sr.utils.errors import UserError

DEFAULT_FOLDER = Path("experiments", "image_cache")
_MEMORY_SHARE = 2
"""A set is held in memory if it takes at most one part of so many of what is available."""
_MAX_THREADS = 8


class ImageCache(Protocol):
    """Decoded images by number."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int) -> Arrays:
        """Return the arrays of an item, uint8 (C, H, W) each; they must not be changed."""


class UncachedImages:
    """Images that are decoded at every visit."""

    def __init__(self, items: Sequence[CacheItem]) -> None:
        self._items = list(items)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> Arrays:
        """Decode an item."""
        return self._items[index].load()


def open_images(
    items: Sequence[CacheItem], cache: str, *, folder: Path | None, title: str, is_training: bool
) -> ImageCache:
    """Open images with a cache.

    Args:
        items: The images.
        cache: `memory`: decode all of them now and hold them. `disk`: decode them once into a
            file, which is mapped and kept for later runs. `none`: decode at every visit. `auto`:
            memory if they take at most half of what is available, else disk; for validation else
            none, since whole images are seen too rarely to pay for a file.
        folder: Folder of the files; None: `DEFAULT_FOLDER`.
        title: Title of the progress bar.
        is_training: Whether the images are visited again and again.

    Raises:
        UserError: An image is damaged, or the file cannot be written.
    """
    folder = folder or DEFAULT_FOLDER
    if cache == "auto":
        cache = choose_cache(items, folder, is_training)
    if cache == "memory":
        return list(decode_all(items, title))
    if cache == "none":
        return UncachedImages([item.for_visits() for item in progress_bar(items, title)])
    path = cache_file(folder, items)
    try:
        return open_disk_cache(path, items, decode_all(items, f"{title} into {path.parent}"))
    except OSError as error:
        raise UserError(
            f"cache: disk: cannot write {path}: {error.strerror or error}; free space, or name "
            "another folder by cache_dir"
        ) from error


def choose_cache(items: Sequence[CacheItem], folder: Path, is_training: bool) -> str:
    """Choose where images are kept: `memory`, `disk` or `none`."""
    decoded_bytes = sum(item.decoded_bytes() for item in items)
    # torchrun's processes each hold the set
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if decoded_bytes * processes * _MEMORY_SHARE <= available_memory():
        return "memory"
    if not is_training:
        return "none"
    if cache_file(folder, items).exists() or _free_bytes(folder) > decoded_bytes:
        return "disk"
    warnings.warn(
        f"{decoded_bytes / 2**30:.1f} GiB of decoded images fit neither into memory nor into "
        f"{folder.absolute()}: images are decoded at every visit, which is slow; name a folder "
        "with space by cache_dir",
        stacklevel=2,
    )
    return "none"


def decode_all(items: Sequence[CacheItem], title: str) -> Iterator[Arrays]:
    """Decode images one after another, several at a time, with a progress bar.

    Raises:
        UserError: An image is damaged.
    """
    threads = min(_MAX_THREADS, os.cpu_count() or 1, len(items))
    pending: deque[Future[Arrays]] = deque()
    bar = progress_bar(items, title)
    # The decoder silences warnings for a moment, which is no thread's own: without this block the
    # filters could stay as a thread left them.
    with warnings.catch_warnings(), ThreadPoolExecutor(max(1, threads)) as pool:
        for item in bar:
            pending.append(pool.submit(item.load))
            # bounded: decoded images wait to be written
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def progress_bar(items: Sequence[CacheItem], title: str) -> "tqdm[CacheItem]":
    """Wrap items in a progress bar, which is silent where stderr is no terminal."""
    return tqdm(items, desc=title, unit="image", disable=None, leave=False)


def _free_bytes(folder: Path) -> int:
    """Free space where a folder is or would be made."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
