"""Batches of labeled images: normalized, cropped and mirrored by the seed alone."""

from itertools import islice

import numpy as np
import pytest
import torch
from labeled_sets import tiny, write_cifar_10

from dhp_sr.config.datasets import ClassificationTrain, ClassificationVal
from dhp_sr.data import train_batches
from dhp_sr.data.augment import random_bits, random_crop_with_padding
from dhp_sr.data.classification import (
    TrainImages,
    ValImages,
    build_train,
    build_val,
    check_same_classes,
)
from dhp_sr.utils.errors import UserError

TYPE = "ClassificationDataset"


def train_set(seed=3, count=20, **more) -> TrainImages:
    options = ClassificationTrain(type=TYPE, dataroot="-", batch_size_per_gpu=4, **more)
    return TrainImages(tiny(count, side=12), options, seed)


def take(dataset, count, start=0, workers=0, batch_size=4, **ranks):
    batches = train_batches(
        dataset, batch_size=batch_size, workers=workers, seed=5, start_iteration=start, **ranks
    )
    return list(islice(batches, count))


def equal(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in ("image", "label"))


def test_a_batch_is_normalized_float32():
    labeled = tiny(6, side=12)
    options = ClassificationVal(type=TYPE, dataroot="-", mean=[0.1, 0.2, 0.3], std=[0.5, 0.4, 0.3])
    batch = ValImages(labeled, options).batch([4, 1])
    assert batch["image"].shape == (2, 3, 12, 12) and batch["image"].dtype == torch.float32
    assert batch["image"].is_contiguous() and batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == labeled.labels[[4, 1]].tolist()
    value = labeled.images_NHWC[1, 5, 7, 2] / 255
    assert float(batch["image"][1, 2, 5, 7]) == pytest.approx((value - 0.3) / 0.3, abs=1e-6)


def test_validation_gives_every_image_once_in_order():
    items = ValImages(tiny(10, side=12), ClassificationVal(type=TYPE, dataroot="-", batch_size=4))
    batches = list(items.batches())
    assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
    assert (
        torch.cat([batch["label"] for batch in batches]).tolist()
        == tiny(10, side=12).labels.tolist()
    )
    assert torch.equal(items[9]["image"], batches[2]["image"][1])


def test_a_sample_is_the_same_alone_and_in_a_batch():
    dataset = train_set()
    batch = dataset.batch([(3, 100), (7, 101), (3, 102)])
    assert torch.equal(dataset[(7, 101)]["image"], batch["image"][1])
    assert not torch.equal(
        batch["image"][0], batch["image"][2]
    )  # the same image at another place in the run


def test_workers_resuming_and_ranks_change_nothing():
    dataset = train_set()
    whole = take(dataset, 7)
    assert equal(whole[:3], take(dataset, 3, workers=2))
    assert equal(whole[4:], take(dataset, 3, start=4))
    parts = [take(dataset, 2, batch_size=2, world_size=2, rank=rank) for rank in range(2)]
    joined = [
        {key: torch.cat([one[key], two[key]]) for key in one}
        for one, two in zip(*parts, strict=True)
    ]
    assert equal(whole[:2], joined)


def test_the_seed_changes_the_samples():
    assert not equal([train_set(seed=3).batch([(0, 0)])], [train_set(seed=4).batch([(0, 0)])])


def test_every_sample_is_a_crop_of_the_padded_image():
    images = tiny(5, side=8).images_NHWC
    numbers, positions = [0, 4, 4, 2], [9, 8, 7, 6]
    found = random_crop_with_padding(images, numbers, positions, seed=1, padding=3, hflip=True)
    for sample, number in zip(found, numbers, strict=True):
        padded = np.pad(images[number], ((3, 3), (3, 3), (0, 0)))
        windows = [padded[top : top + 8, left : left + 8] for top in range(7) for left in range(7)]
        assert any(
            np.array_equal(sample, one) or np.array_equal(sample, one[:, ::-1]) for one in windows
        )


def test_all_offsets_and_both_orientations_are_equally_likely():
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1)
    count = 9 * 2 * 400
    found = random_crop_with_padding(
        image, [0] * count, range(count), seed=0, padding=1, hflip=True
    )
    kinds, counts = np.unique(found.reshape(count, -1), axis=0, return_counts=True)
    assert len(kinds) == 18 and counts.min() > 300 and counts.max() < 500


def test_without_padding_and_flip_nothing_changes():
    dataset = train_set(padding=0, use_hflip=False)
    plain = ValImages(dataset.labeled, ClassificationVal(type=TYPE, dataroot="-"))
    assert equal([dataset.batch([(2, 50), (9, 51)])], [plain.batch([2, 9])])


def test_random_bits_are_spread_evenly():
    """Random bits are spread evenly and differ from position to position and seed to seed."""
    bits = random_bits(7, np.arange(4000), 2)
    assert len(np.unique(bits)) == bits.size
    ones = np.unpackbits(bits.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.005)
    assert not (random_bits(8, np.arange(4000), 2) == bits).any()


def test_a_set_is_opened_from_its_section(tmp_path):
    write_cifar_10(tmp_path / "set", tiny())
    write_cifar_10(tmp_path / "set", tiny(5, seed=1), "test")
    train = build_train(
        ClassificationTrain(
            type=TYPE, dataroot=str(tmp_path / "set"), batch_size_per_gpu=2, max_per_class=1
        ),
        0,
    )
    val = build_val(ClassificationVal(type=TYPE, dataroot=str(tmp_path / "set"), color="gray"))
    assert (len(train), len(val)) == (3, 5) and train.classes == val.classes
    assert val.batch([0])["image"].shape == (1, 1, 32, 32)
    with pytest.raises(UserError, match=r"datasets.val \(mine\): .*other"):
        build_val(ClassificationVal(type=TYPE, name="mine", dataroot=str(tmp_path / "other")))


def test_other_classes_in_validation_are_refused():
    check_same_classes(("a", "b"), ("a", "b"), "val")
    with pytest.raises(
        UserError,
        match=r"val: .*'c'.*'b'.*label 1",
    ):
        check_same_classes(("a", "b"), ("a", "c"), "val")
    with pytest.raises(UserError, match=r"val: .*2 classes.*3"):
        check_same_classes(("a", "b"), ("a", "b", "c"), "val")
