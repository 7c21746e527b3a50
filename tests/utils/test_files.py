"""Files that are whole or not there."""

import errno
import os

import pytest

from dhp_sr.utils.files import write_text


def test_a_failed_write_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dhp_sr.utils.files._sync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.txt"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_names_that_are_not_utf_8_can_be_written(tmp_path):
    write_text(tmp_path / "a.txt", os.fsdecode(b"gr\xfcn, gr\xc3\xbcn\n"))
    assert (tmp_path / "a.txt").read_text("utf-8") == "gr\\udcfcn, grün\n"
