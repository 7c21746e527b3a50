"""Sources of images: folders, LMDB, photographs that scikit-image brings along, drawings."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dhp_sr.config.datasets import DRAWN, drawn_count
from dhp_sr.data import drawn
from dhp_sr.data.images import TRAINING_LIMITS, decode, header_size
from dhp_sr.data.lmdb_read import DATA, Database
from dhp_sr.images import ImageLimits
from dhp_sr.images.decode import check_regular_file
from dhp_sr.images.formats import SUFFIXES
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
        """Name of the image in messages."""

    @property
    def file(self) -> Path | None:
        """File that holds the image; None: it is in memory alone."""
        return None

    def state(self) -> tuple[str, int, int]:
        """Return `where`, and bytes and time of change (in nanoseconds) of the file."""
        assert self.file is not None  # images in memory are not cached
        status = self.file.stat()
        return self.where, status.st_size, status.st_mtime_ns

    @abstractmethod
    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) without decoding the pixels."""

    def holds_patch(self, side: int, scale: int) -> bool:
        """Return whether `side` pixels are left of it once it is cropped to the scale."""
        height, width, _ = self.size()
        return min(height - height % scale, width - width % scale) >= side

    def name_and_size(self) -> str:
        """Return its name with height and width, for messages about sizes."""
        height, width, _ = self.size()
        return f"{self.where} ({height}x{width})"

    @abstractmethod
    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""


@dataclass(frozen=True)
class FileImage(StoredImage):
    """An image file."""

    key: str
    path: Path
    limits: ImageLimits = TRAINING_LIMITS

    @property
    def where(self) -> str:
        """Path of the file."""
        return str(self.path)

    @property
    def file(self) -> Path:
        """The path."""
        return self.path

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) from the file's header."""
        return header_size(self.path, self.where, self.limits)

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""
        return decode(self.path, self.where, self.limits)


