"""The course of a search, read: `latents.csv` of a run folder."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class Latents:
    """What was left of the channels of one group while the search ran."""

    group: str
    """Its name."""
    iterations: tuple[int, ...]
    """When samples were taken, rising."""
    values: NDArray[np.float64]
    """Shape (channels, samples); 0 = cut."""


def read_latents(path: Path) -> tuple[Latents, ...]:
    """Return the groups in the order of the file; none where there is no file.

    Raises:
        UserError: a line is not iteration, group and numbers, or the samples of a group differ in length.
    """
    if not path.exists():
        return ()
    samples: dict[str, list[tuple[int, list[float]]]] = {}
    with open(path, newline="", encoding="utf-8") as stream, readable(path):
        for number, cells in enumerate(csv.DictReader(stream), start=2):
            try:
                numbers = [float(value) for value in cells["latents"].split()]
                samples.setdefault(cells["group"], []).append((int(cells["iteration"]), numbers))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise UserError(
                    f"{path}, line {number}: expected iteration, group, latents: {error}"
                ) from error
    return tuple(_group(path, name, found) for name, found in samples.items())


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a file that is no CSV raises into a message that names the file."""
    try:
        yield
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{path}: expected a CSV file, found: {error}") from error


def _group(path: Path, name: str, found: list[tuple[int, list[float]]]) -> Latents:
    lengths = {len(values) for _, values in found}
    if len(lengths) != 1:
        raise UserError(
            f"{path}: expected as many latents in every sample of {name}, found {sorted(lengths)}"
        )
    values = np.array([values for _, values in found], dtype=np.float64).T
    return Latents(name, tuple(iteration for iteration, _ in found), np.nan_to_num(values))
