"""Batches: the same whatever workers, ranks and interruptions; other ones in each epoch."""

from itertools import islice

import pytest
import torch

from dhp_sr.data import build_train_set, train_batches
from dhp_sr.data.sampler import BatchSampler
from dhp_sr.utils.errors import UserError


@pytest.fixture
def dataset(folder_of, train_options):
    return build_train_set(
        train_options(folder_of("hr", a=(40, 50), b=(41, 30), c=(32, 64))), 2, seed=5
    )


def take(dataset, count, *, workers=0, start=0, batch_size=4, **ranks):
    batches = train_batches(
        dataset, batch_size=batch_size, workers=workers, seed=5, start_iteration=start, **ranks
    )
    return list(islice(batches, count))


def equal(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        a["key"] == b["key"] and torch.equal(a["lq"], b["lq"]) and torch.equal(a["gt"], b["gt"])
        for a, b in pairs
    )


def test_batch_shapes(dataset):
    (batch,) = take(dataset, 1)
    assert (
        batch["lq"].shape == (4, 3, 8, 8)
        and batch["gt"].shape == (4, 3, 16, 16)
        and len(batch["key"]) == 4
    )


def test_workers_do_not_matter(dataset):
    state = torch.get_rng_state()
    assert equal(take(dataset, 5), take(dataset, 5, workers=2))
    assert torch.equal(state, torch.get_rng_state())  # nor do they touch the global stream


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_gives_the_same_batches(dataset, workers):
    assert equal(take(dataset, 7)[4:], take(dataset, 3, start=4, workers=workers))


def test_database_in_workers(tmp_path, folder_of, train_options):
    from dhp_sr.data.prepare import make_database

    folder = folder_of("hr", a=(40, 50), b=(41, 30), c=(32, 64))
    make_database(folder, tmp_path / "hr.lmdb")
    options = train_options(tmp_path / "hr.lmdb", cache="none", gt_size=16)
    from_database = build_train_set(options, 2, seed=5)
    expected = take(build_train_set(train_options(folder), 2, seed=5), 4)
    assert equal(expected, take(from_database, 4))
    assert equal(expected, take(from_database, 4, workers=2))


def test_ranks_share_the_batch_of_one(dataset):
    (whole,) = take(dataset, 1, start=3, batch_size=4)
    parts = [
        take(dataset, 1, start=3, batch_size=2, world_size=2, rank=rank)[0] for rank in range(2)
    ]
    assert torch.equal(whole["gt"], torch.cat([part["gt"] for part in parts]))


def test_every_image_once_an_epoch_in_changing_order():
    addresses = BatchSampler(10, batch_size=5, seed=0)
    epochs = [
        [index for i in (2 * e, 2 * e + 1) for index, _ in addresses.batch(i)] for e in range(6)
    ]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6


def test_crops_differ_between_epochs(folder_of, train_options):
    """The same image at each visit: what differs is the patch alone."""
    dataset = build_train_set(
        train_options(folder_of("one", a=(64, 64)), use_hflip=False, use_rot=False), 2, seed=0
    )
    patches = [batch["gt"].numpy().tobytes() for batch in take(dataset, 20, batch_size=1)]
    assert len(set(patches)) == 20


def test_seed_matters(folder_of, train_options):
    options = train_options(folder_of("one", a=(64, 64)))
    first, second = (take(build_train_set(options, 2, seed=seed), 1)[0]["gt"] for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_damaged_during_the_run(folder_of, train_options, workers):
    folder = folder_of("hr", a=(40, 50))
    dataset = build_train_set(
        train_options(folder, type="NoiseDataset", sigma=9.0, cache="none"), 1, seed=0
    )
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:-500])
    with pytest.raises(UserError, match=r"^\S+a\.png: ") as caught:
        take(dataset, 1, workers=workers)
    assert "Traceback" not in str(caught.value)
