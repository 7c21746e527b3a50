"""Drawn images, and the places that take them."""

import numpy as np
import pytest

from dhp_sr.config.datasets import TrainDataset, ValDataset
from dhp_sr.data.build import build_train_set, build_val_set
from dhp_sr.data.drawn import SIDE, draw
from dhp_sr.data.overlap import images_in_both
from dhp_sr.data.sources import find_images
from dhp_sr.utils.errors import UserError


def test_an_image_follows_from_its_number():
    first, again, other = draw(3), draw(3), draw(4)
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_full_colors_and_hard_edges_occur():
    """What photographs lack: corners of the color cube, steps over the whole range."""
    images = np.stack([draw(number) for number in range(24)]).astype(int)
    extremes = ((images == 0) | (images == 255)).all(-1)
    assert extremes.mean(axis=(1, 2)).min() > 0.02
    steps = np.abs(np.diff(images, axis=2)).max(-1)
    assert (steps == 255).mean() > 1e-3


def test_source_names_them():
    images = find_images("drawn:3")
    assert [image.key for image in images] == ["drawn_00000", "drawn_00001", "drawn_00002"]
    assert [image.size() for image in images] == [(SIDE, SIDE, 3)] * 3
    assert np.array_equal(images[2].read(), draw(2))


@pytest.mark.parametrize("source", ["drawn:", "drawn:0", "drawn:-1", "drawn:two", "drawn:1.5"])
def test_source_expects_a_number(source):
    with pytest.raises(UserError, match=r"number of images .*drawn:24"):
        find_images(source)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
@pytest.mark.parametrize("kind", ["SRDataset", "NoiseDataset", "ImageDataset"])
def test_sets_hold_them_beside_photographs(kind, cache, folder_of, tmp_path):
    """Whatever the cache, every image gives patches, the drawn ones among them."""
    folder = folder_of("photographs", a=(96, 80, 3))
    options = TrainDataset(
        type=kind,
        dataroot_gt=[str(folder), "drawn:2"],
        sigma=25 if kind == "NoiseDataset" else None,
        gt_size=32,
        batch_size_per_gpu=1,
        cache=cache,
        cache_dir=str(tmp_path / "cache"),
        color="gray",
    )
    scale = 1 if kind == "NoiseDataset" else 2
    # Built twice: the second time a file of the first may be used.
    for _ in range(2):
        images = build_train_set(options, scale, seed=0)
        assert len(images) == 3
        samples = [images[index, position] for position, index in enumerate([0, 1, 2, 1])]
        assert [sample["key"] for sample in samples[:3]] == ["a", "drawn_00000", "drawn_00001"]
        assert {sample["gt"].shape for sample in samples} == {(1, 32, 32)}


def test_they_are_never_told_as_files_of_a_test_set(folder_of):
    folder = folder_of("photographs", a=(96, 96, 3))
    train = TrainDataset(
        type="SRDataset",
        dataroot_gt=[str(folder), "drawn:1"],
        gt_size=32,
        batch_size_per_gpu=1,
    )
    same = ValDataset(type="SRDataset", dataroot_gt=[str(folder), "drawn:1"])
    other = ValDataset(type="SRDataset", dataroot_gt=str(folder_of("other", b=(96, 80, 3))))
    trained = build_train_set(train, 2, seed=0)
    # Held in memory, pixels are compared.
    assert images_in_both(trained, build_val_set(same, 2)) == ["a", "drawn_00000"]
    assert images_in_both(trained, build_val_set(other, 2)) == []
