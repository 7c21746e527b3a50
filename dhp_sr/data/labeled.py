"""Images with labels, all of one size, in memory: what every form of a classification set is read into."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dhp_sr.data.images import rgb_to_grey, to_color
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class LabeledImages:
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


def checked(labeled: LabeledImages) -> LabeledImages:
    """Return the images once their labels are known to name classes.

    Raises:
        UserError: there is none, or a label is out of range.
    """
    if not len(labeled):
        raise UserError(f"{labeled.where}: expected images, found none: check the path and `split`")
    wrong = np.flatnonzero((labeled.labels < 0) | (labeled.labels >= len(labeled.classes)))
    if len(wrong):
        found = f"found {labeled.labels[wrong[0]]} at image {wrong[0]}"
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        expected = (
            f"expected labels from 0 to {len(labeled.classes) - 1} ({len(labeled.classes)} classes)"
        )
        raise UserError(
            f"{labeled.where}: {expected}, {found}{more}: correct the labels or the list of classes"
        )
    return labeled


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


def first_of_each_class(labeled: LabeledImages, count: int | None) -> LabeledImages:
    """Return only the first `count` images of every class, in the order they have; None keeps all."""
    if count is None:
        return labeled
    kept = np.sort(
        np.concatenate(
            [np.flatnonzero(labeled.labels == one)[:count] for one in np.unique(labeled.labels)]
        )
    )
    return replace(labeled, images_NHWC=labeled.images_NHWC[kept], labels=labeled.labels[kept])


def in_color(labeled: LabeledImages, color: str) -> LabeledImages:
    """Return the images as `rgb` or `grey`, see `images.to_color`."""
    if labeled.images_NHWC.shape[3] == (3 if color == "rgb" else 1):
        return labeled
    if color == "rgb":
        return replace(labeled, images_NHWC=np.repeat(labeled.images_NHWC, 3, axis=3))
    return replace(
        labeled, images_NHWC=np.stack([rgb_to_grey(image) for image in labeled.images_NHWC])
    )


def resized(labeled: LabeledImages, side: int | None) -> LabeledImages:
    """Return the images as squares of this side, as `stacked` makes them; None leaves them as they are."""
    if side is None or labeled.images_NHWC.shape[1:3] == (side, side):
        return labeled
    return replace(
        labeled, images_NHWC=np.stack([_center(image, side) for image in labeled.images_NHWC])
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
        images = [_center(image, side) for image in images]
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            (height, width), (first, second) = image.shape[:2], images[0].shape[:2]
            found = f"found {height}x{width} in {name} and {first}x{second} in {names[0]}"
            raise UserError(
                f"expected images of one size, {found}: set `size`, to which they are resized"
            )
    return np.stack(images) if images else np.empty((0, 1, 1, 3), np.uint8)


def _center(image_HWC: np.ndarray, side: int) -> np.ndarray:
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
