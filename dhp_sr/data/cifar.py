"""CIFAR-10 and CIFAR-100 in their binary files: records of labels and 3072 bytes of pixels.

CIFAR-10 has `data_batch_1.bin`, ... and `test_batch.bin` with a label byte; CIFAR-100 has
`train.bin` and `test.bin` with the coarse and the fine label. The other format that both are
published in is a pickle, which is not read.
"""

from pathlib import Path

import numpy as np

from dhp_sr.data.labeled import LabeledImages
from dhp_sr.utils.errors import UserError

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
CLASS_NAMES_10 = "batches.meta.txt"
_CLASSES_10 = 10
_CLASSES_100 = {"coarse": 20, "fine": 100}
"""Kind of label, in the order of the bytes in a record -> number of classes."""


def is_cifar(folder: Path) -> bool:
    """Return whether a folder holds CIFAR's files, readable or not."""
    # pickles count: a message about them is better than that nothing is there
    return any(path.is_file() and _is_cifar_name(path.name) for path in folder.iterdir())


def _is_cifar_name(name: str) -> bool:
    names = ("train.bin", "test.bin", "batches.meta")
    return name.startswith(("data_batch", "test_batch")) or name in names


def splits_of_cifar(folder: Path) -> list[str]:
    """List which of `train` and `test` are present.

    Raises:
        UserError: Neither is.
    """
    patterns = {
        "train": ("data_batch_*.bin", "train.bin"),
        "test": ("test_batch.bin", "test.bin"),
    }
    splits = []
    for split, names in patterns.items():
        for name in names:
            if split not in splits and list(folder.glob(name)):
                splits.append(split)
    if not splits:
        raise UserError(f"{folder}: {_describe_missing(folder, 'train')}")
    return splits


def read_cifar(folder: Path, split: str, labels: str = "fine") -> LabeledImages:
    """Read a split.

    Args:
        folder: The folder with the files.
        split: `train` or `test`.
        labels: `fine` or `coarse`, where there are both.

    Raises:
        UserError: A file is missing or cut short, or only the pickles are present.
    """
    if split not in ("train", "test"):
        raise UserError(
            f"{folder}: CIFAR's files are a train and a test set, got split {split!r}: "
            "correct `split`"
        )
    if (folder / f"{split}.bin").is_file():
        names = _read_class_names(folder / f"{labels}_label_names.txt", _CLASSES_100[labels])
        records = _read_records(folder / f"{split}.bin", label_bytes=2)
        label_byte = list(_CLASSES_100).index(labels)
        return _to_labeled(records, label_byte, names, str(folder))
    paths = sorted(folder.glob("data_batch_*.bin" if split == "train" else "test_batch.bin"))
    if not paths:
        raise UserError(f"{folder}: {_describe_missing(folder, split)}")
    if labels != "fine":
        raise UserError(
            f"{folder}: labels: {labels} is for CIFAR-100, got files of CIFAR-10: remove it"
        )
    if split == "train":
        _check_numbers(folder, paths)
    records = np.concatenate([_read_records(path, label_bytes=1) for path in paths])
    names = _read_class_names(folder / CLASS_NAMES_10, _CLASSES_10)
    return _to_labeled(records, 0, names, str(folder))


def _to_labeled(
    records: np.ndarray, label_byte: int, names: tuple[str, ...], where: str
) -> LabeledImages:
    # labels first, then a plane of red, of green and of blue, row by row
    labels = records[:, label_byte].astype(np.int64)
    planes = records[:, -PIXEL_BYTES:].reshape(-1, 3, SIDE, SIDE)
    images_NHWC = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return LabeledImages(images_NHWC, labels, names, where)


def _read_records(path: Path, label_bytes: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    # the format has no header: the length is all that can be checked
    size = label_bytes + PIXEL_BYTES
    if not len(data) or len(data) % size:
        raise UserError(
            f"{path}: expected a multiple of {size} bytes ({label_bytes} of labels and "
            f"{PIXEL_BYTES} of pixels an image), got {len(data)}: it is cut short; "
            "copy or download it again"
        )
    return data.reshape(-1, size)


def _check_numbers(folder: Path, paths: list[Path]) -> None:
    """Check that no file is missing: training files are numbered from 1."""
    expected = [f"data_batch_{number}.bin" for number in range(1, len(paths) + 1)]
    missing = sorted(set(expected) - {path.name for path in paths})
    if missing:
        raise UserError(
            f"{folder}: expected {', '.join(missing)} beside {paths[-1].name}, got none: "
            "copy it there"
        )


def _read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """Return the names of the classes, or numbers where their file is missing."""
    if not path.is_file():
        return tuple(map(str, range(count)))
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]  # published files end with empty lines
    if not names:
        raise UserError(f"{path}: expected the names of the classes, each on a line, got none")
    return tuple(names)


def _describe_missing(folder: Path, split: str) -> str:
    expected = "data_batch_1.bin, ..." if split == "train" else "test_batch.bin"
    for path in folder.iterdir():
        # data_batch_1 without a suffix is the pickle of the version for Python
        if _is_cifar_name(path.name) and path.suffix != ".bin":
            return (
                f"expected {expected}, got {path.name}: a pickle can run code and is not read; "
                "take the set's binary version (cifar-10-binary.tar.gz)"
            )
    return f"expected {expected}, got none: copy it there"
