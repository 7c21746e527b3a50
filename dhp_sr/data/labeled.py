"""Images with labels, all of one size, in memory: what every form of a classification set is read into."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dhp_sr.data.images import rgb_to_grey, to_color
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """A part (train, test, ...) of a classification set."""

    images_NHWC: np.ndarray
    """uint8, RGB or grey."""
    labels: np.ndarray
    """int64 of shape (N,): places in `classes`."""
    classes: tuple[str, ...]
    where: str
    """Where they were read, for messages."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


def checked(labelled: LabelledImages) -> LabelledImages:
    """Return the images once their labels are known to name classes.

    Raises:
        UserError: there is none, or a label is out of range.
    """
    if not len(labelled):
        raise UserError(
            f"{labelled.where}: expected images, found none: check the path and `split`"
        )
    wrong = np.flatnonzero((labelled.labels < 0) | (labelled.labels >= len(labelled.classes)))
    if len(wrong):
        found = f"found {labelled.labels[wrong[0]]} at image {wrong[0]}"
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        expected = f"expected labels from 0 to {len(labelled.classes) - 1} ({len(labelled.classes)} classes)"
        raise UserError(
            f"{labelled.where}: {expected}, {found}{more}: correct the labels or the list of classes"
        )
    return labelled


def class_names(where: Path, rows: Iterable[tuple[str, int, str]]) -> tuple[str, ...]:
    """Return the names of the classes in the order of their labels.

    Args:
        where: The table, for messages.
        rows: Class, label, and the image that a line stands for.

    Raises:
        UserError: a class has two labels, or the labels are not 0, 1, ...
    """
    names: dict[str, int] = {}
    for name, label, picture in rows:
        if names.setdefault(name, label) != label:
            raise UserError(
                f"{where}: class {name!r} has the labels {names[name]} and {label} (at {picture})"
            )
    if sorted(names.values()) != list(range(len(names))):
        expected = f"expected the labels 0 to {len(names) - 1} for {len(names)} classes"
        raise UserError(f"{where}: {expected}, found {sorted(names.values())}: correct the labels")
    return tuple(sorted(names, key=names.__getitem__))


def first_of_each_class(labelled: LabelledImages, count: int | None) -> LabelledImages:
    """Return only the first `count` images of every class, in the order they have; None keeps all."""
    if count is None:
        return labelled
    kept = np.sort(
        np.concatenate(
            [np.flatnonzero(labelled.labels == one)[:count] for one in np.unique(labelled.labels)]
        )
    )
    return replace(labelled, images_NHWC=labelled.images_NHWC[kept], labels=labelled.labels[kept])


def in_color(labelled: LabelledImages, color: str) -> LabelledImages:
    """Return the images as `rgb` or `grey`, see `images.to_color`."""
    if labelled.images_NHWC.shape[3] == (3 if color == "rgb" else 1):
        return labelled
    if color == "rgb":
        return replace(labelled, images_NHWC=np.repeat(labelled.images_NHWC, 3, axis=3))
    return replace(
        labelled, images_NHWC=np.stack([rgb_to_grey(image) for image in labelled.images_NHWC])
    )


def resized(labelled: LabelledImages, side: int | None) -> LabelledImages:
    """Return the images as squares of this side, as `stacked` makes them; None leaves them as they are."""
    if side is None or labelled.images_NHWC.shape[1:3] == (side, side):
        return labelled
    return replace(
        labelled, images_NHWC=np.stack([_centre(image, side) for image in labelled.images_NHWC])
    )


def stacked(
    images: Sequence[np.ndarray], names: Sequence[str], side: int | None, color: str = "rgb"
) -> np.ndarray:
    """Return decoded images (H, W, C) as one array.

    Args:
        images: uint8 each.
        names: What to call each in messages.
        side: Resize the shorter side to this and cut the middle out; None: all must have one size already.
        color: `rgb` or `grey`.

    Raises:
        UserError: sizes differ.
    """
    images = [to_color(image, color) for image in images]
    if side is not None:
        images = [_centre(image, side) for image in images]
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            (height, width), (first, second) = image.shape[:2], images[0].shape[:2]
            found = f"found {height}x{width} in {name} and {first}x{second} in {names[0]}"
            raise UserError(
                f"expected images of one size, {found}: set `size`, to which they are resized"
            )
    return np.stack(images) if images else np.empty((0, 1, 1, 3), np.uint8)


def _centre(image_HWC: np.ndarray, side: int) -> np.ndarray:
    height, width = image_HWC.shape[:2]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = max(round(width * scale), side), max(round(height * scale), side)
        plain = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
        resized = np.array(Image.fromarray(plain).resize(size, Image.Resampling.BICUBIC))
        image_HWC = resized[:, :, None] if resized.ndim == 2 else resized
    height, width = image_HWC.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    return image_HWC[top : top + side, left : left + side]
