"""Images with labels, all of the same size, in memory: a classification set as read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from dhp_sr.data.images import rgb_to_gray, to_color
from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class LabeledImages:
    """One split (train, test, ...) of a classification set."""

    images_NHWC: np.ndarray
    """uint8, RGB or gray."""
    labels: np.ndarray
    """int64 of shape (N,): indices into `classes`."""
    classes: tuple[str, ...]
    where: str
    """Path that they were read from, for messages."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)


def checked(labeled: LabeledImages) -> LabeledImages:
    """Return the images after a check that labels name classes.

    Raises:
        UserError: There is no image, a label is out of range, or a class has no valid name.
    """
    if not len(labeled):
        raise UserError(f"{labeled.where}: expected images, got none: check the path and `split`")
    for name in labeled.classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            # a folder's name in another encoding: no table and no model file could hold it
            raise UserError(
                f"{labeled.where}: class {name!r} is no text in UTF-8: rename it"
            ) from None
    class_count = len(labeled.classes)
    wrong = np.flatnonzero((labeled.labels < 0) | (labeled.labels >= class_count))
    if len(wrong):
        others = ""
        if len(wrong) > 1:
            others = f" and {len(wrong) - 1} others"
        raise UserError(
            f"{labeled.where}: expected labels from 0 to {class_count - 1} ({class_count} "
            f"classes), got {labeled.labels[wrong[0]]} at image {wrong[0]}{others}: "
            "correct the labels or the list of classes"
        )
    return labeled


def class_names(where: Path, rows: Iterable[tuple[str, int, str]]) -> tuple[str, ...]:
    """Collect the names of the classes in the order of their labels.

    Args:
        where: The table, for messages.
        rows: Class, label, and the image that a line is about.

    Raises:
        UserError: A class has two labels, or the labels are not 0, 1, ...
    """
    label_by_name: dict[str, int] = {}
    for name, label, image in rows:
        known = label_by_name.setdefault(name, label)
        if known != label:
            raise UserError(
                f"{where}: class {name!r} has the labels {known} and {label} (at {image})"
            )
    # a gap would be an output of the network that no image trains
    labels = sorted(label_by_name.values())
    if labels != list(range(len(labels))):
        raise UserError(
            f"{where}: expected the labels 0 to {len(labels) - 1} for {len(labels)} classes, "
            f"got {labels}: correct the labels"
        )
    return tuple(sorted(label_by_name, key=label_by_name.__getitem__))


def first_of_each_class(labeled: LabeledImages, count: int | None) -> LabeledImages:
    """Keep only the first `count` images of every class, in their order; None keeps all."""
    if count is None:
        return labeled
    kept: list[int] = []
    for label in np.unique(labeled.labels):
        kept += np.flatnonzero(labeled.labels == label)[:count].tolist()
    kept.sort()  # the order of the set, not class by class
    return replace(labeled, images_NHWC=labeled.images_NHWC[kept], labels=labeled.labels[kept])


def in_color(labeled: LabeledImages, color: str) -> LabeledImages:
    """Convert the images to `rgb` or to gray, see `images.to_color`."""
    if labeled.images_NHWC.shape[3] == (3 if color == "rgb" else 1):
        return labeled
    if color == "rgb":
        return replace(labeled, images_NHWC=np.repeat(labeled.images_NHWC, 3, axis=3))
    gray = np.stack([rgb_to_gray(image) for image in labeled.images_NHWC])
    return replace(labeled, images_NHWC=gray)


def resized(labeled: LabeledImages, side: int | None) -> LabeledImages:
    """Resize the images to squares as `stacked` does; None leaves them unchanged."""
    if side is None or labeled.images_NHWC.shape[1:3] == (side, side):
        return labeled
    squares = np.empty((len(labeled), side, side, labeled.images_NHWC.shape[3]), np.uint8)
    for index, image in enumerate(labeled.images_NHWC):
        squares[index] = _resize_and_crop(image, side)
    return replace(labeled, images_NHWC=squares)


def stacked(
    images: Sequence[np.ndarray], names: Sequence[str], side: int | None, color: str = "rgb"
) -> np.ndarray:
    """Stack decoded images (H, W, C) into an array (N, H, W, C).

    Args:
        images: uint8 each.
        names: Names of the images, for messages.
        side: Resize the shorter side to this and crop the middle; None: all have the same size.
        color: `rgb` or gray.

    Raises:
        UserError: Sizes differ.
    """
    if not images:
        return np.empty((0, 1, 1, 3), np.uint8)
    converted = []
    for image in images:
        # color first: interpolation rounds, and luma of rounded colors would be another value
        image = to_color(image, color)
        converted.append(image if side is None else _resize_and_crop(image, side))
    first = converted[0]
    for image, name in zip(converted, names, strict=True):
        if image.shape != first.shape:
            raise UserError(
                "expected images of the same size, "
                f"got {image.shape[0]}x{image.shape[1]} in {name} "
                f"and {first.shape[0]}x{first.shape[1]} in {names[0]}: "
                "set `size`, to which they are resized"
            )
    return np.stack(converted)


def _resize_and_crop(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """Resize the shorter side by bicubic interpolation and crop the middle, as torchvision does."""
    height, width = image_HWC.shape[:2]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        # rounding must not make a side shorter than the crop
        size = max(round(width * scale), side), max(round(height * scale), side)
        plain = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
        resample = PillowImage.Resampling.BICUBIC
        resized_image = np.array(PillowImage.fromarray(plain).resize(size, resample))
        image_HWC = resized_image.reshape(*resized_image.shape[:2], -1)
    height, width = image_HWC.shape[:2]
    top = (height - side) // 2
    left = (width - side) // 2
    return image_HWC[top : top + side, left : left + side]
