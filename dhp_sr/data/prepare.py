"""Folders of sub-images and of LR images, and LMDBs: resumable, and named only when complete."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dhp_sr.data.bicubic import downscale
from dhp_sr.data.images import PREPARATION_LIMITS, crop_to_multiple, encode_png
from dhp_sr.data.lmdb_read import Database
from dhp_sr.data.lmdb_write import verify_database, write_database
from dhp_sr.data.prepare_record import begin, finish
from dhp_sr.data.sources import FileImage, StoredImage, check_unique_keys, find_images
from dhp_sr.utils.errors import UserError, abbreviate
from dhp_sr.utils.files import atomic_write


@dataclass(frozen=True)
class Crop:
    """Cuts an image into overlapping squares, left to right and top to bottom.

    They are called `name_s001.png`, `name_s002.png`, ...
    """

    size: int
    """Side of the squares in pixels."""
    step: int
    """Distance between neighbors in pixels."""
    threshold: int
    """A last row or column, flush with the border, is added when more pixels would be lost."""
    multiple: int = 1
    """Sides are first cut to multiples of this: the last squares of HR and LR then fit."""

    def __call__(self, image: StoredImage, folder: Path) -> None:
        """Write those squares of `image` that are not yet in `folder`."""
        height, width = self._cropped_size(image)
        corners = []
        for top in self.starts(height):
            for left in self.starts(width):
                corners.append((top, left))
        paths = []
        missing = False
        for number in range(1, len(corners) + 1):
            path = folder / f"{image.key}_s{number:03d}.png"
            paths.append(path)
            missing = missing or not path.exists()
        if not missing:
            return
        # decoded once for all of its squares
        pixels = image.read()
        for path, (top, left) in zip(paths, corners, strict=True):
            _write_png(path, pixels[top : top + self.size, left : left + self.size])

    def starts(self, length: int) -> list[int]:
        """Return the first pixel of each square along a side of `length` pixels."""
        starts = list(range(0, length - self.size + 1, self.step))
        if length - self.size - starts[-1] > self.threshold:
            starts.append(length - self.size)
        return starts

    def check(self, images: Sequence[StoredImage]) -> None:
        """Check that every image holds a square.

        Raises:
            UserError: Some do not.
        """
        small = []
        for image in images:
            if min(self._cropped_size(image)) < self.size:
                height, width, _ = image.size()
                small.append(f"{image.where} ({height}x{width})")
        if small:
            raise UserError(
                f"expected images of at least {self.size}x{self.size} pixels, "
                f"got {abbreviate(small)}: lower --size or remove these images"
            )

    def _cropped_size(self, image: StoredImage) -> tuple[int, int]:
        height, width, _ = image.size()
        return height - height % self.multiple, width - width % self.multiple


@dataclass(frozen=True)
class Shrink:
    """Makes the LR image by exact bicubic, of an image cropped to a multiple of the scale."""

    scale: int
    template: str
    """Name of the LR image, without extension, from the HR's."""

    def __call__(self, image: StoredImage, folder: Path) -> None:
        """Write the LR image of `image` unless it is in `folder`."""
        path = folder / f"{self.template.replace('{}', image.key)}.png"
        if not path.exists():
            _write_png(path, downscale(crop_to_multiple(image.read(), self.scale), self.scale))

    def check(self, images: Sequence[StoredImage]) -> None:
        """Check the template and that every image has at least an LR pixel.

        Raises:
            UserError: The template does not hold the name exactly once, or an image is too small.
        """
        if self.template.count("{}") != 1:
            raise UserError(
                f"expected a template with a single {{}} for the HR name, got {self.template!r}"
            )
        if "/" in self.template:
            raise UserError(
                f"expected a template for a file's name, without /, got {self.template!r}"
            )
        small = []
        for image in images:
            if min(image.size()[:2]) < self.scale:
                small.append(image.where)
        if small:
            raise UserError(
                f"expected images of at least {self.scale} pixels a side, "
                f"got {abbreviate(small)}: remove them"
            )


