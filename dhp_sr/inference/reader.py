"""Images decoded ahead of the network, as many as the memory allows."""

import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

from dhp_sr.inference.images import Picture, decoded_bytes, read
from dhp_sr.inference.names import Job

_AHEAD = 4


class Reader:
    """Decodes in a thread of its own; a context, which ends the thread.

    Args:
        jobs: the images, in order.
        most_bytes: what one image may take.
        waiting_bytes: what all decoded images may take; a single one always may.
    """

    def __init__(self, jobs: Sequence[Job], most_bytes: int, waiting_bytes: int) -> None:
        self._jobs, self._most, self._waiting = jobs, most_bytes, waiting_bytes
        self._decoded: queue.Queue[tuple[Job, Picture | Exception, int] | None] = queue.Queue(
            _AHEAD
        )
        self._held, self._free, self._stopped = 0, threading.Condition(), False
        self._thread = threading.Thread(target=self._serve, name="reader", daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._free:
            self._stopped = True
            self._free.notify_all()
        while self._thread.is_alive():
            try:
                self._decoded.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[tuple[Job, Picture | Exception]]:
        """Yield every image, or what was wrong with it."""
        while (item := self._decoded.get()) is not None:
            job, found, size = item
            del item
            yield job, found
            del found
            with self._free:
                self._held -= size
                self._free.notify_all()

    def _serve(self) -> None:
        for job in self._jobs:
            size = decoded_bytes(job.source)
            with self._free:
                self._free.wait_for(
                    lambda size=size: self._stopped or not self._held or self._fits(size)
                )
                if self._stopped:
                    break
                self._held += size
            try:
                found: Picture | Exception = read(job.source, self._most)
            except Exception as error:  # one image must not end the run: it is reported
                found = error
            self._decoded.put((job, found, size))
            del found
        self._decoded.put(None)

    def _fits(self, size: int) -> bool:
        return self._held + size <= self._waiting
