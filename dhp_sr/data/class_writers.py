"""Conversion of classification sets on disk: folders, sheets, CIFAR's files, LMDB."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from tqdm import tqdm

from dhp_sr.data.cifar import CLASS_NAMES_10, SIDE
from dhp_sr.data.class_formats import read_labeled, splits_in
from dhp_sr.data.images import encode_png
from dhp_sr.data.labeled import LabeledImages
from dhp_sr.data.labeled_tables import INDEX, INDEX_COLUMNS, LABEL_COLUMNS, LABELS, table_text
from dhp_sr.data.lmdb_write import write_database
from dhp_sr.data.prepare_record import begin, finish
from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write, write_text
from dhp_sr.utils.strict_json import Json

LabeledSplits = Mapping[str, LabeledImages]
"""Split -> its images; the splits have the same classes."""

_IMAGES_ACROSS = 40
_IMAGES_PER_BATCH = 10_000
_MAX_WEBP_SIDE = 16_383


def make_classes(
    source: str | Path,
    target: str | Path,
    set_format: str,
    *,
    side: int | None = None,
    labels: str = "fine",
) -> int:
    """Write all splits of a classification set in another format.

    Args:
        source: Class folders, sheets, CIFAR's files or an LMDB.
        target: Folder to make.
        set_format: `folders`, `sheets`, `cifar` or `lmdb`.
        side: Resize images to squares of this side first.
        labels: `fine` or `coarse`, of CIFAR-100.

    Returns:
        Number of images read; 0 if the target was complete.

    Raises:
        UserError: Source or target cannot be used, or the format cannot hold these images.
    """
    target = Path(target).expanduser()
    if (set_format == "lmdb") != (target.suffix == ".lmdb"):
        raise UserError(
            f"{target}: expected a name that ends in .lmdb for format lmdb and for no other, "
            f"got {set_format}"
        )
    # Class folders are searched with all folders in them: the next reader would find a class more.
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(_folder(source))):
        raise UserError(f"{target}: expected a folder outside {source}: choose another name")
    # everything is read, and so checked, before anything is written
    splits: dict[str, LabeledImages] = {}
    for split in splits_in(_folder(source)):
        splits[split] = read_labeled(source, split, side=side, labels=labels)
    _check_same_classes(splits)
    # "form": the key of finished targets, which are compared with it
    settings: dict[str, Json] = {"task": "classes", "form": set_format, **_fingerprint(splits)}
    unfinished = begin(target, source, settings)
    if unfinished is None:
        return 0
    WRITERS[set_format](splits, unfinished)
    finish(unfinished, target)
    return sum(map(len, splits.values()))


def _folder(source: str | Path) -> Path:
    return Path(source).expanduser()


def write_folders(splits: LabeledSplits, folder: Path) -> None:
    """Write `folder/SPLIT/CLASS/00000.png`, ..."""
    for split, labeled in splits.items():
        for name in labeled.classes:
            # a name from a table could lead out of the folder
            if name in ("", ".", "..") or "/" in name or name.startswith("."):
                raise UserError(
                    f"{labeled.where}: class {name!r} cannot be the name of a folder: rename it"
                )
        for label, number, image in _numbered_images(labeled, f"folders {folder}"):
            path = folder / split / labeled.classes[label] / f"{number:05d}.png"
            with atomic_write(path) as file:
                file.write(encode_png(image, compress_level=6))


def write_sheets(splits: LabeledSplits, folder: Path) -> None:
    """Write a lossless WebP sheet for every split and class, and the index."""
    lines: list[tuple[object, ...]] = []
    for split, labeled in splits.items():
        for label, name in enumerate(labeled.classes):
            images_NHWC = labeled.images_NHWC[labeled.labels == label]
            if not len(images_NHWC):
                continue
            sheet = f"{split}_{label:03d}.webp"
            _write_sheet(folder / sheet, images_NHWC)
            for number in range(len(images_NHWC)):
                row, column = divmod(number, _IMAGES_ACROSS)
                lines.append((sheet, row, column, name, label))
    write_text(folder / INDEX, table_text(INDEX_COLUMNS, lines))


def write_cifar(splits: LabeledSplits, folder: Path) -> None:
    """Write CIFAR-10's binary files: a label byte, whatever the number of classes."""
    classes: tuple[str, ...] = ()
    for split, labeled in splits.items():
        _check_cifar(labeled, split)
        classes = labeled.classes
        # planes of red, green and blue, as the original
        planes = labeled.images_NHWC.transpose(0, 3, 1, 2).reshape(len(labeled), -1)
        records = np.concatenate([labeled.labels[:, None].astype(np.uint8), planes], axis=1)
        if split == "test":
            _write_records(folder / "test_batch.bin", records)
            continue
        for number, start in enumerate(range(0, len(records), _IMAGES_PER_BATCH), start=1):
            batch = records[start : start + _IMAGES_PER_BATCH]
            _write_records(folder / f"data_batch_{number}.bin", batch)
    write_text(folder / CLASS_NAMES_10, "\n".join(classes) + "\n")


