"""The folder of a run: where its files are, and its tables."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text

CURVES = ("iteration", "phase", "loss", "lr", *(kind.ratio_key for kind in ALWAYS_REPORTED))
VALIDATION = ("iteration", "phase", "set")
"""Columns of validation.csv before the scores."""
LATENTS = ("iteration", "group", "latents")


class Table:
    """A CSV file that grows row by row and whose first column is the iteration."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, after the header where the file is new; numbers with fraction get nine digits."""
        cells = [
            f"{row[name]:.9g}" if isinstance(row[name], float) else str(row[name])
            for name in self.columns
        ]
        with open(self.path, "a", encoding="utf-8") as stream:
            if stream.tell() == 0:
                stream.write(",".join(self.columns) + "\n")
            stream.write(",".join(_quoted(cell) for cell in cells) + "\n")

    def rewind(self, iteration: int) -> None:
        """Keep the header and the rows up to `iteration`, and no half-written one."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        rows = [line for line in text.splitlines(keepends=True)[1:] if line.endswith("\n")]
        strange = [row for row in rows if not row.split(",", 1)[0].isdecimal()]
        if strange:
            raise UserError(
                f"{self.path}: expected rows that begin with the iteration, found {strange[0]!r}; mend it"
            )
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= iteration]
        write_text(self.path, ",".join(self.columns) + "\n" + "".join(kept))


class RunFolder:
    """Paths inside `experiments/<name>/`.

    Args:
        path: The folder.
        scores: Names of the scores in validation.csv; needed to write it.
    """

    def __init__(self, path: Path, scores: tuple[str, ...] = ()) -> None:
        self.path = path
        self.models, self.states = path / "models", path / "training_states"
        self.images, self.board = path / "visualization", path / "tb"
        self.samples = path / "images"
        self.log = path / "train.log"
        self.curves = Table(path / "curves.csv", CURVES)
        self.validation = Table(path / "validation.csv", VALIDATION + scores)
        self.latents = Table(path / "latents.csv", LATENTS)

    def model(self, name: str) -> Path:
        """Return the path of model `name`: dense, pruned or best."""
        return self.models / f"{name}.safetensors"

    def results(self) -> dict[str, Any] | None:
        """Return metrics.json, which is written when all else of a run is done; None before that.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "metrics.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            advice = "remove it, and --auto_resume makes it again"
            raise UserError(
                f"{path}: expected the results of the run, found: {error}; {advice}"
            ) from error

    def open(self, *, resume: bool) -> Path | None:
        """Make the folder; unless resuming, one that is there already is renamed, never overwritten.

        Returns:
            Where an earlier run lies now; None where there was none, or where it goes on.

        Raises:
            UserError: the folder cannot be written.
        """
        earlier = None
        try:
            if self.path.exists() and not resume:
                earlier = _archive(self.path)
            for folder in (self.models, self.states):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: expected a folder to write the run to, found: {error}"
            ) from error
        return earlier

    def rewind(self, iteration: int, log_bytes: int) -> None:
        """Forget what was written after `iteration`, so that a resumed run ends with the files of a straight one."""
        self.curves.rewind(iteration)
        self.validation.rewind(iteration)
        if self.latents.path.exists():
            self.latents.rewind(iteration)
        if self.log.exists() and self.log.stat().st_size > log_bytes:
            os.truncate(self.log, log_bytes)

    def log_bytes(self) -> int:
        """Return the length of the log file, for `rewind`."""
        return self.log.stat().st_size if self.log.exists() else 0


@contextmanager
def logging_to(path: Path | None, *, screen: bool) -> Iterator[logging.Logger]:
    """Give the run's logger: to `path` if there is one, and on the screen to standard error, past a progress bar."""
    logger = logging.getLogger("dhp_sr")
    logger.setLevel(logging.INFO if screen else logging.ERROR)
    logger.propagate = False
    handlers: list[logging.Handler] = [_BesideBar()] if screen else []
    if path:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[-1].setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield logger
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _BesideBar(logging.Handler):
    """Writes above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _archive(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d_%H%M%S")
    target, number = path.with_name(f"{path.name}_archived_{stamp}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}_archived_{stamp}_{number}")
    return path.rename(target)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n') else cell
