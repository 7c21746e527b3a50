"""Folders of sub-images and of LR images, and LMDBs: made beside their final name, resumable, renamed when complete.

An unfinished target is called `<target>.part` and holds a record of the settings and images it is made from; a finished
one keeps the record (`prepare.json`), so that the same command run again finds nothing left to do.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dhp_sr.data.bicubic import downscale
from dhp_sr.data.images import crop_to_multiple, encode_png
from dhp_sr.data.lmdb_read import Database
from dhp_sr.data.lmdb_write import verify_database, write_database
from dhp_sr.data.paired import listed
from dhp_sr.data.sources import FileImage, StoredImage, find_images
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_write, write_json

RECORD = "prepare.json"


@dataclass(frozen=True)
class Crop:
    """Cuts an image into overlapping squares, left to right and top to bottom: `name_s001.png`, `name_s002.png`, ..."""

    size: int
    """Side of the squares in pixels."""
    step: int
    """Distance between neighbors."""
    threshold: int
    """A last row or column, flush with the border, is added when more than this many pixels would be lost."""
    multiple: int = 1
    """Sides are first cut to multiples of this, so that the last squares of HR and LR lie at the same place."""

    def __call__(self, image: StoredImage, folder: Path) -> None:
        """Write those squares of `image` that are not yet in `folder`."""
        height, width, _ = image.size()
        height, width = height - height % self.multiple, width - width % self.multiple
        corners = [(top, left) for top in self.starts(height) for left in self.starts(width)]
        paths = [folder / f"{image.key}_s{number:03d}.png" for number in range(1, len(corners) + 1)]
        if all(path.exists() for path in paths):
            return
        pixels = image.read()
        for path, (top, left) in zip(paths, corners, strict=True):
            _write_png(path, pixels[top : top + self.size, left : left + self.size])

    def starts(self, length: int) -> list[int]:
        """Return where squares start along a side of `length` pixels."""
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
            height, width, _ = image.size()
            if min(height - height % self.multiple, width - width % self.multiple) < self.size:
                small.append(f"{image.where} ({height}x{width})")
        if small:
            found = (
                f"expected images of at least {self.size}x{self.size} pixels, found {listed(small)}"
            )
            raise UserError(f"{found}: lower --size or remove these images")


@dataclass(frozen=True)
class Shrink:
    """Makes the LR image of an image by exact bicubic, once its sides are cut to multiples of the scale."""

    scale: int
    template: str
    """Name of the LR image, without extension, from the HR's."""

    def __call__(self, image: StoredImage, folder: Path) -> None:
        """Write the LR image of `image` unless it is in `folder`."""
        path = folder / f"{self.template.replace('{}', image.key)}.png"
        if not path.exists():
            _write_png(path, downscale(crop_to_multiple(image.read(), self.scale), self.scale))

    def check(self, images: Sequence[StoredImage]) -> None:
        """Check the template and that every image has at least one LR pixel.

        Raises:
            UserError: The template has not exactly one place for the name, or an image is too small.
        """
        if self.template.count("{}") != 1:
            raise UserError(
                f"expected a template with one {{}} for the HR name, found {self.template!r}"
            )
        if "/" in self.template:
            raise UserError(
                f"expected a template for a file's name, without /, found {self.template!r}"
            )
        small = [image.where for image in images if min(image.size()[:2]) < self.scale]
        if small:
            raise UserError(
                f"expected images of at least {self.scale} pixels a side, found {listed(small)}: remove them"
            )


def fill_folder(
    source: str | Path, target: str | Path, task: Crop | Shrink, workers: int = 1
) -> int:
    """Run `task` on every image of `source` and put the results into the folder `target`.

    Args:
        source: Folder, `.lmdb` folder or `bundled:...`.
        target: Folder to make.
        task: What to do with an image.
        workers: Processes.

    Returns:
        Number of images read; 0 if the target was complete.

    Raises:
        UserError: Source or target cannot be used, or an image is damaged.
    """
    images, target = find_images(source), Path(target).expanduser()
    _check_unique(images)
    task.check(images)
    settings = {"task": type(task).__name__.lower(), **vars(task), **_fingerprint(images)}
    part = begin(target, settings)
    if part is None:
        return 0
    with tqdm(
        total=len(images), desc=f"{settings['task']} {target}", unit="image", disable=None
    ) as bar:
        _run(task, images, part, workers, bar.update)
    finish(part, target)
    return len(images)


