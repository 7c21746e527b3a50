"""The images of a run and the names of their results."""

import errno
import os
import unicodedata
from pathlib import Path

import pytest

from dhp_sr.inference.task_list import list_tasks
from dhp_sr.utils.errors import UserError


def touched(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def forbid(monkeypatch, folder):
    """Let a folder be one that cannot be read; to root, every folder can."""
    real = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def found(source, output, output_format="png", suffix=""):
    listed = list_tasks(source, output, output_format, suffix)
    return {
        str(task.source.relative_to(source)): str(task.target.relative_to(output))
        for task in listed.tasks
    }


def test_folders_are_kept_and_other_files_ignored(tmp_path):
    source = touched(
        tmp_path / "in",
        "a.PNG",
        "b/c.jpg",
        "b/notes.txt",
        "b/d/e.webp",
        ".hidden.png",
        ".git/f.png",
    )
    listed = list_tasks(source, tmp_path / "out", "png")
    assert found(source, tmp_path / "out") == {
        "a.PNG": "a.PNG",
        "b/c.jpg": "b/c.png",
        "b/d/e.webp": "b/d/e.png",
    }
    assert {path.name for path in listed.ignored} == {"notes.txt", ".hidden.png"}


def test_formats_and_suffixes(tmp_path):
    source = touched(tmp_path / "in", "a.jpeg", "b.tif", "c.gif")
    assert found(source, tmp_path, "same", "_x4") == {
        "a.jpeg": "a_x4.jpeg",
        "b.tif": "b_x4.tif",
        "c.gif": "c_x4.png",
    }
    assert found(source, tmp_path, "tiff")["b.tif"] == "b.tif"
    assert found(source, tmp_path, "webp")["a.jpeg"] == "a.webp"


def test_no_two_images_have_one_result(tmp_path):
    source = touched(tmp_path / "in", "a.png", "a.jpg", "A.bmp", "b.png", "a_jpg.png", "c/a.png")
    names = found(source, tmp_path / "out")
    assert (
        names["a.png"] == "a_png.png"
        and names["b.png"] == "b.png"
        and names["c/a.png"] == "c/a.png"
    )
    assert (
        names["a_jpg.png"] == "a_jpg.png"
        and names["a.jpg"] == "a_jpg1.png"
        and names["A.bmp"] == "A_bmp.png"
    )
    assert len({name.lower() for name in names.values()}) == len(names)


def test_one_file(tmp_path):
    source = touched(tmp_path, "a.jpg") / "a.jpg"
    (task,) = list_tasks(source, tmp_path / "out", "png").tasks
    assert task.target == tmp_path / "out" / "a.png"
    (task,) = list_tasks(source, tmp_path / "b.webp", "png").tasks
    assert (task.target, task.format) == (tmp_path / "b.webp", "webp")
    (tmp_path / "d.png").mkdir()
    (task,) = list_tasks(source, tmp_path / "d.png", "png").tasks
    assert task.target == tmp_path / "d.png" / "a.png"


@pytest.mark.parametrize(("output_format", "suffix"), [("png", "_x2"), ("jpg", "")])
def test_settings_that_the_name_of_the_result_contradicts(tmp_path, output_format, suffix):
    source = touched(tmp_path, "a.jpg") / "a.jpg"
    with pytest.raises(UserError, match=r"--(suffix|format jpg): .*b\.webp"):
        list_tasks(source, tmp_path / "b.webp", output_format, suffix)
    assert list_tasks(source, tmp_path / "b.webp", "webp").tasks
    assert list_tasks(source, tmp_path / "b", output_format, suffix).tasks


def test_the_images_of_a_folder_do_not_go_to_a_file(tmp_path):
    source = touched(tmp_path / "in", "a.jpg")
    touched(tmp_path, "b.png")
    with pytest.raises(UserError, match=r"--output .*b\.png is a file"):
        list_tasks(source, tmp_path / "b.png", "png")


def test_what_counts_as_a_result(tmp_path):
    """Neither a folder or a pipe of its name, nor what the file system cannot name."""
    long = "a" * 249
    source = touched(tmp_path / "in", "done.png", "folder.png", "pipe.png", f"{long}.png")
    out = touched(tmp_path / "out", "done_x4.png")
    (out / "folder_x4.png").mkdir()
    os.mkfifo(out / "pipe_x4.png")
    tasks = list_tasks(source, out, "png", "_x4").tasks
    assert [task.source.stem for task in tasks if task.is_done] == ["done"]
    assert len(tasks) == 4


def test_folders_that_cannot_be_read_are_listed(tmp_path, monkeypatch):
    source = touched(tmp_path / "in", "a.png", "locked/b.png")
    forbid(monkeypatch, source / "locked")
    listed = list_tasks(source, tmp_path / "out", "png")
    assert [task.source.name for task in listed.tasks] == ["a.png"]
    assert listed.unreadable == ((source / "locked", "Permission denied"),)
    with pytest.raises(UserError, match=r"locked cannot be read: Permission denied"):
        list_tasks(source / "locked", tmp_path / "out", "png")


def test_images_are_not_replaced(tmp_path):
    source = touched(tmp_path / "in", "a.png")
    with pytest.raises(
        UserError,
        match=r"a\.png.*--output.*--suffix",
    ):
        list_tasks(source, source, "png")
    assert found(source, source, suffix="_x2") == {"a.png": "a_x2.png"}


def test_results_beside_their_images_are_told_by_their_names(tmp_path):
    source = touched(tmp_path / "in", "a.png", "a.jpg", "b/c.jpg", "d_x2.png")
    expected = found(source, source, suffix="_x2")
    assert len(expected) == 4
    # Interrupted, and once in another format; the folder under another name.
    touched(source, "b/c_x2.png", "a_jpg_x2.png", "a_png_x2.webp", "d_x2_x2.png")
    listed = list_tasks(tmp_path / "in" / "b" / "..", source, "png", "_x2")
    assert len(listed.tasks) == 4 and len(listed.earlier) == 4
    assert found(source, source, suffix="_x2") == expected
    # Of another suffix, they are images.
    assert len(list_tasks(source, source, "png", "_x4").tasks) == 8
    with pytest.raises(UserError, match=r"--overwrite: .*c_x2\.png"):
        list_tasks(source, source, "png", "_x2", overwrite=True)


def test_results_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    source = touched(tmp_path / "in", "a.png")
    (tmp_path / "notes.txt").touch()
    for output in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "out"):
        with pytest.raises(UserError, match=r"--output .*notes\.txt is a file"):
            list_tasks(source, output, "png")
    # root may write anywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for output in (tmp_path / "new" / "out", tmp_path):
        with pytest.raises(UserError, match=r"--output .*to write to"):
            list_tasks(source, output, "png")
    with pytest.raises(UserError, match=r"--output .*to write to"):
        list_tasks(source / "a.png", tmp_path / "b.png", "png")
    assert list_tasks(source, source / "out", "png").tasks


