"""Where images come from: folders, LMDB, and the photographs that scikit-image brings along."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhp_sr.data.images import EXTENSIONS, decode, header_size
from dhp_sr.data.lmdb_read import Database
from dhp_sr.utils.errors import UserError, nearest

BUNDLED = {
    "bundled:train": (
        "astronaut.png",
        "brick.png",
        "coins.png",
        "grass.png",
        "hubble_deep_field.jpg",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    "bundled:val": ("camera.png", "chelsea.png", "coffee.png"),
}
"""Photographs in the wheel of scikit-image, split once and for all."""


class StoredImage(ABC):
    """An image that has not been read yet."""

    key: str
    """File name without its extension."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Return what to call the image in messages."""

    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) without decoding the pixels."""

    @abstractmethod
    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""


@dataclass(frozen=True)
class FileImage(StoredImage):
    """An image file."""

    key: str
    path: Path

    @property
    def where(self) -> str:
        """Return the path."""
        return str(self.path)

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) from the file's header."""
        return header_size(self.path, self.where)

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{self.where}: cannot read the image file: {error.strerror}"
            ) from error
        return decode(data, self.where)


@dataclass(frozen=True)
class DatabaseImage(StoredImage):
    """An image of an LMDB."""

    key: str
    database: Database
    shape: tuple[int, int, int]

    @property
    def where(self) -> str:
        """Return the database's folder and the key."""
        return f"{self.database.folder}, key {self.key}"

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) from the meta file."""
        return self.shape

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""
        pixels = decode(self.database.read_bytes(self.key), self.where)
        if pixels.shape[:2] != self.shape[:2]:
            found = f"expected the meta file's size {self.shape}, found {pixels.shape}"
            raise UserError(f"{self.where}: {found}: make the LMDB again")
        return pixels


def find_images(root: str | Path) -> list[StoredImage]:
    """Return the images of a folder (not of its sub-folders), an `.lmdb` folder or `bundled:...`, sorted by name.

    Raises:
        UserError: The folder is missing or holds no image, or the LMDB is incomplete.
    """
    if str(root).startswith("bundled:"):
        return _bundled(str(root))
    folder = Path(root).expanduser()
    if folder.suffix == ".lmdb":
        return _database_images(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        advice = "check the path (datasets/README.md says where images are looked for)"
        raise UserError(
            f"{folder.absolute()}: expected a folder of images, found {found}: {advice}"
        )
    paths = sorted(path for path in folder.iterdir() if _is_image(path))
    if not paths:
        raise UserError(_no_images(folder))
    return [FileImage(path.stem, path) for path in paths]


def find_all(roots: str | Path | Sequence[str | Path]) -> list[list[StoredImage]]:
    """Return the images of each of several roots, or of the only one."""
    several = [roots] if isinstance(roots, str | Path) else list(roots)
    if not several:
        raise UserError(
            "expected at least one folder of images, found an empty list: fill in dataroot_gt"
        )
    return [find_images(root) for root in several]


def _bundled(name: str) -> list[StoredImage]:
    if name not in BUNDLED:
        raise UserError(
            f"expected one of {', '.join(BUNDLED)}; found {name!r}{nearest(name, BUNDLED)}"
        )
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        advice = "`pip install scikit-image`, or name a folder of images"
        raise UserError(
            f"{name}: the photographs are those of scikit-image, which is not installed: {advice}"
        )
    paths = [Path(package.origin).parent / "data" / file for file in BUNDLED[name]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        advice = "`pip install --force-reinstall scikit-image`, or name a folder of images"
        raise UserError(f"{name}: this scikit-image comes without {', '.join(missing)}: {advice}")
    return [FileImage(path.stem, path) for path in paths]


def _database_images(folder: Path) -> list[StoredImage]:
    database = Database(folder.absolute())
    sizes = database.sizes()
    if not sizes:
        raise UserError(
            f"{database.folder}: expected images, found an empty meta file: make the LMDB again"
        )
    return [DatabaseImage(key, database, sizes[key]) for key in sorted(sizes)]


def _no_images(folder: Path) -> str:
    below = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and any(map(_is_image, path.iterdir()))
    )
    advice = (
        f"name one of its sub-folders that do: {', '.join(below[:5])}"
        if below
        else "check the path"
    )
    return f"{folder.absolute()}: expected images ({', '.join(EXTENSIONS)}), found none: {advice}"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
