"""Test images among the training images are told, whatever their names and wherever they are."""

import os
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from dhp_sr.data import build_train_set, build_val_set, overlap
from dhp_sr.data.overlap import images_in_both
from dhp_sr.data.prepare import make_database
from dhp_sr.data.subimages import SubimageFinder
from dhp_sr.tasks.restoration import SuperResolution
from dhp_sr.tasks.test_sets import TestSet


@pytest.fixture
def train_folder(folder_of):
    return folder_of("train", a=(40, 40), b=(40, 40), c=(34, 44), d=(60, 60))


@pytest.fixture
def test_folder(folder_of, train_folder):
    """Five images; x is a link to a training image, y a copy, z a copy in another format."""
    folder = folder_of("test", other=(40, 42), same_size=(60, 60))
    (folder / "x.png").symlink_to(train_folder / "a.png")
    shutil.copy(train_folder / "b.png", folder / "y.png")
    Image.open(train_folder / "c.png").save(folder / "z.bmp")
    return folder


KINDS = {
    "SRDataset": ({}, {}, 2),
    "NoiseDataset": ({"sigma": 25.0, "color": "gray"}, {"sigma": 25.0, "color": "gray"}, 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_links_and_copies(
    train_folder, test_folder, train_options, val_options, tmp_path, kind, cache
):
    more, val_more, scale = KINDS[kind]
    options = train_options(
        train_folder, type=kind, cache=cache, cache_dir=str(tmp_path / "cache"), **more
    )
    train = build_train_set(options, scale, 0)
    test = build_val_set(val_options(test_folder, type=kind, **val_more), scale)
    assert images_in_both(train, test) == ["x", "y", "z"]


def test_images_of_a_database(train_folder, folder_of, train_options, val_options, tmp_path):
    make_database(train_folder, tmp_path / "train.lmdb")
    (tmp_path / "again.lmdb").symlink_to(tmp_path / "train.lmdb")
    train = build_train_set(train_options(tmp_path / "train.lmdb", cache="none"), 2, 0)
    test = build_val_set(val_options(tmp_path / "again.lmdb", max_images=2), 2)
    assert images_in_both(train, test) == ["a", "b"]
    # Each image of a database is one of its own.
    other = folder_of("other", e=(40, 44))
    make_database(other, tmp_path / "other.lmdb")
    assert images_in_both(train, build_val_set(val_options(tmp_path / "other.lmdb"), 2)) == []


def test_inputs_of_ready_pairs(train_folder, folder_of, train_options, val_options, tmp_path):
    """Other truths for the same inputs, as in sets of teacher outputs."""
    inputs = folder_of("inputs", a=(20, 20), b=(20, 20))
    pairs = {"dataroot_lq": str(inputs)}
    truths = [folder_of(name, a=(40, 40), b=(40, 40)) for name in ("first", "second")]
    os.remove(truths[1] / "a.png")
    shutil.copy(train_folder / "d.png", truths[1] / "a.png")
    Image.open(truths[1] / "a.png").crop((0, 0, 40, 40)).save(truths[1] / "a.png")
    for cache in ("memory", "none"):
        train = build_train_set(train_options(truths[0], cache=cache, **pairs), 2, 0)
        assert images_in_both(train, build_val_set(val_options(truths[1], **pairs), 2)) == [
            "a",
            "b",
        ]


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_sub_images_of_test_images(
    folder_of, train_options, val_options, tmp_path, monkeypatch, kind, cache
):
    """Cut at any place, as `extract_subimages` of BasicSR does; a plain area is none."""
    more, val_more, scale = KINDS[kind]
    test_folder = folder_of("test", a=(61, 75), b=(64, 64), plain=(64, 64))
    train_folder = folder_of("train", own=(40, 40))
    Image.new("RGB", (64, 64), "white").save(test_folder / "plain.png")
    Image.new("RGB", (40, 40), "white").save(train_folder / "plain.png")
    Image.open(test_folder / "a.png").crop((13, 7, 53, 47)).save(train_folder / "cut.png")
    options = train_options(
        train_folder, type=kind, cache=cache, cache_dir=str(tmp_path / "cache"), **more
    )
    train = build_train_set(options, scale, 0)
    test = build_val_set(val_options(test_folder, type=kind, **val_more), scale)
    assert images_in_both(train, test) == ["a"]
    # Without a cache, some images are decoded, of those that are small enough.
    monkeypatch.setattr(overlap, "_MAX_DECODED", 1)
    assert images_in_both(train, test) == ["a"]
    large = build_train_set(train_options(test_folder, type=kind, cache="none", **more), scale, 0)
    small = build_val_set(val_options(train_folder, type=kind, **val_more), scale)
    monkeypatch.setattr(large.images, "_items", ())
    assert images_in_both(large, small) == []


def test_sub_images_that_differ_in_a_pixel_are_none():
    image = np.random.default_rng(0).integers(0, 2, (3, 50, 60), np.uint8) * 255
    cut = image[:, 5:25, 30:60].copy()
    assert SubimageFinder([cut]).is_cut_from(image)
    assert not SubimageFinder([cut]).is_cut_from(image[:1])
    assert not SubimageFinder([cut]).is_cut_from(image[:, :24])
    cut[2, 0, 0] ^= 1
    assert not SubimageFinder([cut]).is_cut_from(image)
    assert not SubimageFinder([]).is_cut_from(image)
    assert not SubimageFinder([cut[:, :, :4]]).is_cut_from(cut[:, :, :4])


def test_they_are_reported(train_folder, test_folder, train_options, val_options):
    train = build_train_set(train_options(train_folder, cache="memory"), 2, 0)
    test = TestSet.from_options("Mine", val_options(test_folder), 2)
    with pytest.warns(UserWarning, match=r"^Mine: 3 of 5 images .*\(x, y, z\)"):
        SuperResolution().check_data(None, train, [test])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SuperResolution().check_data(None, train, [])
        # A list of images says nothing of their files.
        SuperResolution().check_data(None, train, [TestSet("list", [test.items[0]], 2, 2)])
