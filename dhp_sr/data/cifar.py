"""CIFAR-10 and CIFAR-100 in their own binary files: records of one or two label bytes and 3072 bytes of pixels.

CIFAR-10 has `data_batch_1.bin`, ... and `test_batch.bin` with one label; CIFAR-100 has `train.bin` and `test.bin` with
the coarse and the fine label. The other form that both are published in is a pickle, which is not read.
"""

from pathlib import Path

import numpy as np

from dhp_sr.data.labeled import LabeledImages
from dhp_sr.utils.errors import UserError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
NAMES_10 = "batches.meta.txt"
_COUNTS = {"one": 10, "fine": 100, "coarse": 20}


def is_cifar(folder: Path) -> bool:
    """Return whether a folder holds CIFAR's own files, in a form that can be read or not."""
    return any(path.is_file() and _looks_like_cifar(path.name) for path in folder.iterdir())


def _looks_like_cifar(name: str) -> bool:
    return name.startswith(("data_batch", "test_batch")) or name in (
        "train.bin",
        "test.bin",
        "batches.meta",
    )


def splits_of_cifar(folder: Path) -> list[str]:
    """Return which of `train` and `test` are there."""
    found = {"train": [*folder.glob("data_batch_*.bin"), *folder.glob("train.bin")]}
    found["test"] = [*folder.glob("test_batch.bin"), *folder.glob("test.bin")]
    splits = [split for split, paths in found.items() if paths]
    if not splits:
        raise UserError(f"{folder}: {_nothing(folder, 'train')}")
    return splits


def read_cifar(folder: Path, split: str, labels: str = "fine") -> LabeledImages:
    """Read a split, `train` or `test`.

    Args:
        folder: Holds the files.
        split: `train` or `test`.
        labels: `fine` or `coarse`, where there are both.

    Raises:
        UserError: A file is missing or cut short, or only the pickles are there.
    """
    if split not in ("train", "test"):
        raise UserError(
            f"{folder}: CIFAR's files are a train and a test set, found split {split!r}: correct `split`"
        )
    if (folder / f"{split}.bin").is_file():
        return _hundred(folder, split, labels)
    paths = (
        sorted(folder.glob("data_batch_*.bin"))
        if split == "train"
        else sorted(folder.glob("test_batch.bin"))
    )
    if not paths:
        raise UserError(f"{folder}: {_nothing(folder, split)}")
    if labels != "fine":
        raise UserError(
            f"{folder}: labels: {labels} is for CIFAR-100, found files of CIFAR-10: remove it"
        )
    _check_numbers(folder, paths, split)
    records = np.concatenate([_records(path, 1) for path in paths])
    return _labeled(records, 0, _names(folder / NAMES_10, _COUNTS["one"]), str(folder))


def _hundred(folder: Path, split: str, labels: str) -> LabeledImages:
    names = _names(folder / f"{labels}_label_names.txt", _COUNTS[labels])
    return _labeled(
        _records(folder / f"{split}.bin", 2), ("coarse", "fine").index(labels), names, str(folder)
    )


def _labeled(records: np.ndarray, place: int, names: tuple[str, ...], where: str) -> LabeledImages:
    labels = records[:, place].astype(np.int64)
    planes = records[:, -PIXELS:].reshape(-1, 3, SIDE, SIDE)
    return LabeledImages(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, names, where)


def _records(path: Path, label_bytes: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    size = label_bytes + PIXELS
    if not len(data) or len(data) % size:
        expected = f"expected a multiple of {size} bytes ({label_bytes} of labels and {PIXELS} of pixels an image)"
        raise UserError(
            f"{path}: {expected}, found {len(data)}: it is cut short; copy or download it again"
        )
    return data.reshape(-1, size)


def _check_numbers(folder: Path, paths: list[Path], split: str) -> None:
    """Miss a file out of the middle: they are numbered from 1."""
    expected = [f"data_batch_{number}.bin" for number in range(1, len(paths) + 1)]
    missing = sorted(set(expected) - {path.name for path in paths})
    if split == "train" and missing:
        raise UserError(
            f"{folder}: expected {', '.join(missing)} beside {paths[-1].name}, found none: copy it there"
        )


def _names(path: Path, count: int) -> tuple[str, ...]:
    """Return the names of the classes, or numbers where their file is missing."""
    if not path.is_file():
        return tuple(str(number) for number in range(count))
    names = tuple(
        line.strip()
        for line in path.read_text("utf-8", errors="replace").splitlines()
        if line.strip()
    )
    if not names:
        raise UserError(f"{path}: expected the names of the classes, one a line, found none")
    return names


def _nothing(folder: Path, split: str) -> str:
    wanted = "data_batch_1.bin, ..." if split == "train" else "test_batch.bin"
    pickles = [
        path.name
        for path in folder.iterdir()
        if _looks_like_cifar(path.name) and path.suffix != ".bin"
    ]
    if pickles:
        advice = "a pickle can run code and is not read; take the set's binary version (cifar-10-binary.tar.gz)"
        return f"expected {wanted}, found {pickles[0]}: {advice}"
    return f"expected {wanted}, found none: copy it there"
