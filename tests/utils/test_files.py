"""Files that are whole or not there."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dhp_sr.utils.files import (
    atomic_path,
    remove_stale_parts,
    temporary_folder,
    walk_folder,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_failed_write_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt"):
        write_text(tmp_path / "a.txt", "new")
    # Written by a function that writes atomically itself.
    with (
        pytest.raises(OSError, match=r"No space left on device: .*/a\.txt"),
        atomic_path(tmp_path / "a.txt") as temporary,
    ):
        write_text(temporary, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_umask_says_who_may_read_a_file(tmp_path):
    for mask, mode in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_text(tmp_path / "a.txt", "text")
        finally:
            os.umask(before)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_names_that_are_not_utf_8_can_be_written(tmp_path):
    write_text(tmp_path / "a.txt", os.fsdecode(b"gr\xfcn, gr\xc3\xbcn\n"))
    assert (tmp_path / "a.txt").read_text("utf-8") == "gr\\udcfcn, grün\n"


WRITE = """
import sys, time
from dhp_sr.utils.files import atomic_path, temporary_folder
with atomic_path(sys.argv[1]) as path, temporary_folder(sys.argv[2]) as folder:
    path.write_text("half")
    (folder / "a.bin").write_text("half")
    print("written", flush=True)
    time.sleep(600)
"""


def test_files_of_killed_processes_are_removed_and_those_in_use_stay(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.xml"]
    others = [tmp_path / ".c.png.abcdefgh.part", tmp_path / ".a.part", tmp_path / "a.png.part"]
    for other in others:
        other.write_text("of somebody else")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "written\n"
        assert remove_stale_parts(paths) == []
        process.send_signal(signal.SIGKILL)
    removed = remove_stale_parts(paths)
    assert sorted(path.name[:3] for path in removed) == [".a.", ".b."]
    assert sorted(tmp_path.iterdir()) == sorted(others)
    assert remove_stale_parts([tmp_path / "missing" / "a.png"]) == []


def test_a_file_that_was_made_just_now_may_not_be_locked_yet(tmp_path):
    part = tmp_path / ".a.png.abcdefgh.part"
    part.touch()
    assert remove_stale_parts([tmp_path / "a.png"]) == []
    os.utime(part, (0, time.time() - 60))
    assert remove_stale_parts([tmp_path / "a.png"]) == [part]


def test_whole_files_and_folders_leave_nothing(tmp_path):
    with atomic_path(tmp_path / "a") as path, temporary_folder(tmp_path / "b") as folder:
        path.write_text("a")
        os.replace(path.parent / path.name, path)
        (folder / "c").write_text("c")
        os.replace(folder / "c", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_walk_follows_links_once_and_leaves_hidden_folders_out(tmp_path):
    root = tmp_path / "root"
    for name in ("a/x.png", ".cache/x.png", "a/.ipynb_checkpoints/x.png", "out/x.png", "b.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.png").touch()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "loop").symlink_to(root)
    (root / "gone").symlink_to(tmp_path / "nothing")
    found = [str(path.relative_to(root)) for path in walk_folder(root, without=[root / "out"])]
    assert found == sorted(found)
    names = {"a", "a/loop", "a/x.png", "b.txt", "gone", "link", "link/y.png", "out"}
    assert set(found) == names


def test_a_walk_leaves_out_no_folder_in_silence(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    # root may read anything, so the answer of the system is replaced.
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match=tmp_path.name):
        list(walk_folder(tmp_path))
    errors = []
    assert list(walk_folder(tmp_path, on_error=errors.append)) == [] and len(errors) == 1


def test_a_walk_of_the_results_folder_itself(tmp_path):
    """Results beside their images: nothing is left out."""
    (tmp_path / "x.png").touch()
    assert list(walk_folder(tmp_path, without=[tmp_path])) == [tmp_path / "x.png"]


def test_a_pipe_takes_what_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "text\n")
        assert os.read(reader, 100) == b"text\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1
