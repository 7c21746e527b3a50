"""A classification set from one form on disk to another: class folders, sheets, CIFAR's binary files, LMDB."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dhp_sr.data.cifar import NAMES_10, SIDE
from dhp_sr.data.class_formats import read_labeled, splits_in
from dhp_sr.data.images import encode_png
from dhp_sr.data.labeled import LabeledImages
from dhp_sr.data.labeled_lmdb import COLUMNS as LABEL_COLUMNS
from dhp_sr.data.labeled_lmdb import LABELS
from dhp_sr.data.lmdb_write import write_database
from dhp_sr.data.prepare import begin, finish
from dhp_sr.data.sources import StoredImage
from dhp_sr.data.sprite_sheets import COLUMNS, INDEX
from dhp_sr.data.tsv import table_text
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write, write_text

Parts = Mapping[str, LabeledImages]
"""Split -> its images; the splits have the same classes."""

_ACROSS = 40
_IN_A_BATCH = 10_000
_LARGEST_WEBP = 16_383


def make_classes(
    source: str | Path,
    target: str | Path,
    form: str,
    *,
    side: int | None = None,
    labels: str = "fine",
) -> int:
    """Write all splits of a classification set in another form.

    Args:
        source: Class folders, sheets, CIFAR's files or an LMDB.
        target: Folder to make.
        form: `folders`, `sheets`, `cifar` or `lmdb`.
        side: Resize images to squares of this side first.
        labels: `fine` or `coarse`, of CIFAR-100.

    Returns:
        Number of images read; 0 if the target was complete.

    Raises:
        UserError: Source or target cannot be used, or the form cannot hold these images.
    """
    target = Path(target).expanduser()
    if (form == "lmdb") != (target.suffix == ".lmdb"):
        raise UserError(
            f"{target}: expected a name that ends in .lmdb for form lmdb and for no other, found {form}"
        )
    splits = splits_in(Path(source).expanduser())
    parts = {split: read_labeled(source, split, side=side, labels=labels) for split in splits}
    _check_classes(parts)
    part = begin(target, {"task": "classes", "form": form, **_fingerprint(parts)})
    if part is None:
        return 0
    WRITERS[form](parts, part)
    finish(part, target)
    return sum(map(len, parts.values()))


def write_folders(parts: Parts, folder: Path) -> None:
    """Write `folder/SPLIT/CLASS/00000.png`, ..."""
    for split, labeled in parts.items():
        for name in labeled.classes:
            if name in ("", ".", "..") or "/" in name or name.startswith("."):
                raise UserError(
                    f"{labeled.where}: class {name!r} cannot be the name of a folder: rename it"
                )
        for label, number, image in _one_by_one(labeled, f"folders {folder}"):
            with atomic_write(
                folder / split / labeled.classes[label] / f"{number:05d}.png"
            ) as stream:
                stream.write(encode_png(image, compress_level=6))


def write_sheets(parts: Parts, folder: Path) -> None:
    """Write one lossless WebP sheet for every split and class, and the index."""
    lines = []
    for split, labeled in parts.items():
        for label, name in enumerate(labeled.classes):
            sheet, tiles = (
                f"{split}_{label:03d}.webp",
                labeled.images_NHWC[labeled.labels == label],
            )
            if not len(tiles):
                continue
            _write_sheet(folder / sheet, tiles)
            places = (divmod(number, _ACROSS) for number in range(len(tiles)))
            lines += [(sheet, row, column, name, label) for row, column in places]
    write_text(folder / INDEX, table_text(COLUMNS, lines))


def write_cifar(parts: Parts, folder: Path) -> None:
    """Write CIFAR-10's binary files: one label byte, whatever the number of classes."""
    for split, labeled in parts.items():
        _check_cifar(labeled, split)
        planes = labeled.images_NHWC.transpose(0, 3, 1, 2).reshape(len(labeled), -1)
        records = np.concatenate([labeled.labels[:, None].astype(np.uint8), planes], axis=1)
        for number, start in enumerate(range(0, len(records), _IN_A_BATCH), start=1):
            name = f"data_batch_{number}.bin" if split == "train" else "test_batch.bin"
            end = start + _IN_A_BATCH if split == "train" else len(records)
            if split == "train" or start == 0:
                with atomic_write(folder / name) as stream:
                    stream.write(records[start:end].tobytes())
    write_text(folder / NAMES_10, "\n".join(next(iter(parts.values())).classes) + "\n")