def make_database(source: str | Path, target: str | Path) -> int:
    """Make an LMDB of the images of `source`; arguments, result and errors as for `fill_folder`."""
    if Path(target).suffix != ".lmdb":
        raise UserError(
            f"{target}: expected a name that ends in .lmdb: BasicSR and dhp_sr tell databases by it"
        )
    images, target = find_images(source), Path(target).expanduser()
    part = begin(target, {"task": "lmdb", **_fingerprint(images)})
    if part is None:
        return 0
    with tqdm(total=len(images), desc=f"lmdb {target}", unit="image", disable=None) as bar:
        write_database(images, part, bar.update)
    finish(part, target)
    return len(images)


def check_database(target: str | Path, source: str | Path | None = None) -> None:
    """Decode a whole LMDB, compare it with its meta file, and with the images of `source` where given.

    Raises:
        UserError: It is incomplete or differs; the faults are listed.
    """
    originals = None if source is None else find_images(source)
    with tqdm(
        total=len(Database(target).sizes()), desc=f"verify {target}", unit="image", disable=None
    ) as bar:
        faults = verify_database(target, originals, bar.update)
    if faults:
        raise UserError(
            f"{target}: expected no faults, {len(faults)} found: {listed(faults, 20)}: make the LMDB again"
        )


def begin(target: Path, settings: dict[str, Any]) -> Path | None:
    """Return the unfinished folder to fill, or None if the target is complete."""
    if not target.name:
        raise UserError(
            f"expected the name of a folder to make, found {str(target)!r}: choose a new name"
        )
    part = target.with_name(f"{target.name}.part")
    if target.is_dir() and any(target.iterdir()):
        if _record(target) == settings:
            return None
        raise UserError(
            f"{target}: exists, made from other images or with other settings: delete it or choose another"
        )
    if target.is_file():
        raise UserError(f"{target}: expected a folder to make, found a file: choose another name")
    if part.exists() and _record(part) != settings:
        found = "is left from an interrupted run with other images or settings"
        raise UserError(
            f"{part}: {found}: delete it, or finish that run first with its own arguments"
        )
    part.mkdir(parents=True, exist_ok=True)
    write_json(part / RECORD, settings)
    return part


def finish(part: Path, target: Path) -> None:
    """Give a filled folder its final name."""
    for leftover in part.glob(".*.part"):  # temporary files of a run that was killed
        leftover.unlink()
    os.replace(part, target)


def _record(folder: Path) -> Any:
    try:
        return json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _fingerprint(images: Sequence[StoredImage]) -> dict[str, Any]:
    """Return the number of images and a digest of names, sizes and file lengths, to tell sources apart cheaply."""
    digest = hashlib.sha256()
    for image in images:
        length = image.path.stat().st_size if isinstance(image, FileImage) else 0
        digest.update(f"{image.key} {image.size()} {length}\n".encode())
    return {"images": len(images), "digest": digest.hexdigest()}


def _check_unique(images: Sequence[StoredImage]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        if image.key in seen:
            raise UserError(
                f"{image.where} and {seen[image.key]} have the same name without extension: rename one"
            )
        seen[image.key] = image.where


def _write_png(path: Path, pixels: np.ndarray) -> None:
    if not path.exists():
        with atomic_write(path) as stream:
            stream.write(encode_png(pixels, compress_level=6))


def _run(
    task: Callable, images: Sequence[StoredImage], folder: Path, workers: int, progress: Callable
) -> None:
    if workers <= 1:
        for image in images:
            task(image, folder)
            progress()
        return
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(task, image, folder) for image in images]
        try:
            for future in as_completed(futures):
                future.result()
                progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