@dataclass(frozen=True)
class DatabaseImage(StoredImage):
    """An image of an LMDB."""

    key: str
    database: Database
    shape: tuple[int, int, int]
    limits: ImageLimits = TRAINING_LIMITS

    @property
    def where(self) -> str:
        """Folder of the database, and the key."""
        return f"{self.database.folder}, key {self.key}"

    @property
    def file(self) -> Path:
        """File of the database, with all of its images."""
        return self.database.folder / DATA

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels) from the meta file."""
        return self.shape

    def read(self) -> np.ndarray:
        """Return the pixels, uint8 of shape (H, W, 3) or (H, W, 1)."""
        pixels = decode(self.database.read_bytes(self.key), self.where, self.limits)
        # channels may differ: BasicSR's meta files count those of the decoded array
        if pixels.shape[:2] != self.shape[:2]:
            raise UserError(
                f"{self.where}: expected the meta file's size {self.shape}, got {pixels.shape}: "
                "make the LMDB again"
            )
        return pixels


@dataclass(frozen=True)
class DrawnImage(StoredImage):
    """An image that is drawn at every reading, always the same; see `dhp_sr.data.drawn`."""

    key: str
    number: int

    @property
    def where(self) -> str:
        """Name of the image: it lies nowhere."""
        return self.key

    def state(self) -> tuple[str, int, int]:
        """Return `where` and the version of the drawings."""
        return self.where, 0, drawn.VERSION

    def size(self) -> tuple[int, int, int]:
        """Return (height, width, channels)."""
        return drawn.SIDE, drawn.SIDE, 3

    def read(self) -> np.ndarray:
        """Draw the image, uint8 of shape (H, W, 3)."""
        return drawn.draw(self.number)


def find_images(root: str | Path, limits: ImageLimits = TRAINING_LIMITS) -> list[StoredImage]:
    """List the images of a source, sorted by name.

    Args:
        root: A folder (its sub-folders are not searched), an `.lmdb` folder, `bundled:...`, or
            `drawn:` and a number of images.
        limits: Checked before an image is decoded.

    Raises:
        UserError: The folder is missing, holds no image or an entry that is no file (such as a link
            to nothing), or the LMDB is incomplete.
    """
    if str(root).startswith("bundled:"):
        return _bundled(str(root))
    if str(root).startswith(DRAWN):
        return _drawn(str(root))
    folder = Path(root).expanduser()
    if folder.suffix == ".lmdb":
        return _database_images(folder, limits)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"{folder.absolute()}: expected a folder of images, got {got}: check the path "
            "(datasets/README.md says where images are looked for)"
        )
    paths = image_paths(folder.iterdir())
    if not paths:
        raise UserError(_describe_no_images(folder))
    return [FileImage(path.stem, path, limits) for path in paths]


def find_all(
    roots: str | Path | Sequence[str | Path], limits: ImageLimits = TRAINING_LIMITS
) -> list[list[StoredImage]]:
    """List the images of each of several sources, or of a single one; see `find_images`."""
    if isinstance(roots, str | Path):
        roots = [roots]
    if not roots:
        raise UserError(
            "expected at least a folder of images, got an empty list: fill in dataroot_gt"
        )
    return [find_images(root, limits) for root in roots]


def check_unique_keys(images: Sequence[StoredImage]) -> None:
    """Check that no two images have the same name without extension.

    Raises:
        UserError: Two have.
    """
    seen: dict[str, str] = {}
    for image in images:
        if image.key in seen:
            raise UserError(
                f"{image.where} and {seen[image.key]} have the same name without extension: "
                "rename either"
            )
        seen[image.key] = image.where


def image_paths(paths: Iterable[Path]) -> list[Path]:
    """Sort out the paths that are named like images; hidden ones and folders are left out.

    Raises:
        UserError: A path cannot be read as a file: a link to nothing, a pipe.
    """
    images = sorted(path for path in paths if _is_named_like_an_image(path))
    for path in images:
        # Links are common in data folders. Leaving out an image would change the set in silence.
        try:
            check_regular_file(path)
        except UserError as error:
            raise UserError(f"{path}: {error}: correct or remove it") from error
    return images


def _is_named_like_an_image(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not hidden and not path.is_dir()


def _bundled(name: str) -> list[StoredImage]:
    if name not in BUNDLED:
        raise UserError(f"expected {' or '.join(BUNDLED)}; got {name!r}{nearest(name, BUNDLED)}")
    # located, not imported: importing scikit-image takes a second
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError(
            f"{name}: the photographs are those of scikit-image, which is not installed: "
            "`pip install scikit-image`, or name a folder of images"
        )
    folder = Path(package.origin).parent / "data"
    paths = [folder / file for file in BUNDLED[name]]
    # distributions split their data off, or download it later
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{name}: this scikit-image comes without {', '.join(missing)}: "
            "`pip install --force-reinstall scikit-image`, or name a folder of images"
        )
    return [FileImage(path.stem, path) for path in paths]


def _drawn(name: str) -> list[StoredImage]:
    count = drawn_count(name)
    if count is None:
        raise UserError(f"expected a number of images after {DRAWN}, as in drawn:24; got {name!r}")
    return [DrawnImage(f"drawn_{number:05d}", number) for number in range(count)]


def _database_images(folder: Path, limits: ImageLimits) -> list[StoredImage]:
    database = Database(folder.absolute())
    sizes = database.sizes()
    if not sizes:
        raise UserError(
            f"{database.folder}: expected images, got an empty meta file: make the LMDB again"
        )
    return [DatabaseImage(key, database, sizes[key], limits) for key in sorted(sizes)]


def _describe_no_images(folder: Path) -> str:
    with_images = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(map(_is_named_like_an_image, path.iterdir())):
            with_images.append(path.name)
    advice = "check the path"
    if with_images:
        advice = f"name a sub-folder that holds some: {', '.join(with_images[:5])}"
    return f"{folder.absolute()}: expected images ({', '.join(SUFFIXES)}), got none: {advice}"