def _write_records(path: Path, records: np.ndarray) -> None:
    with atomic_write(path) as file:
        file.write(records.tobytes())


def write_labeled_database(splits: LabeledSplits, folder: Path) -> None:
    """Write an LMDB in BasicSR's layout, and the table of labels."""
    images: list[StoredImage] = []
    lines = []
    for split, labeled in splits.items():
        for label, number, pixels in _numbered_images(labeled, f"lmdb {folder}"):
            key = f"{split}_{label:03d}_{number:06d}"
            # numbered, not named: names of files need not be unique across classes
            images.append(ImageInMemory(key, pixels))
            lines.append((key, split, labeled.classes[label], label))
    write_database(images, folder)
    write_text(folder / LABELS, table_text(LABEL_COLUMNS, lines))


WRITERS: dict[str, Callable[[LabeledSplits, Path], None]] = {
    "folders": write_folders,
    "sheets": write_sheets,
    "cifar": write_cifar,
    "lmdb": write_labeled_database,
}
"""Format -> function that writes it into a folder."""


@dataclass(frozen=True)
class ImageInMemory(StoredImage):
    """An image that is read already."""

    key: str
    pixels: np.ndarray

    @property
    def where(self) -> str:
        """The key."""
        return self.key

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels)."""
        height, width, channels = self.pixels.shape
        return height, width, channels

    def read(self) -> np.ndarray:
        """Return the pixels."""
        return self.pixels


def _numbered_images(labeled: LabeledImages, title: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield label, number within the class, and pixels."""
    counts = [0] * len(labeled.classes)
    pairs = zip(labeled.labels.tolist(), labeled.images_NHWC, strict=True)
    bar = tqdm(pairs, desc=title, total=len(labeled), unit="image", disable=None, leave=False)
    for label, image in bar:
        yield label, counts[label], image
        counts[label] += 1


def _write_sheet(path: Path, images_NHWC: np.ndarray) -> None:
    count, height, width, channels = images_NHWC.shape
    columns = min(count, _IMAGES_ACROSS)
    rows = -(-count // columns)
    if height != width or max(rows, columns) * height > _MAX_WEBP_SIDE:
        raise UserError(
            f"{path}: expected square images that fit on a sheet, "
            f"got {count} of {width}x{height}: choose another format"
        )
    # the last row is filled up with black
    blank = np.zeros((rows * columns - count, height, width, channels), np.uint8)
    grid = np.concatenate([images_NHWC, blank]).reshape(rows, columns, height, width, channels)
    sheet = grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    rgb = np.repeat(sheet, 3, axis=2) if channels == 1 else sheet
    encoded = io.BytesIO()
    # "exact": pixels as they are, also where an encoder could choose
    PillowImage.fromarray(rgb).save(encoded, "WEBP", lossless=True, exact=True, method=2)
    with atomic_write(path) as file:
        file.write(encoded.getbuffer())


def _check_cifar(labeled: LabeledImages, split: str) -> None:
    height, width, channels = labeled.images_NHWC.shape[1:]
    class_count = len(labeled.classes)
    fits = (height, width, channels) == (SIDE, SIDE, 3) and class_count <= 256
    if not fits or split not in ("train", "test"):
        raise UserError(
            f"{labeled.where}: expected RGB images of {SIDE}x{SIDE}, at most 256 classes, splits "
            f"train and test, got {width}x{height}x{channels}, {class_count} classes, split "
            f"{split!r}: give --size {SIDE}, or choose another format"
        )
    for name in labeled.classes:
        # Each is a line, which readers strip.
        if name.strip() != name or name.splitlines() != [name]:
            raise UserError(
                f"{labeled.where}: class {name!r} cannot be a line of {CLASS_NAMES_10}: rename it, "
                "or choose another format"
            )


def _check_same_classes(splits: LabeledSplits) -> None:
    (first_split, first), *others = splits.items()
    for split, labeled in others:
        if labeled.classes != first.classes:
            raise UserError(
                f"{first.where}: expected the same classes in all splits, got "
                f"{len(first.classes)} in {first_split} and {len(labeled.classes)} in {split}: "
                "correct the folders"
            )


def _fingerprint(splits: LabeledSplits) -> dict[str, Json]:
    """Return the numbers of images and a digest of everything, to tell sources apart."""
    digest = hashlib.sha256()
    counts = {}
    for split, labeled in splits.items():
        counts[split] = len(labeled)
        digest.update(f"{split} {labeled.classes} {labeled.images_NHWC.shape}".encode())
        digest.update(labeled.labels.tobytes())
        digest.update(np.ascontiguousarray(labeled.images_NHWC).data)
    return {"images": counts, "digest": digest.hexdigest()}
