"""Memory that this process may still take."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 4 * 2**30
"""Assumed where the system does not say: that of a small computer."""


def available_memory() -> int:
    """Bytes that can be allocated without swapping, as far as the system tells.

    The limit of a container (cgroup, version 2) counts as well as the memory of the machine.
    """
    limits = []
    machine = _machine_available()
    if machine is not None:
        limits.append(machine)
    container = _container_available()
    if container is not None:
        limits.append(container)
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


def _container_available() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text("ascii").strip()
        used = int((_CGROUP / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return None
    # "max": no limit
    return max(0, int(limit) - used) if limit.isdigit() else None
