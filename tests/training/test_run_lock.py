"""The lock of a run folder: who has it, when it is stale, and a run that lost it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import run

from dhp_sr.training import run_lock
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.run_lock import LOCK_NAME, FolderInUseError, RunLock

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from dhp_sr.training.run_lock import RunLock
lock = RunLock.acquire(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_in_use_is_refused_and_its_process_named(holder, tmp_path):
    folder = RunFolder(tmp_path / "run")
    for resume in (False, True):
        with pytest.raises(FolderInUseError, match=rf"{holder.pid} on host {os.uname().nodename}"):
            folder.open(resume=resume)
    # A suspended process still has its run.
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(FolderInUseError, match=str(holder.pid)):
        folder.open(resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_lock_of_a_killed_process_is_stale(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "run" / LOCK_NAME).read_text())["pid"] == holder.pid
    lock = RunLock.acquire(tmp_path / "run")
    assert json.loads((tmp_path / "run" / LOCK_NAME).read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def write_lock(folder: Path, **changes) -> None:
    folder.mkdir(exist_ok=True)
    owner = {"host": os.uname().nodename, "pid": 1, "boot": "earlier", "since": "2026-01-01"}
    (folder / LOCK_NAME).write_text(json.dumps({**owner, **changes}))


def test_a_lock_of_an_earlier_boot_is_stale(tmp_path):
    write_lock(tmp_path)
    RunLock.acquire(tmp_path).release()


@pytest.mark.parametrize(("age", "is_stale"), [(0, False), (10**9, True)])
def test_a_lock_of_another_machine_of_the_same_name_is_respected(tmp_path, age, is_stale):
    """Containers often share their names; this one cannot have been restarted since."""
    write_lock(tmp_path, boot="of another machine", time=time.time() - age)
    if is_stale:
        RunLock.acquire(tmp_path).release()
    else:
        with pytest.raises(FolderInUseError, match=f"remove.*{LOCK_NAME}"):
            RunLock.acquire(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 10'])
def test_a_lock_that_was_not_written_to_its_end_is_stale(tmp_path, text):
    (tmp_path / LOCK_NAME).write_text(text)
    RunLock.acquire(tmp_path).release()


def test_a_lock_of_another_machine_is_respected(tmp_path):
    write_lock(tmp_path, host="elsewhere")
    with pytest.raises(FolderInUseError, match=rf"1 on host elsewhere.*{LOCK_NAME}"):
        RunLock.acquire(tmp_path)


@pytest.mark.parametrize(
    ("pid", "is_stale"),
    [(2**30, True), (os.getpid(), False), ("x", True)],
    ids=["no such process", "this process", "no number"],  # the same in every test process
)
def test_without_locks_of_the_file_system_the_process_decides(tmp_path, monkeypatch, pid, is_stale):
    monkeypatch.setattr(run_lock, "fcntl", None)
    write_lock(tmp_path, pid=pid, boot=run_lock._boot_id())
    if is_stale:
        RunLock.acquire(tmp_path).release()
    else:
        with pytest.raises(FolderInUseError, match=str(pid)):
            RunLock.acquire(tmp_path)


def test_a_run_whose_folder_was_taken_over_writes_nothing_more(make_options, tmp_path):
    """As after a pause: another start has renamed the folder and begun a run of the same name."""
    folder = tmp_path / "experiments" / "tiny"
    steps = []

    def other_start() -> bool:
        steps.append(1)
        if len(steps) == 5:
            folder.rename(folder.with_name("paused"))
            folder.mkdir()
            (folder / "curves.csv").write_text("iteration\n")
        return False

    with pytest.raises(FolderInUseError, match="tiny"):
        run(make_options(), tmp_path, stop=other_start)
    assert [path.name for path in folder.iterdir()] == ["curves.csv"]
    assert (folder / "curves.csv").read_text() == "iteration\n"
    assert "taken over" in (folder.with_name("paused") / "train.log").read_text()


def test_partial_files_of_killed_runs_are_removed(make_options, tmp_path):
    options = make_options(compress={}, train={"total_iter": 1})
    run(options, tmp_path)
    folder = tmp_path / "experiments" / "tiny"
    other = tmp_path / "experiments" / "other"
    other.mkdir()
    names = (".pruned.safetensors.abc.part", "models/.dense.safetensors.x.part")
    for name in names:
        (folder / name).write_text("half")
    (other / ".metrics.json.abc.part").write_text("half")
    (folder / "mine.part").write_text("whole")
    (folder / "other").symlink_to(other)
    (folder / "metrics.json").unlink()
    run(options, tmp_path, auto_resume=True)
    assert not any((folder / name).exists() for name in names)
    assert (folder / "mine.part").exists() and (other / ".metrics.json.abc.part").exists()

    # A run that makes room for a new one is cleared as well.
    (folder / names[0]).write_text("half")
    run(options, tmp_path)
    (archived,) = folder.parent.glob("tiny_archived_*")
    assert not (archived / names[0]).exists() and (archived / "mine.part").exists()


def test_the_lock_is_gone_after_a_run_and_after_a_mistake(make_options, tmp_path):
    options = make_options(compress={}, train={"total_iter": 2})
    run(options, tmp_path)
    assert not list(tmp_path.rglob(LOCK_NAME))
    with pytest.raises(RuntimeError, match="stop"):
        run(options, tmp_path, stop=lambda: (_ for _ in ()).throw(RuntimeError("stop")))
    assert not list(tmp_path.rglob(LOCK_NAME))


def test_workers_do_not_inherit_the_lock(tmp_path):
    """They outlive a killed run by seconds, in which it must be possible to resume it."""
    lock = RunLock.acquire(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        os.close(lock._descriptor)  # as at the end of the process
        code = f"from dhp_sr.training.run_lock import *; RunLock.acquire(Path({str(tmp_path)!r}))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
