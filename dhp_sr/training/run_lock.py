"""Lock of a run folder: one process writes to it, and a process that lost it stops.

The lock is a file in the folder with a POSIX lock on it, which the kernel gives back when its
process ends, however that happens. Its text names host and process for the message.
"""

import errno
import json
import os
import platform
import socket
import time
from pathlib import Path

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject

try:
    import fcntl
except ImportError:  # not on Windows, where the lock's text alone has to do
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = "run.lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Changes at every start of a Linux system."""
UPTIME = Path("/proc/uptime")
"""Seconds since the start of a Linux system, first of its numbers."""
_MAX_BYTES = 4096
_ATTEMPTS = 10
"""Tries to lock a folder that other processes rename or leave at the same moment."""


class FolderInUseError(UserError):
    """Another process writes to the folder, or has taken it over."""


class RunLock:
    """Lock of a folder, held from `acquire` to `release`.

    A POSIX lock rather than `flock`: it is not inherited by the workers that load images, which
    outlive a killed run by some seconds. It is lost when its process closes any descriptor of the
    file, so nothing else here opens a lock file that may be held by this process.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path) -> "RunLock":
        """Lock a folder, which is made if there is none.

        Raises:
            FolderInUseError: A running process has the lock, or one on another machine may have it.
            OSError: The folder cannot be written.
        """
        path = folder / LOCK_NAME
        for _ in range(_ATTEMPTS):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                continue  # the folder was renamed just now
            lock = cls(path, descriptor)
            try:
                lock._take()
            except BaseException:
                os.close(descriptor)
                raise
            # Another process may have renamed the folder, or removed the file, in the meantime.
            if lock.is_held():
                return lock
            os.close(descriptor)
        raise FolderInUseError(f"{folder}: other processes start and end runs of this name")

    def __enter__(self) -> "RunLock":
        """Return the lock, which is held already."""
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lock."""
        self.release()

    def is_held(self) -> bool:
        """Return whether the folder at this path is still the one that was locked."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        mine = os.fstat(self._descriptor)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def check(self) -> None:
        """Check that no other process has taken the folder over.

        A process that was suspended may wake up long after its lock was removed by hand, or its
        folder renamed. From then on its files would end up among those of the other run.

        Raises:
            FolderInUseError: The folder is no longer this run's.
        """
        if not self.is_held():
            raise FolderInUseError(
                f"{self.path.parent}: the folder or its lock was removed or taken over by another "
                "run; this one stops and writes nothing more there"
            )

    def release(self) -> None:
        """Remove the lock; if it was lost, leave that of the other run alone."""
        if self.is_held():
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _take(self) -> None:
        has_lock = fcntl is not None
        try:
            if has_lock:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FolderInUseError(self._message(self._read())) from None
            has_lock = False  # this file system has no locks
        owner = self._read()
        if owner and not _has_ended(owner, has_lock=has_lock):
            raise FolderInUseError(self._message(owner))
        os.ftruncate(self._descriptor, 0)
        this_process = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "boot": _boot_id(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "time": time.time(),
        }
        os.pwrite(self._descriptor, json.dumps(this_process).encode() + b"\n", 0)

    def _read(self) -> JsonObject:
        try:
            owner = json.loads(os.pread(self._descriptor, _MAX_BYTES, 0))
        except (ValueError, RecursionError):
            return {}  # new, or its process was killed while it wrote the text
        return owner if isinstance(owner, dict) else {}

    def _message(self, owner: JsonObject) -> str:
        process, host = owner.get("pid", "unknown"), owner.get("host", "unknown")
        text = (
            f"{self.path.parent}: process {process} on host {host} writes to this folder since "
            f"{owner.get('since', 'unknown')}; wait until it ends, stop it, or give this run "
            "another name (train.py --set name=NAME)"
        )
        if host != socket.gethostname() or owner.get("boot") != _boot_id():
            text += f". If it no longer runs there, remove {self.path}"
        return text


def _boot_id() -> str:
    if BOOT_ID.exists():
        return BOOT_ID.read_text().strip()
    return platform.node()  # not Linux: a restart cannot be told, but locks end with it, too


def _has_ended(owner: JsonObject, *, has_lock: bool) -> bool:
    """Return whether the process that wrote a lock's text is known to have ended.

    Args:
        owner: The text.
        has_lock: Whether this process got the kernel's lock on the file.
    """
    # The kernel that gave us its lock is the one that the owner ran under: it has ended. This
    # holds for other containers on the machine, too, whose processes have other numbers.
    if has_lock and owner.get("boot") == _boot_id():
        return True
    if owner.get("host") != socket.gethostname():
        return False  # locks may not reach from one machine to the other
    if owner.get("boot") != _boot_id():
        # The machine was restarted since; or it is another one of the same name, as containers
        # often are, and has written the lock while this one was running.
        return not _is_since_start(owner.get("time"))
    return not _is_running(owner.get("pid"))


def _is_since_start(moment: object) -> bool:
    """Return whether a moment, in seconds of the epoch, is after the start of this machine."""
    if not isinstance(moment, int | float) or not UPTIME.exists():
        return False
    return moment > time.time() - float(UPTIME.read_text().split()[0])


def _is_running(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as another user
    return True
