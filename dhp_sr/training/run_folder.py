"""Folder of a run: paths, CSV tables, log file, and the environment that it was made in."""

import csv
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from dhp_sr import __version__
from dhp_sr.training.distributed import DistributedContext, launch_id
from dhp_sr.training.run_lock import LOCK_NAME, RunLock
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import remove_partial_files, write_text
from dhp_sr.utils.strict_json import Json, JsonObject

CURVE_COLUMNS = ("iteration", "phase", "loss", "lr", *(kind.ratio_key for kind in ALWAYS_REPORTED))
VALIDATION_COLUMNS = ("iteration", "phase", "set")
"""Columns of validation.csv before those of the scores."""
LATENT_COLUMNS = ("iteration", "group", "latents")


class Table:
    """CSV file that grows row by row and whose first column is the iteration.

    Args:
        path: The file.
        columns: Names of its columns.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns

    def append(self, row: Mapping[str, object]) -> None:
        """Append a row, with the header before the first one; floats get nine digits."""
        cells = []
        for name in self.columns:
            value = row[name]
            # Nine digits tell any two float32 numbers apart.
            cells.append(f"{value:.9g}" if isinstance(value, float) else str(value))
        # Opened anew for every row: what a killed run has written is in the file, not in a buffer.
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(self.columns)
            writer.writerow(cells)

    def rewind(self, iteration: int) -> None:
        """Remove the rows after `iteration`, and a row that was cut off while it was written.

        Raises:
            UserError: A row does not begin with an iteration: somebody edited the file.
        """
        text = ""
        if self.path.exists():
            try:
                text = self.path.read_text(encoding="utf-8")
            except UnicodeError as error:
                raise UserError(
                    f"{self.path}: expected a table, got: {error}; repair or remove it"
                ) from error
        kept = []
        for row in text.splitlines(keepends=True)[1:]:
            if not row.endswith("\n"):
                continue  # the run was killed while it wrote this row
            first_cell = row.split(",", 1)[0]
            if not first_cell.isdecimal():
                raise UserError(
                    f"{self.path}: expected rows that begin with the iteration, "
                    f"got {row!r}; repair or remove it"
                )
            if int(first_cell) <= iteration:
                kept.append(row)
        write_text(self.path, ",".join(self.columns) + "\n" + "".join(kept))


class RunFolder:
    """Paths inside `experiments/<name>/`.

    Args:
        path: The folder.
        scores: Names of the scores in validation.csv; needed to write it.
    """

    def __init__(self, path: Path, scores: tuple[str, ...] = ()) -> None:
        self.path = path
        self.models = path / "models"
        self.states = path / "training_states"
        self.visualization = path / "visualization"
        self.tensorboard = path / "tb"
        self.samples = path / "images"  # crops for the report
        self.log = path / "train.log"
        self.curves = Table(path / "curves.csv", CURVE_COLUMNS)
        self.validation = Table(path / "validation.csv", VALIDATION_COLUMNS + scores)
        self.latents = Table(path / "latents.csv", LATENT_COLUMNS)
        self._lock: RunLock | None = None

    def model(self, name: str) -> Path:
        """Return the file of a model."""
        return self.models / f"{name}.safetensors"

    def results(self) -> JsonObject | None:
        """Return metrics.json, which is written when all else of a run is done; None before.

        Raises:
            UserError: The file is damaged.
        """
        path = self.path / "metrics.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: expected the results of the run, got: {error}; "
                "remove it, and --auto_resume makes it again"
            ) from error

    def open(self, *, resume: bool) -> Path | None:
        """Make and lock the folder; unless resuming, an earlier run is renamed, never overwritten.

        Returns:
            New path of an earlier run; None where there was none, or where it is resumed.

        Raises:
            FolderInUseError: Another run writes to the folder.
            UserError: The folder cannot be written.
        """
        archived = None
        try:
            is_earlier_run = self.path.exists() and not resume
            self._lock = RunLock.acquire(self.path)
            remove_partial_files(self.path)
            if is_earlier_run:
                # Locked while it is renamed: a run that still writes to it must be left alone.
                old_lock = self._lock
                archived = _archive(self.path)
                self._lock = RunLock.acquire(self.path)
                old_lock.release()
                (archived / LOCK_NAME).unlink(missing_ok=True)
            for folder in (self.models, self.states):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: expected a folder to write the run to, got: {error}"
            ) from error
        return archived

    def set_aside(self) -> Path | None:
        """Rename an earlier run, as a new one does when it begins.

        Returns:
            Its new path; None where there was none.

        Raises:
            FolderInUseError: It is running.
            UserError: The folder cannot be written.
        """
        if not self.path.exists():
            return None
        archived = self.open(resume=False)
        self.close()
        shutil.rmtree(self.path)  # made just now, for the lock
        return archived

    def launch(self) -> str | None:
        """Return the `launch_id` of the torchrun command that made the run; None without one."""
        path = self.path / "environment.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None  # killed before it was written
        return stored.get("launch") if isinstance(stored, dict) else None

    def check_lock(self) -> None:
        """Check that the folder is still this run's; to be called before it is written to.

        Raises:
            FolderInUseError: Another run has taken it over.
        """
        if self._lock is not None:
            self._lock.check()

    def close(self) -> None:
        """Release the folder if this process has locked it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def rewind(self, iteration: int, log_bytes: int) -> None:
        """Remove what was written after `iteration`.

        A killed run has written more than its newest state covers. Without this, a resumed run
        would write these rows and lines again.

        Args:
            iteration: Finished iterations of the state that is resumed.
            log_bytes: Length of the log file at that time.
        """
        self.curves.rewind(iteration)
        self.validation.rewind(iteration)
        if self.latents.path.exists():
            self.latents.rewind(iteration)
        # The log has no iterations to go by, so its length at the time of the state is stored.
        if self.log.exists() and self.log.stat().st_size > log_bytes:
            os.truncate(self.log, log_bytes)

    def log_bytes(self) -> int:
        """Return the length of the log file, for `rewind`."""
        return self.log.stat().st_size if self.log.exists() else 0