def test_images_are_not_replaced_under_other_names(tmp_path):
    source = touched(tmp_path / "in", "a.png")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(source / "a.png")
    for output in (tmp_path / "link", tmp_path / "out", source / "." / ".." / "in"):
        with pytest.raises(UserError, match="would replace"):
            list_tasks(source, output, "png", overwrite=True)
    (tmp_path / "hard").mkdir()
    os.link(source / "a.png", tmp_path / "hard" / "a.png")
    with pytest.raises(UserError, match="would replace"):
        list_tasks(source, tmp_path / "hard", "png")


def test_results_are_no_images_to_restore(tmp_path):
    source = touched(tmp_path / "in", "a.png", "out/a.png")
    assert found(source, source / "out") == {"a.png": "a.png"}


def test_links_to_folders_are_followed_once(tmp_path):
    source = touched(tmp_path / "in", "a.png")
    touched(tmp_path / "other", "b.png")
    (source / "link").symlink_to(tmp_path / "other")
    (source / "loop").symlink_to(source)
    (source / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert set(found(source, tmp_path / "out")) == {"a.png", "link/b.png", "gone.png"}


def test_nothing_to_do_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--input .*none"):
        list_tasks(tmp_path / "none", tmp_path, "png")
    with pytest.raises(UserError, match=r"--input .*1 files"):
        list_tasks(touched(tmp_path / "in", "a.txt"), Path("out"), "png")


def test_the_two_forms_of_an_accent_are_one_name_to_some_file_systems(tmp_path):
    for name in ("caf\u00e9.png", "cafe\u0301.png"):
        (tmp_path / name).touch()
    tasks = list_tasks(tmp_path, tmp_path / "out", "png").tasks
    assert len({unicodedata.normalize("NFC", task.target.name) for task in tasks}) == 2
