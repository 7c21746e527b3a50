"""Memory that is available, by what the system says about machine, container and job."""

import pytest

from dhp_sr.data import memory

V1_NONE = str(2**63 - 4096)
"""How version 1 writes that there is no limit."""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Let a machine of 64 MiB have certain control groups: folder -> (limit, used)."""
    (tmp_path / "meminfo").write_text("MemTotal: 99999 kB\nMemAvailable: 65536 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "groups")

    def write(own, groups):
        if own is not None:
            (tmp_path / "own").write_text(own)
        for name, (limit, used) in groups.items():
            folder = tmp_path / "groups" / name
            folder.mkdir(parents=True, exist_ok=True)
            is_first = name.startswith("memory")
            files = ("limit_in_bytes", "usage_in_bytes") if is_first else ("max", "current")
            for file, value in zip(files, (limit, used), strict=True):
                (folder / f"memory.{file}").write_text(f"{value}\n")

    return write


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        (None, {}, 2**26),
        ("0::/\n", {"": ("max", 5)}, 2**26),
        ("0::/\n", {"": (2**20, 5)}, 2**20 - 5),
        # A job of a cluster: the limit is that of a group above.
        ("0::/slurm/job_1/step\n", {"slurm/job_1/step": ("max", 7), "slurm/job_1": (900, 7)}, 893),
        ("0::/user\n", {"user": (2**20, 2**21)}, 0),
        ("4:memory:/docker/1\n0::/\n", {"memory/docker/1": (800, 1)}, 799),
        ("4:cpu,memory:/job\n", {"memory": (V1_NONE, 1), "memory/job": (700, 0)}, 700),
        ("4:cpu:/job\n0::/\n", {"memory/job": (700, 0), "job": (600, 0)}, 2**26),
        ("0::/../x\n", {}, 2**26),
    ],
)
def test_the_least_limit_counts(system, own, groups, expected):
    system(own, groups)
    assert memory.available_memory() == expected