def fill_folder(
    source: str | Path, target: str | Path, task: Crop | Shrink, workers: int = 1
) -> int:
    """Run a task on every image of `source` and put the results into the folder `target`.

    Args:
        source: Folder, `.lmdb` folder or `bundled:...`.
        target: Folder to make.
        task: Run on each image.
        workers: Processes.

    Returns:
        Number of images read; 0 if the target was complete.

    Raises:
        UserError: Source or target cannot be used, or an image is damaged.
    """
    images = find_images(source, PREPARATION_LIMITS)
    target = Path(target).expanduser()
    check_unique_keys(images)
    # before anything is written
    task.check(images)
    task_name = type(task).__name__.lower()
    settings = {"task": task_name, **vars(task), **_fingerprint(images)}
    unfinished = begin(target, source, settings, images)
    if unfinished is None:
        return 0
    title = f"{task_name} {target}"
    with tqdm(total=len(images), desc=title, unit="image", disable=None) as bar:
        _run(task, images, unfinished, workers, bar.update)
    finish(unfinished, target)
    return len(images)


def make_database(source: str | Path, target: str | Path) -> int:
    """Make an LMDB of the images of `source`; arguments, result and errors as for `fill_folder`."""
    if Path(target).suffix != ".lmdb":
        raise UserError(
            f"{target}: expected a name that ends in .lmdb: BasicSR and dhp_sr tell databases by it"
        )
    images = find_images(source, PREPARATION_LIMITS)
    target = Path(target).expanduser()
    unfinished = begin(target, source, {"task": "lmdb", **_fingerprint(images)}, images)
    if unfinished is None:
        return 0
    with tqdm(total=len(images), desc=f"lmdb {target}", unit="image", disable=None) as bar:
        write_database(images, unfinished, bar.update)
    finish(unfinished, target)
    return len(images)


def check_database(target: str | Path, source: str | Path | None = None) -> None:
    """Decode a whole LMDB; compare it with its meta file, and with the images of `source` if given.

    Raises:
        UserError: It is incomplete or differs; the faults are listed.
    """
    originals = None
    if source is not None:
        originals = find_images(source, PREPARATION_LIMITS)
    count = len(Database(target).sizes())
    with tqdm(total=count, desc=f"verify {target}", unit="image", disable=None) as bar:
        faults = verify_database(target, originals, bar.update)
    if faults:
        raise UserError(
            f"{target}: expected no faults, {len(faults)} got: {abbreviate(faults, 20)}: "
            "make the LMDB again"
        )


def _fingerprint(images: Sequence[StoredImage]) -> dict[str, int | str]:
    """Return the number of images and a digest of names, sizes and file lengths.

    That images of the same lengths were edited is seen by `begin`.
    """
    digest = hashlib.sha256()
    for image in images:
        length = 0
        if isinstance(image, FileImage):
            length = image.path.stat().st_size
        line = f"{image.key} {image.size()} {length}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))  # names may not be UTF-8
    return {"images": len(images), "digest": digest.hexdigest()}


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # a file that exists is complete: it was written by an interrupted run
    if not path.exists():
        with atomic_write(path) as file:
            file.write(encode_png(pixels, compress_level=6))


def _run(
    task: Crop | Shrink,
    images: Sequence[StoredImage],
    folder: Path,
    workers: int,
    on_image: Callable[[], object],
) -> None:
    if workers <= 1:
        for image in images:
            task(image, folder)
            on_image()
        return
    # processes: decoding and PNG's compression hold Python's lock most of the time
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(task, image, folder) for image in images]
        try:
            for future in as_completed(futures):
                future.result()
                on_image()
        except BaseException:
            # otherwise all images would be processed before the error is seen
            pool.shutdown(cancel_futures=True)
            raise
