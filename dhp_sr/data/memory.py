"""Memory for data: what images may take in this process, and batches in what workers share."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from dhp_sr.data.samples import Batch
from dhp_sr.utils.errors import UserError

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = ("memory.max", "memory.current")
_CGROUP_1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
"""Limit and usage of a control group, version 2 and version 1."""
_UNKNOWN = 4 * 2**30
"""Assumed where the system does not say: that of a small computer."""

SHARED_MEMORY = Path("/dev/shm")
"""File system that torch allocates the batches of workers in; Docker gives it 64 MB."""
PREFETCH = 2
"""Batches that each worker prepares in advance."""
IN_USE = 2
"""Further batches: that of the current step, and the one that is taken from the queue."""
_PAGE = 4096
_MB = 2**20


def available_memory() -> int:
    """Bytes that can be allocated without swapping, as far as the system tells.

    The limit of a container or of a job (cgroup) counts as well as the memory of the machine.
    """
    limits = []
    machine = _machine_available()
    if machine is not None:
        limits.append(machine)
    for folder, files in _control_groups():
        available = _group_available(folder, files)
        if available is not None:
            limits.append(available)
    return min(limits, default=_UNKNOWN)


def _machine_available() -> int | None:
    try:
        for line in _MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024  # stated in KiB
    except (OSError, ValueError):
        pass
    try:
        # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _control_groups() -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the control groups that the process is in, and the names of their files.

    Reference:
        Linux, cgroups(7): lines of /proc/self/cgroup are number:controllers:path.
    """
    # In a container, its own group is the root.
    yield _CGROUP, _CGROUP_FILES
    yield _CGROUP / "memory", _CGROUP_1_FILES
    try:
        lines = _OWN_CGROUPS.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        root, files = _CGROUP, _CGROUP_FILES
        if "memory" in controllers.split(","):
            root, files = _CGROUP / "memory", _CGROUP_1_FILES
        elif number != "0":
            continue
        # The limit of a group holds for all groups in it: a job's is that of a folder above.
        folder = root / path.strip("/")
        while folder != root and root in folder.parents:
            yield folder, files
            folder = folder.parent


def _group_available(folder: Path, files: tuple[str, str]) -> int | None:
    try:
        limit = (folder / files[0]).read_text("ascii").strip()
        used = int((folder / files[1]).read_text("ascii"))
    except (OSError, ValueError):
        return None
    # "max": no limit
    return max(0, int(limit) - used) if limit.isdigit() else None


def check_shared_memory(batch: Batch, *, workers: int, processes: int) -> None:
    """Check that the batches of all workers fit into the shared memory.

    Without the check a worker is killed in the middle of a write (SIGBUS), and the training fails
    or waits for its batch.

    Args:
        batch: A whole batch, as workers make it.
        workers: Workers of each process.
        processes: Processes of this run, on this machine.

    Raises:
        UserError: They do not fit.
    """
    if workers == 0 or not SHARED_MEMORY.is_dir():
        return
    needed = required_bytes(batch.values(), workers) * processes
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if needed <= free:
        return
    of_processes = f" in each of {processes} processes" if processes > 1 else ""
    raise UserError(
        f"datasets.train: {workers} workers{of_processes} need {needed / _MB:.0f} MB of shared "
        f"memory ({SHARED_MEMORY}) for their batches, {free / _MB:.0f} MB are free; lower "
        "num_worker_per_gpu (0 needs none) or batch_size_per_gpu, or start the container with "
        f"--shm-size={-(-2 * needed // _MB)}m"
    )


def required_bytes(values: Iterable[object], workers: int) -> int:
    """Return the bytes that batches like this one take up at most at once.

    Args:
        values: Values of a batch; only tensors are shared.
        workers: That prepare batches.
    """
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            # Each tensor is a file of its own, in whole pages.
            total += -(-value.nbytes // _PAGE) * _PAGE
    return total * (workers * PREFETCH + IN_USE)