def write_labeled_database(parts: Parts, folder: Path) -> None:
    """Write an LMDB in BasicSR's layout, and the table of labels."""
    held, lines = [], []
    for split, labeled in parts.items():
        for label, number, image in _one_by_one(labeled, f"lmdb {folder}"):
            key = f"{split}_{label:03d}_{number:06d}"
            held.append(HeldImage(key, image))
            lines.append((key, split, labeled.classes[label], label))
    write_database(held, folder)
    write_text(folder / LABELS, table_text(LABEL_COLUMNS, lines))


WRITERS: dict[str, Callable[[Parts, Path], None]] = {
    "folders": write_folders,
    "sheets": write_sheets,
    "cifar": write_cifar,
    "lmdb": write_labeled_database,
}
"""Form -> what writes it into a folder."""


@dataclass(frozen=True)
class HeldImage(StoredImage):
    """An image in memory."""

    key: str
    pixels: np.ndarray

    @property
    def where(self) -> str:
        """Return the key."""
        return self.key

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels)."""
        return self.pixels.shape

    def read(self) -> np.ndarray:
        """Return the pixels."""
        return self.pixels


def _one_by_one(labeled: LabeledImages, title: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield label, number within the class, and pixels."""
    counts = dict.fromkeys(range(len(labeled.classes)), 0)
    pairs = zip(labeled.labels.tolist(), labeled.images_NHWC, strict=True)
    for label, image in tqdm(
        pairs, desc=title, total=len(labeled), unit="image", disable=None, leave=False
    ):
        yield label, counts[label], image
        counts[label] += 1


def _write_sheet(path: Path, tiles_NHWC: np.ndarray) -> None:
    number, height, width, channels = tiles_NHWC.shape
    columns = min(number, _ACROSS)
    rows = -(-number // columns)
    if height != width or max(rows, columns) * height > _LARGEST_WEBP:
        found = f"found {number} of {width}x{height}"
        raise UserError(
            f"{path}: expected square images that fit on one sheet, {found}: choose another form"
        )
    blank = np.zeros((rows * columns - number, height, width, channels), np.uint8)
    grid = np.concatenate([tiles_NHWC, blank]).reshape(rows, columns, height, width, channels)
    sheet = grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(np.repeat(sheet, 3, axis=2) if channels == 1 else sheet)
    with atomic_write(path) as stream:
        picture.save(stream, "WEBP", lossless=True, exact=True, method=2)


def _check_cifar(labeled: LabeledImages, split: str) -> None:
    shape = labeled.images_NHWC.shape[1:]
    if shape != (SIDE, SIDE, 3) or len(labeled.classes) > 256 or split not in ("train", "test"):
        found = f"found {shape[1]}x{shape[0]}x{shape[2]}, {len(labeled.classes)} classes, split {split!r}"
        expected = (
            f"expected RGB images of {SIDE}x{SIDE}, at most 256 classes, splits train and test"
        )
        raise UserError(
            f"{labeled.where}: {expected}, {found}: give --size {SIDE}, or choose another form"
        )


def _check_classes(parts: Parts) -> None:
    (first, one), *others = parts.items()
    for split, other in others:
        if other.classes != one.classes:
            found = f"found {len(one.classes)} in {first} and {len(other.classes)} in {split}"
            raise UserError(
                f"{one.where}: expected the same classes in all splits, {found}: correct the folders"
            )


def _fingerprint(parts: Parts) -> dict[str, Any]:
    digest = hashlib.sha256()
    for split, labeled in parts.items():
        digest.update(f"{split} {labeled.classes} {labeled.images_NHWC.shape}".encode())
        digest.update(labeled.labels.tobytes())
        digest.update(np.ascontiguousarray(labeled.images_NHWC).data)
    return {
        "images": {split: len(labeled) for split, labeled in parts.items()},
        "digest": digest.hexdigest(),
    }