def _archive(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d_%H%M%S")
    target = path.with_name(f"{path.name}_archived_{stamp}")
    number = 1
    while target.exists():  # two runs archived within one second
        number += 1
        target = path.with_name(f"{path.name}_archived_{stamp}_{number}")
    return path.rename(target)


@contextmanager
def open_log(path: Path | None, *, screen: bool) -> Iterator[logging.Logger]:
    """Configure the logger of a run inside the block.

    Args:
        path: Log file; None writes none.
        screen: Whether to log to standard error as well, above a progress bar.
    """
    logger = logging.getLogger("dhp_sr")
    # Processes that do not write stay silent, errors apart.
    logger.setLevel(logging.INFO if screen else logging.ERROR)
    logger.propagate = False  # a root logger that somebody configured would print every line twice
    handlers: list[logging.Handler] = []
    if screen:
        handlers.append(_ProgressBarHandler())
    if path:
        file_handler = logging.FileHandler(path, encoding="utf-8")
        file_handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        handlers.append(file_handler)
    for handler in handlers:
        logger.addHandler(handler)
    # The logger outlives the run: several runs in a process must not write into each other's files.
    try:
        yield logger
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _ProgressBarHandler(logging.Handler):
    """Writes above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        # tqdm clears the bar, writes the line, and draws the bar again below it.
        tqdm.write(self.format(record), file=sys.stderr)


def environment(context: DistributedContext) -> dict[str, Json]:
    """Return versions, device and command of a run, for environment.json."""
    device_name = platform.processor() or platform.machine()
    if context.device.type == "cuda":
        device_name = torch.cuda.get_device_name(context.device)
    return {
        "dhp_sr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": str(context.device),
        "device_name": device_name,
        "processes": context.world_size,
        "threads": torch.get_num_threads(),
        "launch": launch_id(),
        "command": " ".join(sys.argv),
    }
