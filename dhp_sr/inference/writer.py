"""Results encoded and written beside the network's work."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from dhp_sr.inference.encode import Result, write_result
from dhp_sr.inference.images import Pixels
from dhp_sr.inference.names import Job

_AHEAD = 2
_END, _ABANDONED = object(), object()


class WriteError(Exception):
    """The result cannot be written; the writer has reported it."""


class _Abandoned(Exception):
    """The network did not finish a picture."""


class Writer:
    """Encodes in a thread of its own; a context, which waits until all is written.

    Args:
        done: called from the thread for each result: the job, and what went wrong or None.
    """

    def __init__(self, done: Callable[[Job, Exception | None], None]) -> None:
        self._done = done
        self._items: queue.Queue[object] = queue.Queue(_AHEAD)
        self._failed: set[Job] = set()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.put(None)
        self._thread.join()

    @contextmanager
    def open(self, job: Job, result: Result) -> Iterator[Callable[[Pixels], None]]:
        """Give a function that takes the rows of a result; nothing is left of it if the block raises.

        Raises:
            WriteError: from the function, as soon as it is known that the result cannot be written.
        """

        def write(rows: Pixels) -> None:
            if job in self._failed:
                raise WriteError
            self._items.put(rows)

        self._items.put((job, result))
        try:
            yield write
        except BaseException:
            self._items.put(_ABANDONED)
            raise
        self._items.put(_END)

    def _serve(self) -> None:
        while (item := self._items.get()) is not None:
            job, result = item
            rows = self._rows()
            try:
                write_result(job.target, result, rows)
            except _Abandoned:
                continue
            except Exception as error:  # one result must not end the run: it is reported
                self._failed.add(job)
                self._drain(rows)
                self._done(job, error)
            else:
                self._done(job, None)

    def _rows(self) -> Iterator[Pixels]:
        while (item := self._items.get()) is not _END:
            if item is _ABANDONED:
                raise _Abandoned
            yield item

    @staticmethod
    def _drain(rows: Iterator[Pixels]) -> None:
        try:
            for _ in rows:
                pass
        except _Abandoned:
            pass
