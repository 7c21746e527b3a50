"""Many images through one model: decoding, network and encoding side by side, failures kept for the end."""

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dhp_sr.deploy.runner import Runner
from dhp_sr.inference.encode import Result
from dhp_sr.inference.images import Picture
from dhp_sr.inference.names import Job
from dhp_sr.inference.reader import Reader
from dhp_sr.inference.restore import restored
from dhp_sr.inference.source import Source, adapter
from dhp_sr.inference.tiles import Budget, Choice, choose
from dhp_sr.inference.writer import WriteError, Writer
from dhp_sr.utils.errors import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Settings:
    """How images are restored."""

    budget: Budget
    choice: Choice = field(default_factory=Choice)
    sigma: float = 0.0
    """Noise to add, 0-255 scale."""
    seed: int = 0
    quality: int = 95
    """Of JPEG and WebP."""


@dataclass
class Summary:
    """What became of the images."""

    done: int = 0
    pixels: int = 0
    """Of all results."""
    seconds: float = 0.0
    failures: list[tuple[Path, str]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """What formats could not hold -> in how many results."""


Progress = Callable[[float, int], None]
"""Told how much of an image was done, as a part of it, and how many pixels of results that is."""


def run(jobs: Sequence[Job], runner: Runner, settings: Settings, progress: Progress) -> Summary:
    """Restore images and write the results; one that fails does not stop the others.

    Args:
        jobs: the images.
        runner: the model.
        settings: how.
        progress: see there.

    Returns:
        What was done; the failures in the order of the images.

    Raises:
        UserError: the model does not take images.
    """
    adapter(runner, 3)
    return _Run(jobs, runner, settings, progress).run()


class _Run:
    def __init__(
        self, jobs: Sequence[Job], runner: Runner, settings: Settings, progress: Progress
    ) -> None:
        self._jobs, self._runner, self._settings, self._progress = jobs, runner, settings, progress
        self._summary, self._reasons, self._lock = Summary(), dict[Job, str](), threading.Lock()
        self._full_disk = ""

    def run(self) -> Summary:
        start, budget = time.perf_counter(), self._settings.budget
        with (
            Writer(self._written) as writer,
            Reader(self._jobs, budget.picture, budget.waiting) as pictures,
        ):
            for job, found in pictures:
                self._one(writer, job, found)
                if self._full_disk:
                    break
        self._summary.seconds = time.perf_counter() - start
        self._summary.failures = [
            (job.source, self._reasons[job]) for job in self._jobs if job in self._reasons
        ]
        if self._full_disk:
            left = len(self._jobs) - self._summary.done - len(self._reasons)
            raise UserError(
                f"stopped: {self._full_disk}; {self._summary.done} images done, {left} not tried"
            )
        return self._summary

    def _one(self, writer: Writer, job: Job, found: Picture | Exception) -> None:
        if isinstance(found, Exception):
            self._fail(job, found)
            self._progress(1.0, 0)
            return
        told = _Told(self._progress, found, self._runner.scale)
        try:
            self._restore(writer, job, found, told)
        except WriteError:
            pass  # the writer has told why
        except Exception as error:  # one image must not end the run: it is reported
            self._fail(job, error)
        told.finish()

    def _restore(self, writer: Writer, job: Job, picture: Picture, told: "_Told") -> None:
        runner, settings = self._runner, self._settings
        height, width, channels = picture.colours.shape
        fit = adapter(runner, channels)
        result = Result(
            kind=job.kind,
            height=height * runner.scale,
            width=width * runner.scale,
            channels=channels,
            alpha=picture.alpha is not None,
            depth=8 * picture.colours.itemsize,
            icc=picture.icc,
            quality=settings.quality,
        )
        result.check(settings.budget.picture)
        source = Source(
            picture.colours, runner.size_multiple, settings.sigma, (settings.seed, job.source.stem)
        )
        row_bytes = result.width * runner.scale * result.shape[2] * result.depth // 8
        tiling = choose(
            runner,
            source.height,
            source.width,
            batch=fit.batch,
            row_bytes=row_bytes,
            budget=settings.budget,
            choice=settings.choice,
        )
        with writer.open(job, result) as write:
            for rows in restored(picture, source, runner, fit, tiling, told):
                write(rows)
        with self._lock:
            self._summary.lost.update(result.losses())
            self._summary.pixels += result.height * result.width

    def _written(self, job: Job, error: Exception | None) -> None:
        """Take the writer's report, in its thread."""
        if error is not None:
            self._fail(job, error)
            return
        with self._lock:
            self._summary.done += 1

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno in _DISK:
            self._full_disk = f"cannot write {job.target}: {error.strerror}"
        with self._lock:
            self._reasons[job] = _reason(error)


class _Told:
    """Passes the progress of one image on, in parts of it."""

    def __init__(self, progress: Progress, picture: Picture, scale: int) -> None:
        self._progress, self._scale = progress, scale
        self._all, self._done = picture.colours.shape[0] * picture.colours.shape[1], 0

    def __call__(self, pixels: int) -> None:
        self._done += pixels
        self._progress(pixels / self._all, pixels * self._scale**2)

    def finish(self) -> None:
        self._progress(1.0 - self._done / self._all, 0)


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be written: {error.strerror or error}"
    return f"{type(error).__name__}: {str(error).strip()[:300] or 'no reason given'}"
