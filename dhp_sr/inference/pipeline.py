"""Many images through a model: decoding, network and encoding side by side, failures listed."""

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dhp_sr.deploy.runner import Runner
from dhp_sr.images import Image
from dhp_sr.inference.background import BackgroundReader, BackgroundWriter, WriteError
from dhp_sr.inference.encode import Result
from dhp_sr.inference.restore import ChannelAdapter, NetworkInput, restore_rows
from dhp_sr.inference.task_list import ImageTask
from dhp_sr.inference.tiles import MemoryBudget, TilingOptions, choose_tiling
from dhp_sr.utils.errors import UserError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Settings:
    """Settings of a run."""

    budget: MemoryBudget
    tiling: TilingOptions = field(default_factory=TilingOptions)
    sigma: float = 0.0
    """Standard deviation of noise to add, 0-255 scale."""
    seed: int = 0
    """Seed of the noise."""
    quality: int = 95
    """Quality of JPEG and WebP."""


@dataclass
class Summary:
    """Outcome of a run."""

    done: int = 0
    """Images written."""
    pixels: int = 0
    """Pixels of all results."""
    seconds: float = 0.0
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Image and reason, in the order of the images."""
    losses: Counter[str] = field(default_factory=Counter)
    """Property that images had and their results do not -> number of results."""


OnProgress = Callable[[float, int], None]
"""Called with the fraction of an image that was done, and the pixels of results that this is."""


def restore_images(
    tasks: Sequence[ImageTask], runner: Runner, settings: Settings, on_progress: OnProgress
) -> Summary:
    """Restore images and write the results; a failure does not stop the others.

    Args:
        tasks: The images.
        runner: The model.
        settings: Settings of the run.
        on_progress: Called from this thread.

    Returns:
        The summary of the images that were restored.

    Raises:
        UserError: The model does not take images, or the disk is full.
    """
    ChannelAdapter.between(3, runner)  # refuses unsuitable models before any image is read
    return _Run(tasks, runner, settings, on_progress).run()


@dataclass(frozen=True)
class _Expected:
    """Facts of a result that is not written yet, for the summary."""

    pixels: int
    losses: tuple[str, ...]


class _Run:
    """State of a run. The lock guards the summary, which the writer's thread changes too."""

    def __init__(
        self,
        tasks: Sequence[ImageTask],
        runner: Runner,
        settings: Settings,
        on_progress: OnProgress,
    ) -> None:
        self._tasks = tasks
        self._runner = runner
        self._settings = settings
        self._on_progress = on_progress
        self._summary = Summary()
        self._expected: dict[ImageTask, _Expected] = {}
        self._reasons: dict[ImageTask, str] = {}
        self._full_disk = ""
        self._lock = threading.Lock()

    def run(self) -> Summary:
        """Process all tasks."""
        start = time.perf_counter()
        budget = self._settings.budget
        # the writer is the outer context: it ends after the reader, and finishes what is queued
        with (
            BackgroundWriter(self.on_written) as writer,
            BackgroundReader(self._tasks, budget.image, budget.waiting) as reader,
        ):
            for task, decoded in reader:
                self.process(writer, task, decoded)
                if self._full_disk:
                    break
        summary = self._summary
        summary.seconds = time.perf_counter() - start
        for task in self._tasks:
            if task in self._reasons:
                summary.failures.append((task.source, self._reasons[task]))
        if self._full_disk:
            not_tried = len(self._tasks) - summary.done - len(self._reasons)
            raise UserError(
                f"stopped: {self._full_disk}; {summary.done} images done, {not_tried} not tried"
            )
        return summary

    def process(
        self, writer: BackgroundWriter, task: ImageTask, decoded: Image | Exception
    ) -> None:
        """Restore an image, or report why it could not be decoded."""
        if isinstance(decoded, Exception):
            self.fail(task, decoded)
            self._on_progress(1.0, 0)
            return
        progress = _ImageProgress(self._on_progress, decoded, self._runner.scale)
        try:
            self.restore(writer, task, decoded, progress)
        except WriteError:
            pass  # the writer has reported the reason
        except Exception as error:  # an image must not end the run: it is reported
            self.fail(task, error)
        progress.finish()

    def restore(
        self, writer: BackgroundWriter, task: ImageTask, image: Image, progress: "_ImageProgress"
    ) -> None:
        """Send an image through the network and its rows to the writer."""
        runner = self._runner
        settings = self._settings
        height, width, channels = image.color.shape
        adapter = ChannelAdapter.between(channels, runner)
        result = Result(
            format=task.format,
            height=height * runner.scale,
            width=width * runner.scale,
            channels=channels,
            alpha=image.alpha is not None,
            depth=image.depth,
            color_info=image.color_info,
            quality=settings.quality,
        )
        # before the work: hours of it would be lost at the end
        result.check(settings.budget.image)
        # the name without suffix, as in data sets: `test.py` adds the same noise
        seed = (settings.seed, task.source.stem)
        network_input = NetworkInput(image.color, runner.size_multiple, settings.sigma, seed)
        tiling = choose_tiling(
            runner,
            network_input.height,
            network_input.width,
            batch=adapter.batch,
            row_bytes=result.width * runner.scale * result.shape[2] * result.depth // 8,
            budget=settings.budget,
            options=settings.tiling,
        )
        # before the writer has it: a result counts when it is written, which may fail at its end
        with self._lock:
            self._expected[task] = _Expected(
                result.height * result.width, (*image.dropped, *result.losses())
            )
        with writer.open(task, result) as write:
            for rows in restore_rows(image, network_input, runner, adapter, tiling, progress):
                write(rows)

    def on_written(self, task: ImageTask, error: Exception | None) -> None:
        """Take the writer's report, in its thread."""
        if error is not None:
            self.fail(task, error)
            return
        with self._lock:
            expected = self._expected.pop(task)
            self._summary.done += 1
            self._summary.pixels += expected.pixels
            self._summary.losses.update(expected.losses)

    def fail(self, task: ImageTask, error: Exception) -> None:
        """Note why an image has no result."""
        # every further image would fail in the same way
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            self._full_disk = f"cannot write {task.target}: {error.strerror}"
        with self._lock:
            self._reasons[task] = _describe(error)


class _ImageProgress:
    """Progress within an image, as fractions of it."""

    def __init__(self, on_progress: OnProgress, image: Image, scale: int) -> None:
        self._on_progress = on_progress
        self._scale = scale
        self._pixels = image.color.shape[0] * image.color.shape[1]
        self._pixels_done = 0

    def __call__(self, pixels: int) -> None:
        self._pixels_done += pixels
        self._on_progress(pixels / self._pixels, pixels * self._scale**2)

    def finish(self) -> None:
        """Count the image as done, also where it failed half-way."""
        self._on_progress(1.0 - self._pixels_done / self._pixels, 0)


def _describe(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be written: {error.strerror or error}"
    return f"{type(error).__name__}: {str(error).strip()[:300] or 'no reason given'}"
