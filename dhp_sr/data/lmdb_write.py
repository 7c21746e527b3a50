"""Making and checking image databases in BasicSR's layout; see `lmdb_read`."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from dhp_sr.data.images import PREPARATION_LIMITS, decode, encode_png, header_size
from dhp_sr.data.lmdb_read import DATA, META, Database
from dhp_sr.data.sources import StoredImage, check_unique_keys
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text

if TYPE_CHECKING:
    import lmdb

COMPRESS_LEVEL = 1
_PAGE = 4096
_COMMIT_BYTES = 64 * 2**20
_MAX_KEY_LENGTH = 500


def import_lmdb() -> ModuleType:
    """Import the package `lmdb`, which only those need who write databases.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module("lmdb")
    except ImportError as error:
        raise UserError(
            "writing LMDB needs the package lmdb, which is not installed: `pip install lmdb`, "
            "or use a folder of images"
        ) from error


def write_database(
    images: Sequence[StoredImage], folder: Path, on_image: Callable[[], None] = lambda: None
) -> None:
    """Fill a database; images whose keys it holds stay, so that an interrupted run is resumed.

    Args:
        images: Stored re-encoded as PNG.
        folder: An unfinished `.lmdb` folder, or a new one. The meta file is written last.
        on_image: Called once an image.

    Raises:
        UserError: A key is unusable or occurs twice, an image is damaged, or the disk is full.
    """
    # Before anything is written; ASCII as BasicSR's reader expects.
    for image in images:
        # Control characters, such as the end of a line, would break the meta file.
        is_plain = image.key.isascii() and image.key.isprintable()
        if not is_plain or len(image.key) > _MAX_KEY_LENGTH:
            raise UserError(
                f"{image.where}: an LMDB key has to be printable ASCII and at most "
                f"{_MAX_KEY_LENGTH} letters long: rename the file"
            )
    check_unique_keys(images)
    folder.mkdir(parents=True, exist_ok=True)
    lmdb = import_lmdb()
    # by the headers: images are read a batch at a time
    needed_bytes = map_size([image.size() for image in images])
    try:
        with lmdb.open(str(folder), map_size=needed_bytes) as environment:
            store_images(environment, images, on_image)
            lines = meta_lines(environment, images)
    except lmdb.Error as error:
        # lmdb reports a full disk with an exception that is no OSError
        raise UserError(
            f"{folder / DATA}: cannot write the database ({error}): it needs at most "
            f"{needed_bytes / 2**20:.0f} MiB; make room, and give the same command again to resume"
        ) from error
    # BasicSR's databases have no such file
    (folder / "lock.mdb").unlink(missing_ok=True)
    write_text(folder / META, "\n".join(lines) + "\n")


def store_images(
    environment: "lmdb.Environment", images: Sequence[StoredImage], on_image: Callable[[], None]
) -> None:
    """Store the images whose keys a database does not hold yet, a transaction for each batch."""
    for batch in _batches(images):
        with environment.begin(write=True) as transaction:
            for image in batch:
                key = image.key.encode()
                if transaction.get(key) is None:
                    transaction.put(key, encode_png(image.read(), COMPRESS_LEVEL))
                on_image()


def meta_lines(environment: "lmdb.Environment", images: Sequence[StoredImage]) -> list[str]:
    """Return the lines of the meta file: sizes as stored, for it must describe the database."""
    lines = []
    with environment.begin() as transaction:
        for image in images:
            stored = transaction.get(image.key.encode(), b"")
            height, width, channels = header_size(stored, image.where, PREPARATION_LIMITS)
            lines.append(f"{image.key}.png ({height},{width},{channels}) {COMPRESS_LEVEL}")
    return lines


def map_size(sizes: Sequence[tuple[int, int, int]]) -> int:
    """Size of a memory map in bytes, a multiple of the page size, that holds all images.

    Args:
        sizes: (height, width, channels) of each.
    """
    pages = 0
    for height, width, channels in sizes:
        # no PNG is much larger than its pixels and a byte for each row; each value starts a page
        file_bytes = height * (width * channels + 1) + 2048
        pages += -(-file_bytes // _PAGE) + 1
    # 2 % and 16 MiB for the tree and for the pages that a commit copies
    return (pages + pages // 50) * _PAGE + 16 * 2**20


def verify_database(
    folder: str | Path,
    originals: Sequence[StoredImage] | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> list[str]:
    """Decode every image; compare it with the meta file and, if given, with the originals' pixels.

    Returns:
        One sentence a fault; empty when the database is sound.
    """
    database = Database(folder)
    sizes = database.sizes()
    stored = set(database.keys())
    sources = {image.key: image for image in originals or ()}
    faults = []
    for key in sorted(stored - set(sizes)):
        faults.append(f"{key}: in the database, not in {META}")
    if originals is not None:
        for key in sorted(stored - set(sources)):
            faults.append(f"{key}: in the database, not among the originals")
        for key in sorted(set(sources) - stored):
            faults.append(f"{key}: among the originals, not in the database")
    for key, size in sizes.items():
        fault = _find_fault(database, key, size, sources.get(key))
        if fault:
            faults.append(fault)
        on_image()
    return faults


def _find_fault(
    database: Database, key: str, size: tuple[int, int, int], original: StoredImage | None
) -> str:
    """Return the fault of an image in words, or an empty text."""
    try:
        where = f"{database.folder}, key {key}"
        pixels = decode(database.read_bytes(key), where, PREPARATION_LIMITS)
        if pixels.shape != size:
            return f"{key}: {META} says {size}, the image is {pixels.shape}"
        if original is not None and not np.array_equal(original.read(), pixels):
            return f"{key}: differs from {original.where}"
    except UserError as error:
        return str(error)
    return ""


def _batches(images: Sequence[StoredImage]) -> Iterator[list[StoredImage]]:
    """Yield images that are committed together: an interruption loses a batch at most."""
    batch: list[StoredImage] = []
    batch_bytes = 0
    for image in images:
        height, width, channels = image.size()
        batch.append(image)
        batch_bytes += height * width * channels
        if batch_bytes >= _COMMIT_BYTES:
            yield batch
            batch = []
            batch_bytes = 0
    yield batch
