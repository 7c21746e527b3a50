"""Finding images."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from dhp_sr.data import sources
from dhp_sr.data.prepare import Shrink, fill_folder
from dhp_sr.data.sources import BUNDLED, find_all, find_images
from dhp_sr.utils.errors import UserError


def test_folder_gives_its_images_sorted(folder_of):
    folder = folder_of("set", b=(8, 9, 3), a=(8, 8, 1))
    (folder / "notes.txt").write_text("not an image")
    (folder / "sub").mkdir()
    images = find_images(folder)
    assert [image.key for image in images] == ["a", "b"]
    assert [image.size() for image in images] == [(8, 8, 1), (8, 9, 3)]
    assert [image.read().shape for image in images] == [(8, 8, 1), (8, 9, 3)]


def test_several_roots(folder_of):
    roots = [folder_of("one", a=(8, 8)), folder_of("two", a=(8, 8), b=(8, 8))]
    assert [[image.key for image in images] for images in find_all(roots)] == [["a"], ["a", "b"]]


def test_links_to_nothing_are_not_left_out_in_silence(folder_of):
    folder = folder_of("set", a=(8, 9, 3))
    (folder / "b.png").symlink_to(folder / "gone.png")
    with pytest.raises(UserError, match=r"b\.png: .*gone\.png"):
        find_images(folder)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(folder / "a.png")
    assert [image.key for image in find_images(folder)] == ["a", "b"]
    (folder / "c.png").symlink_to(folder / "c.png")
    with pytest.raises(UserError, match=r"c\.png"):
        find_images(folder)


def test_what_is_no_file_is_not_left_out_in_silence(folder_of):
    folder = folder_of("set", a=(8, 9, 3))
    (folder / "notes").symlink_to(folder / "gone")  # not named like an image
    os.mkfifo(folder / "b.png")
    with pytest.raises(UserError, match=r"b\.png: not a regular file"):
        find_images(folder)


def test_names_that_are_not_utf_8(folder_of, tmp_path):
    folder = folder_of("set", a=(12, 12))
    name = os.fsdecode(b"gr\xfcn")
    (folder / "a.png").rename(folder / f"{name}.png")
    (image,) = find_images(folder)
    assert image.key == name and image.size() == (12, 12, 3)
    assert fill_folder(folder, tmp_path / "x2", Shrink(2, "{}")) == 1
    assert [path.stem for path in (tmp_path / "x2").glob("*.png")] == [name]


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"absent: .*nothing"):
        find_images(tmp_path / "absent")


def test_file_instead_of_folder(folder_of):
    with pytest.raises(UserError, match=r"a\.png: .*a file"):
        find_images(folder_of("set", a=(8, 8)) / "a.png")


def test_empty_folder_names_sub_folders_with_images(tmp_path, folder_of):
    folder_of("HR", a=(8, 8))
    with pytest.raises(UserError, match=r"sub-folder.*: HR"):
        find_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: .*\.png"):
        find_images(tmp_path / "empty")


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_bundled_photographs_decode(name):
    images = find_images(name)
    assert [image.key for image in images] == [Path(file).stem for file in BUNDLED[name]]
    assert all(image.read().dtype == np.uint8 for image in images)


def test_bundled_split_is_disjoint():
    assert not set(BUNDLED["bundled:train"]) & set(BUNDLED["bundled:val"])


def test_bundled_name_is_checked():
    with pytest.raises(UserError, match=r"'bundled:vall'.*'bundled:val'"):
        find_images("bundled:vall")


def test_bundled_without_scikit_image(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bundled:val: .*pip install scikit-image"):
        find_images("bundled:val")


def test_bundled_photograph_missing(monkeypatch):
    monkeypatch.setitem(sources.BUNDLED, "bundled:val", ("absent.png",))
    with pytest.raises(UserError, match=r"absent\.png"):
        find_images("bundled:val")


def test_no_roots():
    with pytest.raises(UserError, match="dataroot_gt"):
        find_all([])
