"""Making and checking image databases in BasicSR's layout; see `lmdb_read`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dhp_sr.data.images import decode, encode_png, header_size
from dhp_sr.data.lmdb_read import META, Database, import_lmdb
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text

if TYPE_CHECKING:
    import lmdb

COMPRESS_LEVEL = 1
_PAGE = 4096
_COMMIT_BYTES = 64 * 2**20


def write_database(
    images: Sequence[StoredImage], folder: Path, progress: Callable[[], None] = lambda: None
) -> None:
    """Fill a database; images whose keys are already there are left as they are, so that a broken-off run goes on.

    Args:
        images: What to store, re-encoded as PNG.
        folder: An unfinished `.lmdb` folder, or a new one. The meta file is written last.
        progress: Called once an image.

    Raises:
        UserError: A key is unusable or occurs twice, or an image is damaged.
    """
    _check_keys(images)
    folder.mkdir(parents=True, exist_ok=True)
    with import_lmdb().open(
        str(folder), map_size=map_size([image.size() for image in images])
    ) as environment:
        for batch in _batches(images):
            with environment.begin(write=True) as transaction:
                for image in batch:
                    if transaction.get(image.key.encode()) is None:
                        transaction.put(
                            image.key.encode(), encode_png(image.read(), COMPRESS_LEVEL)
                        )
                    progress()
        lines = _meta_lines(environment, images)
    (folder / "lock.mdb").unlink(missing_ok=True)
    write_text(folder / META, "\n".join(lines) + "\n")


def map_size(sizes: Sequence[tuple[int, int, int]]) -> int:
    """Return a map size in bytes, a multiple of the page size, that holds images of these (height, width, channels).

    Every value starts a page of its own and no PNG is much larger than its pixels; 2 % and 16 MiB are left for the tree
    and for the pages that a commit copies.
    """
    raw = sum(
        -(-(height * (width * channels + 1) + 2048) // _PAGE) + 1
        for height, width, channels in sizes
    )
    return (raw + raw // 50) * _PAGE + 16 * 2**20


def verify_database(
    folder: str | Path,
    originals: Sequence[StoredImage] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[str]:
    """Decode every image and compare it with the meta file and, if given, with the originals' pixels.

    Returns:
        One sentence a fault; empty when the database is sound.
    """
    database = Database(folder)
    sizes, stored = database.sizes(), set(database.keys())
    faults = [f"{key}: in the database, not in {META}" for key in sorted(stored - set(sizes))]
    sources = {image.key: image for image in originals or ()}
    if originals is not None:
        faults += [
            f"{key}: in the database, not among the originals"
            for key in sorted(stored - set(sources))
        ]
        faults += [
            f"{key}: among the originals, not in the database"
            for key in sorted(set(sources) - stored)
        ]
    for key, size in sizes.items():
        faults += _faults(database, key, size, sources.get(key))
        progress()
    return faults


def _faults(
    database: Database, key: str, size: tuple[int, int, int], original: StoredImage | None
) -> list[str]:
    try:
        pixels = decode(database.read_bytes(key), f"{database.folder}, key {key}")
        if pixels.shape != size:
            return [f"{key}: {META} says {size}, the image is {pixels.shape}"]
        if original is not None and not _equal(original, pixels):
            return [f"{key}: differs from {original.where}"]
    except UserError as error:
        return [str(error)]
    return []


def _equal(original: StoredImage, pixels: np.ndarray) -> bool:
    expected = original.read()
    return expected.shape == pixels.shape and bool((expected == pixels).all())


def _check_keys(images: Sequence[StoredImage]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        if not image.key.isascii() or len(image.key) > 500:
            raise UserError(
                f"{image.where}: an LMDB key has to be ASCII and at most 500 letters long: rename the file"
            )
        if image.key in seen:
            raise UserError(
                f"{image.where} and {seen[image.key]} have the same name without extension: rename one"
            )
        seen[image.key] = image.where


def _batches(images: Sequence[StoredImage]) -> Iterator[list[StoredImage]]:
    batch, weight = [], 0
    for image in images:
        height, width, channels = image.size()
        batch.append(image)
        weight += height * width * channels
        if weight >= _COMMIT_BYTES:
            yield batch
            batch, weight = [], 0
    yield batch


def _meta_lines(environment: "lmdb.Environment", images: Sequence[StoredImage]) -> list[str]:
    with environment.begin() as transaction:
        sizes = {
            image.key: header_size(transaction.get(image.key.encode(), b""), image.where)
            for image in images
        }
    return [f"{key}.png ({h},{w},{c}) {COMPRESS_LEVEL}" for key, (h, w, c) in sizes.items()]
