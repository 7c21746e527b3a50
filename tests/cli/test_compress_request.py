"""Images of a request: found in folders of folders, each with its own truth."""

from dataclasses import replace
from pathlib import Path

import pytest

from dhp_sr.cli.compress_request import CompressRequest, Target, check_request
from dhp_sr.cli.compress_sources import find_images, list_images, match_truths
from dhp_sr.utils.errors import UserError


def touched(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def matched(images, truths):
    """Name of an image -> name of its truth."""
    pairs = match_truths(list_images(images), images, truths)
    named = {}
    for image, truth in pairs.items():
        named[str(image.relative_to(images))] = str(truth.relative_to(truths))
    return named


def test_linked_folders_of_images_are_found(tmp_path):
    touched(tmp_path / "disk", "a.png", "b.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "T91").symlink_to(tmp_path / "disk")
    names = [path.name for path in list_images(tmp_path / "images")]
    assert names == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("2x_compact", "2x_compact"),
        ("C:\\a/b\n", "C__a_b_"),
        (" ", "network"),
        ("é" * 100, "é" * 75),
        ("100% {x}", "100% {x}"),
    ],
)
def test_the_name_of_any_file_becomes_that_of_a_run(name, expected):
    request = CompressRequest(Path("."), Target("macs", 0.5), name=name)
    assert request.run_name == f"{expected}_macs0.5"


def test_links_to_nothing_are_named(tmp_path):
    images = touched(tmp_path / "images", "a.png", "b.png")
    (images / "c.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"c\.png"):
        list_images(images)


def test_equal_names_in_different_folders_keep_their_own_truths(tmp_path):
    images = touched(tmp_path / "lq", "a/0001.jpg", "b/0001.jpg")
    truths = touched(tmp_path / "gt", "a/0001.png", "b/0001.png")
    assert matched(images, truths) == {"a/0001.jpg": "a/0001.png", "b/0001.jpg": "b/0001.png"}


def test_a_name_that_occurs_once_is_enough(tmp_path):
    images = touched(tmp_path / "lq", "a/0001.jpg", "b/0002.jpg")
    truths = touched(tmp_path / "gt", "0001.png", "c/0002.png")
    assert matched(images, truths) == {"a/0001.jpg": "0001.png", "b/0002.jpg": "c/0002.png"}


def test_several_possible_truths_are_refused(tmp_path):
    images = touched(tmp_path / "lq", "0001.jpg", "0002.jpg")
    truths = touched(tmp_path / "gt", "a/0001.png", "b/0001.png", "0002.png")
    with pytest.raises(UserError) as error:
        matched(images, truths)
    assert "a/0001.png" in str(error.value) and "b/0001.png" in str(error.value)


def test_missing_truths_are_named(tmp_path):
    images = touched(tmp_path / "lq", "0001.jpg", "0002.jpg")
    truths = touched(tmp_path / "gt", "0001.png", "other.png")
    with pytest.raises(UserError, match=r"0002\.jpg"):
        matched(images, truths)


def test_truths_and_earlier_runs_among_the_images_are_no_images(tmp_path):
    touched(tmp_path, "lq/0001.png", "lq/0002.png", "gt/0001.png", "gt/0002.png")
    touched(tmp_path, "experiments/run_images/train/00000_0001.png")
    request = CompressRequest(tmp_path, Target("macs", 0.5), truths=tmp_path / "gt")
    paths, truths = find_images(request, tmp_path / "experiments")
    assert [path.relative_to(tmp_path).parts for path in paths] == [
        ("lq", "0001.png"),
        ("lq", "0002.png"),
    ]
    assert truths is not None and {path.parent.name for path in truths.values()} == {"gt"}


def test_a_folder_may_hold_its_own_truths(tmp_path):
    """The root of a walk is never left out: images that are their own truths are paired."""
    images = touched(tmp_path / "images", "a.png", "b.png")
    request = CompressRequest(images, Target("macs", 0.5), truths=images)
    paths, truths = find_images(request, tmp_path / "experiments")
    assert truths == {path: path for path in paths}


def test_two_truths_of_a_path_are_refused(tmp_path):
    images = touched(tmp_path / "lq", "a.png", "b.png")
    truths = touched(tmp_path / "gt", "a.png", "a.jpg", "b.png")
    with pytest.raises(UserError, match=r"a\.jpg, a\.png"):
        matched(images, truths)


def test_the_truth_of_an_image_is_not_that_of_another_folder(tmp_path):
    images = touched(tmp_path / "lq", "day/1.png", "night/1.png")
    truths = touched(tmp_path / "gt", "night/1.png", "night/2.png")
    with pytest.raises(UserError, match="missing: day/1"):
        matched(images, truths)


def test_images_in_a_folder_of_the_truths_are_no_truths(tmp_path):
    truths = touched(tmp_path, "a.png", "b.png", "lq/a.png", "lq/b.png", "lq/c.png")
    with pytest.raises(UserError, match=r"missing: c\.png"):
        matched(tmp_path / "lq", truths)


def test_images_that_the_run_would_replace_are_refused(tmp_path):
    request = CompressRequest(tmp_path, Target("macs", 0.5))
    own = touched(request.images_folder(tmp_path) / "train", "a.png", "b.png")
    with pytest.raises(UserError, match="replaces"):
        check_request(replace(request, images=own), request.images_folder(tmp_path))
    assert (own / "a.png").exists()
