"""Pieces of test pictures that a run kept, read: `images/index.json` and the PNG files that it names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import PNG_SIGNATURE

MAX_BYTES = 4 * 2**20
"""Of one PNG file; a run writes far smaller ones."""


@dataclass(frozen=True)
class Version:
    """A piece of a picture as one model made it."""

    name: str
    """input, bicubic, truth, or a model's name."""
    png: bytes
    """The file."""
    psnr_db: float | None
    """Of the whole picture."""


@dataclass(frozen=True)
class Picture:
    """A piece of one test picture in several versions."""

    set: str
    """Name of the test set."""
    key: str
    """Name of the picture."""
    scale: int
    """How many times the input is smaller than the truth."""
    crop: tuple[int, int, int, int]
    """Top, left, height and width in pixels of the truth."""
    versions: tuple[Version, ...]
    """In the order to show them."""


def read_pictures(folder: Path) -> tuple[Picture, ...]:
    """Read what is there; a version whose file is gone is left out.

    Args:
        folder: `images/` of a run.

    Raises:
        UserError: the index is damaged, a file is not PNG or too large, or lies outside the folder.
    """
    index = folder / "index.json"
    if not index.exists():
        return ()
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["pictures"]
        return tuple(_picture(folder, entry) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{index}: expected the pictures of a run, found something else: {error!r}"
        ) from error


def _picture(folder: Path, entry: Mapping[str, Any]) -> Picture:
    versions = []
    for version in entry["versions"]:
        path = folder / version["file"]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{folder / 'index.json'}: expected files inside {folder}, found {version['file']!r}"
            )
        if path.is_file():
            versions.append(Version(str(version["name"]), _png(path), version["psnr_db"]))
    top, left, height, width = (int(value) for value in entry["crop"])
    return Picture(
        str(entry["set"]),
        str(entry["key"]),
        int(entry["scale"]),
        (top, left, height, width),
        tuple(versions),
    )


def _png(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path}: expected at most {MAX_BYTES:,} bytes, found {path.stat().st_size:,}"
        )
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE):
        raise UserError(f"{path}: expected a PNG file, found another one")
    return data
