"""A tiny classification set in all formats that are read."""

from pathlib import Path

import numpy as np

from dhp_sr.data.labeled import LabeledImages

CLASSES = ("ant", "bee", "cow")


def tiny(count=7, side=32, seed=0, where="tiny") -> LabeledImages:
    """Random images of three classes, in a mixed order."""
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), draw.integers(0, 3, count - 3)])
    images = draw.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return LabeledImages(images, draw.permutation(labels), CLASSES, where)


def write_cifar_10(folder: Path, labeled: LabeledImages, split="train") -> Path:
    """Write the original's binary layout byte by byte, independently of the package's writer."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "data_batch_1.bin" if split == "train" else "test_batch.bin"
    records = []
    for label, image in zip(labeled.labels.tolist(), labeled.images_NHWC, strict=True):
        records.append(bytes([label]) + image.transpose(2, 0, 1).tobytes())
    (folder / name).write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("\n".join(labeled.classes) + "\n\n")
    return folder


def write_cifar_100(folder: Path, labeled: LabeledImages, split="train") -> Path:
    """Write CIFAR-100's layout: the coarse label first, then the fine label.

    The coarse label is 0 for the first class and 1 for the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for label, image in zip(labeled.labels.tolist(), labeled.images_NHWC, strict=True):
        records.append(bytes([min(label, 1), label]) + image.transpose(2, 0, 1).tobytes())
    (folder / f"{split}.bin").write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("\n".join(labeled.classes) + "\n")
    (folder / "coarse_label_names.txt").write_text("first\nother\n")
    return folder


def contents(labeled: LabeledImages) -> dict[str, list[bytes]]:
    """Return the images of every class, whatever their order."""
    found = {name: [] for name in labeled.classes}
    for label, image in zip(labeled.labels.tolist(), labeled.images_NHWC, strict=True):
        found[labeled.classes[label]].append(image.tobytes())
    return {name: sorted(images) for name, images in found.items()}
