"""Test images that are also among the training images: scores on them say nothing about others."""

import filecmp
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dhp_sr.data.disk_cache import Arrays, DiskCache
from dhp_sr.data.image_cache import ImageCache
from dhp_sr.data.sources import DatabaseImage, FileImage, StoredImage
from dhp_sr.data.subimages import with_subimages

_MAX_DECODED = 200
"""Training images, about, that are decoded to find sub-images: a few seconds."""

_BLOCK = 16
"""Side in pixels of the middle of an image that is compared first."""

Originals = Sequence[tuple[StoredImage, ...]]
"""Stored images of every item of a data set: the ground truth, and the input where it is stored."""


@runtime_checkable
class ImageSet(Protocol):
    """Data set of image restoration whose images can be told from those of another."""

    images: ImageCache
    """Decoded images; the first array of an item is the network's whole input."""
    keys: Sequence[str]
    """Names of the images."""
    originals: Originals
    """Where they are stored."""


@runtime_checkable
class TestImageSet(ImageSet, Protocol):
    """Such a data set for scoring."""

    input_shapes: Sequence[tuple[int, int, int]]
    """Shapes (C, h, w) of the network's inputs."""


def images_in_both(train: ImageSet, test: TestImageSet) -> list[str]:
    """Return the names of the test images that are training images, too.

    Told are the same files, whatever their names, copies, and test images that training images
    were cut out of. Training images that are decoded, in memory or on disk, are compared by pixels.
    Of others, files are compared by their bytes, and a few images are decoded: enough to tell that
    there are sub-images, though not of which test images all of them are.
    """
    shared = _same_files(train.originals, test.originals)
    decoded = _decoded_images(train.images)
    if decoded is not None:
        shared |= _same_pixels(decoded, test)
        shared |= with_subimages(decoded, test.images)
    else:
        shared |= _same_bytes(train.originals, test.originals)
        shared |= with_subimages(_some_that_fit(train, test), test.images)
    return [test.keys[index] for index in sorted(shared)]


def _decoded_images(images: ImageCache) -> Sequence[Arrays] | None:
    """Return the arrays of all items; None where each of them would have to be decoded."""
    if isinstance(images, list):
        return images
    if isinstance(images, DiskCache):
        # Of most images a few pixels are read: their checksums would take the whole file.
        return [images.unchecked(index) for index in range(len(images))]
    return None


def _some_that_fit(train: ImageSet, test: TestImageSet) -> Iterator[Arrays]:
    """Decode some training images, spread over all that are small enough for sub-images."""
    heights, widths = _sides(test.originals)
    fitting = []
    for index, (height, width) in enumerate(zip(*_sides(train.originals), strict=True)):
        if bool(np.any((heights >= height) & (widths >= width))):
            fitting.append(index)
    step = max(1, len(fitting) // _MAX_DECODED)
    for index in fitting[::step]:
        yield train.images[index]


def _sides(originals: Originals) -> tuple[np.ndarray, np.ndarray]:
    """Return the heights and widths of the ground truths, from their headers."""
    sizes = [images[0].size() for images in originals]
    heights, widths, _ = np.array(sizes).reshape(-1, 3).T
    return heights, widths


def images_in_both_arrays(train_NHWC: np.ndarray, test_NHWC: np.ndarray) -> int:
    """Return how many test images are training images, too; both uint8 (N, H, W, C)."""
    trained = {_digest(image) for image in train_NHWC}
    return sum(_digest(image) in trained for image in test_NHWC)


def _digest(image_HWC: np.ndarray) -> bytes:
    # Digests rather than the pixels, which would be held a second time.
    return hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest()


def _same_files(train: Originals, test: Originals) -> set[int]:
    """Return the indices of test items that share a file with a training item."""
    trained = {_identity(image) for images in train for image in images if image.file is not None}
    shared = set()
    for index, images in enumerate(test):
        if any(image.file is not None and _identity(image) in trained for image in images):
            shared.add(index)
    return shared


def _identity(image: StoredImage) -> tuple[int, int, str]:
    """Return device and number of an image's file, and its key where others are in the file."""
    assert image.file is not None
    status = os.stat(image.file)
    return status.st_dev, status.st_ino, image.key if isinstance(image, DatabaseImage) else ""


def _same_pixels(train: Sequence[Arrays], test: TestImageSet) -> set[int]:
    """Return the indices of test items whose input is that of a training item."""
    candidates: dict[tuple[tuple[int, ...], bytes], list[np.ndarray]] = {}
    for arrays in train:
        candidates.setdefault(_middle(arrays[0]), []).append(arrays[0])
    shapes = {shape for shape, _ in candidates}
    shared = set()
    for index, shape in enumerate(test.input_shapes):
        if shape not in shapes:
            continue  # not decoded in vain
        tested = test.images[index][0]
        if any(np.array_equal(tested, image) for image in candidates.get(_middle(tested), ())):
            shared.add(index)
    return shared


def _middle(image_CHW: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and a few pixels, which nearly always differ where images do."""
    top, left = (side // 2 for side in image_CHW.shape[1:])
    return image_CHW.shape, image_CHW[:, top : top + _BLOCK, left : left + _BLOCK].tobytes()


def _same_bytes(train: Originals, test: Originals) -> set[int]:
    """Return the indices of test items with a file that equals one of a training item."""
    by_length: dict[int, list[FileImage]] = {}
    for images in train:
        for image in images:
            if isinstance(image, FileImage):
                by_length.setdefault(image.path.stat().st_size, []).append(image)
    shared = set()
    for index, images in enumerate(test):
        for image in images:
            if not isinstance(image, FileImage):
                continue
            others = by_length.get(image.path.stat().st_size, ())
            if any(filecmp.cmp(image.path, other.path, shallow=False) for other in others):
                shared.add(index)
    return shared
