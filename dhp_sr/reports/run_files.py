"""Readers of the files in a run folder: JSON, CSV tables, latents.csv and images/.

A run writes its files while it goes on: every reader returns None or nothing for a file that is
not there yet. For a damaged file it raises a UserError that names the file.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import PNG_SIGNATURE
from dhp_sr.utils.strict_json import JsonObject, parse_json

MAX_PNG_BYTES = 4 * 2**20
"""Largest PNG file accepted as a crop; those that a run writes are far smaller."""

INPUT = "input"
BICUBIC = "bicubic"
GROUND_TRUTH = "ground truth"
"""Names of the versions of a sample that no model made."""

# Readers are shown a longer name than the index of a run folder has.
_DISPLAY_NAMES = {"truth": GROUND_TRUTH, "gt": GROUND_TRUTH}


@dataclass(frozen=True)
class LatentHistory:
    """Latents of a channel group, sampled while the search ran."""

    group: str
    """Name of the group."""
    iterations: tuple[int, ...]
    """Iterations of the samples, ascending."""
    values: NDArray[np.float64]
    """Absolute latents, shape (channels, samples); 0 for a pruned channel."""


@dataclass(frozen=True)
class SampleVersion:
    """Crop of a test image as a model restored it."""

    name: str
    """`input`, `bicubic`, `ground truth`, or the name of a model."""
    png: bytes
    """Bytes of the PNG file."""
    psnr_db: float | None
    """PSNR of the whole image."""


@dataclass(frozen=True)
class Sample:
    """Crop of a test image in several versions."""

    test_set: str
    """Name of the test set."""
    image: str
    """Name of the image."""
    scale: int
    """Upscaling factor from the input to the GT image."""
    crop: tuple[int, int, int, int]
    """Top, left, height and width in pixels of the GT image."""
    versions: tuple[SampleVersion, ...]
    """Versions in the order to show them."""


def read_json(path: Path) -> JsonObject | None:
    """Read a JSON object.

    Raises:
        UserError: The path is not a file, or its content not a strict JSON object.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise UserError(f"{path}: expected a JSON file, found something else of that name")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and cells (column -> text) of every row of a CSV file with a header.

    Raises:
        UserError: The file is not CSV, or not text.
    """
    if not path.exists():
        return
    try:
        with open(path, newline="", encoding="utf-8") as file:
            # Line 1 is the header. No cell of a run's tables contains a line break.
            yield from enumerate(csv.DictReader(file), start=2)
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{path}: expected a CSV file, found: {error}") from error


def read_latents(path: Path) -> tuple[LatentHistory, ...]:
    """Read latents.csv, whose rows hold an iteration, a group and its latents between blanks.

    Raises:
        UserError: A row has another form, or the samples of a group differ in length.
    """
    # The rows of a sample's groups follow each other; here those of a group are brought together.
    samples: dict[str, list[tuple[int, list[float]]]] = {}
    for line, cells in csv_rows(path):
        try:
            latents = list(map(float, cells["latents"].split()))
            samples.setdefault(cells["group"], []).append((int(cells["iteration"]), latents))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line}: expected iteration, group, latents: {error}"
            ) from error
    histories = []
    for group, rows in samples.items():
        iterations, latents_of_samples = zip(*rows, strict=True)
        lengths = set(map(len, latents_of_samples))
        if len(lengths) != 1:
            raise UserError(
                f"{path}: expected as many latents in every sample of {group}, "
                f"found {sorted(lengths)}"
            )
        values = np.array(latents_of_samples, dtype=np.float64).T
        # A diverged search writes nan, which no color scale can show.
        histories.append(LatentHistory(group, iterations, np.nan_to_num(values)))
    return tuple(histories)


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """Read `images/` of a run: index.json and the PNG files that it names.

    A version whose file is missing is left out.

    Raises:
        UserError: The index is damaged, or a file is not PNG, too large, or outside the folder.
    """
    index = folder / "index.json"
    content = read_json(index)
    if content is None:
        return ()
    try:
        # The key is that of the first edition's files.
        return tuple(_read_sample(folder, entry) for entry in content["pictures"])
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{index}: expected the list of a run's images, found something else: {error!r}"
        ) from error


def _read_sample(folder: Path, entry: JsonObject) -> Sample:
    versions = []
    for version in entry["versions"]:
        path = folder / version["file"]
        # The page embeds these files: an index from elsewhere must not reach into other folders.
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{folder / 'index.json'}: expected files inside {folder}, "
                f"found {version['file']!r}"
            )
        if path.is_file():
            name = str(version["name"])
            display_name = _DISPLAY_NAMES.get(name, name)
            versions.append(SampleVersion(display_name, read_png(path), version["psnr_db"]))
    top, left, height, width = map(int, entry["crop"])
    return Sample(
        test_set=str(entry["set"]),
        image=str(entry["key"]),
        scale=int(entry["scale"]),
        crop=(top, left, height, width),
        versions=tuple(versions),
    )


def read_png(path: Path) -> bytes:
    """Read a PNG file for embedding, without decoding it.

    Raises:
        UserError: The file is larger than `MAX_PNG_BYTES`, or not PNG.
    """
    # The size is checked before the file is read into memory.
    size = path.stat().st_size
    if size > MAX_PNG_BYTES:
        raise UserError(f"{path}: expected at most {MAX_PNG_BYTES:,} bytes, found {size:,}")
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE):
        raise UserError(f"{path}: expected a PNG file, found another format")
    return data
