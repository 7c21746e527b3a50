"""Decoding ahead of the network and encoding behind it, each in its thread."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from dhp_sr.images import (
    Image,
    ImageLimits,
    ImageTooLargeError,
    Pixels,
    read_header,
    read_image,
)
from dhp_sr.inference.encode import Result, write_result
from dhp_sr.inference.task_list import ImageTask
from dhp_sr.utils.errors import UserError

_IMAGES_AHEAD = 4
_STRIPS_AHEAD = 2


class BackgroundReader:
    """Images decoded ahead, as many as the memory allows; a context, which ends the thread.

    Args:
        tasks: The images, in order.
        max_bytes: Memory that decoding an image may take.
        waiting_bytes: Memory of all decoded images; a single one is always allowed.
    """

    def __init__(self, tasks: Sequence[ImageTask], max_bytes: int, waiting_bytes: int) -> None:
        self._tasks = tasks
        self._limits = ImageLimits(max_bytes)
        self._waiting_bytes = waiting_bytes
        self._decoded: queue.Queue[tuple[ImageTask, Image | Exception, int] | None]
        # bounded by number as well: tiny images would be decoded by the thousand
        self._decoded = queue.Queue(_IMAGES_AHEAD)
        self._held_bytes = 0
        self._stopped = False
        self._changed = threading.Condition()  # of the two fields above
        self._thread = threading.Thread(target=self._serve, name="reader", daemon=True)

    def __enter__(self) -> "BackgroundReader":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        # the thread may be waiting to put an image into a full queue
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._decoded.get(timeout=0.05)

    def __iter__(self) -> Iterator[tuple[ImageTask, Image | Exception]]:
        """Yield every task with its image, or with the reason why it cannot be decoded."""
        while (item := self._decoded.get()) is not None:
            task, decoded, held_bytes = item
            del item
            yield task, decoded
            # no reference may keep the image alive while another is decoded
            del decoded
            with self._changed:
                self._held_bytes -= held_bytes
                self._changed.notify_all()

    def _serve(self) -> None:
        for task in self._tasks:
            try:
                needed = read_header(task.source).decode_bytes
            except UserError:
                # decoding fails in the same way, and that is reported
                needed = 0
            with self._changed:
                # a single image is decoded whatever it takes: its limit is checked later
                while not self._stopped and self._held_bytes:
                    if self._held_bytes + needed <= self._waiting_bytes:
                        break
                    self._changed.wait()
                if self._stopped:
                    break
                self._held_bytes += needed
            decoded = self._decode(task)
            self._decoded.put((task, decoded, needed))
            del decoded
        self._decoded.put(None)

    def _decode(self, task: ImageTask) -> Image | Exception:
        try:
            return read_image(task.source, self._limits)
        except ImageTooLargeError as error:
            return UserError(f"{error}: the share of --memory; raise it if it is really that large")
        except Exception as error:  # an image must not end the run: it is reported
            return error


class WriteError(Exception):
    """The result cannot be written; the writer has reported it."""


class _AbandonedError(Exception):
    """The network did not finish an image."""


# marks in the writer's queue
_END = object()
_ABANDONED = object()


class BackgroundWriter:
    """Results encoded behind the network; a context, which waits until all is written.

    Args:
        on_written: Called from the thread for each result, with the task and the error or None.
    """

    def __init__(self, on_written: Callable[[ImageTask, Exception | None], None]) -> None:
        self._on_written = on_written
        self._items: queue.Queue[Any] = queue.Queue(_STRIPS_AHEAD)
        self._failed: set[ImageTask] = set()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)

    def __enter__(self) -> "BackgroundWriter":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # unlike the reader, it finishes: results that are computed are not thrown away
        self._items.put(None)
        self._thread.join()

    @contextmanager
    def open(self, task: ImageTask, result: Result) -> Iterator[Callable[[Pixels], None]]:
        """Give a function that takes the rows of a result; nothing is left if the block raises.

        Raises:
            WriteError: From the function, as soon as it is known that writing fails.
        """

        def write(rows: Pixels) -> None:
            if task in self._failed:
                raise WriteError
            self._items.put(rows)

        self._items.put((task, result))
        try:
            yield write
        except BaseException:
            # the thread is inside write_result, which removes its temporary file when it is told
            self._items.put(_ABANDONED)
            raise
        self._items.put(_END)

    def _serve(self) -> None:
        while (item := self._items.get()) is not None:
            task, result = item
            rows = self._rows()
            try:
                write_result(task.target, result, rows)
            except _AbandonedError:
                continue
            except Exception as error:  # a result must not end the run: it is reported
                self._failed.add(task)
                # rows that are on their way belong to this result, not to the next
                with suppress(_AbandonedError):
                    for _ in rows:
                        pass
                self._on_written(task, error)
            else:
                self._on_written(task, None)

    def _rows(self) -> Iterator[Pixels]:
        while (item := self._items.get()) is not _END:
            if item is _ABANDONED:
                raise _AbandonedError
            yield item
