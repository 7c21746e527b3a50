"""Where decoded images are kept."""

import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from PIL import Image

from dhp_sr.data import build_train_set, image_cache, train_batches
from dhp_sr.data.prepare import make_database
from dhp_sr.data.sources import FileImage
from dhp_sr.utils.errors import UserError

SAMPLES = ((0, 0), (1, 1), (0, 2), (1, 3))


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that were decoded so far."""
    names = []
    read = FileImage.read
    monkeypatch.setattr(FileImage, "read", lambda image: names.append(image.key) or read(image))
    return names


@pytest.fixture
def open_set(folder_of, train_options, tmp_path):
    """Open a training set of two images with a cache."""
    folder = folder_of("hr", a=(33, 35), b=(40, 32))

    def open_it(cache, **more):
        options = train_options(folder, cache=cache, cache_dir=str(tmp_path / "cache"), **more)
        return build_train_set(options, (options.sigma is None and 4) or 1, seed=0)

    open_it.folder = folder
    return open_it


def assert_equal_samples(first, second):
    for sample in SAMPLES:
        for name in ("lq", "gt"):
            assert torch.equal(first[sample][name], second[sample][name])


def only_file(folder):
    (path,) = folder.glob("cache/*.images")
    return path


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"color": "gray"},
        {"type": "NoiseDataset", "sigma": 25.0},
        {"type": "NoiseDataset", "sigma": 25.0, "color": "gray"},
    ],
)
def test_caches_agree(open_set, more):
    uncached = open_set("none", **more)
    for cache in ("memory", "disk", "disk", "auto"):
        assert_equal_samples(open_set(cache, **more), uncached)


def test_file_is_written_once(open_set, decoded):
    open_set("disk")
    assert sorted(decoded) == ["a", "b"]
    dataset = open_set("disk")
    for sample in SAMPLES:
        dataset[sample]
    assert len(decoded) == 2
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0][0][:] = 0


@pytest.mark.parametrize("change", ["pixels", "mtime"])
def test_changed_image_is_noticed(open_set, make_image, change):
    open_set("disk")
    path = open_set.folder / "a.png"
    if change == "pixels":
        Image.fromarray(make_image(33, 35, seed=9)).save(path)
    os.utime(path, ns=(1, 1))
    assert_equal_samples(open_set("disk"), open_set("none"))


def test_other_options_have_other_files(open_set, tmp_path):
    open_set("disk")
    open_set("disk", color="gray")
    assert len(list(tmp_path.glob("cache/*.images"))) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "preamble", "index"])
def test_damaged_file_is_written_again(open_set, tmp_path, decoded, damage):
    open_set("disk")
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-1]
    elif damage == "empty":
        content = b""
    else:
        content[{"preamble": 20, "index": len(content) - 5}[damage]] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        dataset = open_set("disk")
    assert len(decoded) == 4
    assert_equal_samples(dataset, open_set("none"))


def test_damaged_pixels_come_from_the_source(open_set, tmp_path):
    open_set("disk")
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    dataset = open_set("disk")
    with pytest.warns(UserWarning, match="damaged"):
        dataset[(0, 0)]
    assert_equal_samples(dataset, open_set("none"))
    assert not path.exists()
    open_set("disk")
    assert path.exists()


def test_rest_of_a_killed_process_is_removed(open_set, tmp_path):
    open_set("disk")
    path = only_file(tmp_path)
    path.unlink()
    rest = path.with_name(f".{path.name}.x.part")
    rest.write_bytes(b"rest")
    open_set("disk")
    assert not rest.exists() and path.exists()


def test_ready_pairs_and_databases(folder_of, tmp_path, train_options):
    hr = folder_of("hr", a=(32, 32), b=(40, 32))
    lr = folder_of("lr", a=(16, 16), b=(20, 16))
    for folder in (hr, lr):
        make_database(folder, folder.with_suffix(".lmdb"))
    sets = []
    for suffix, cache in (("", "none"), ("", "disk"), (".lmdb", "disk")):
        roots = [str(folder.with_suffix(suffix)) for folder in (hr, lr)]
        options = train_options(
            roots[0], dataroot_lq=roots[1], cache=cache, cache_dir=str(tmp_path / "cache")
        )
        sets.append(build_train_set(options, 2, seed=0))
    assert_equal_samples(sets[0], sets[1])
    assert_equal_samples(sets[0], sets[2])


def test_workers_and_copies_open_the_file_themselves(open_set):
    dataset = open_set("disk")
    dataset[(0, 0)]
    assert_equal_samples(pickle.loads(pickle.dumps(dataset)), dataset)
    settings = {"batch_size": 2, "seed": 0, "start_iteration": 0}
    alone = train_batches(dataset, workers=0, **settings)
    shared = train_batches(dataset, workers=1, **settings)
    for _ in range(2):
        assert torch.equal(next(alone)["gt"], next(shared)["gt"])
    shared.close()


def test_processes_wait_for_each_other(open_set, tmp_path, decoded):
    """A process that holds the lock writes; this one finds the file and decodes nothing."""
    fcntl = pytest.importorskip("fcntl")
    open_set("disk")
    path = only_file(tmp_path)
    ready = path.rename(path.with_suffix(".ready"))
    lock = path.with_name(f"{path.name}.lock")
    script = (
        "import fcntl, os, sys, time\n"
        "lock = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "time.sleep(0.3)\n"
        "os.rename(sys.argv[2], sys.argv[3])\n"
    )
    command = [sys.executable, "-c", script, lock, ready, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        decoded.clear()
        open_set("disk")
    assert fcntl and decoded == []


@pytest.mark.parametrize(
    ("available", "free", "is_training", "expected"),
    [
        (10**9, 10**9, True, "memory"),
        (10, 10**9, True, "disk"),
        (10, 10**9, False, "none"),
        (10, 10, True, "none"),
    ],
)
def test_auto_goes_by_size(open_set, monkeypatch, tmp_path, available, free, is_training, expected):
    monkeypatch.setattr(image_cache, "available_memory", lambda: available)
    monkeypatch.setattr(image_cache, "_free_bytes", lambda folder: free)
    items = open_set("none").images._items
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = image_cache.choose_cache(items, tmp_path, is_training)
    assert chosen == expected
    # slow, and not by the user's choice
    assert bool(caught) == (is_training and expected == "none")


def test_processes_of_torchrun_share_the_memory(open_set, monkeypatch, tmp_path):
    items = open_set("none").images._items
    needed = sum(item.decoded_bytes() for item in items)
    monkeypatch.setattr(image_cache, "available_memory", lambda: 4 * needed)
    assert image_cache.choose_cache(items, tmp_path, True) == "memory"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert image_cache.choose_cache(items, tmp_path, True) == "disk"


@pytest.mark.parametrize("more", [{}, {"color": "gray"}])
def test_size_is_known_before_decoding(open_set, more):
    for item in open_set("none", **more).images._items:
        assert item.decoded_bytes() == sum(array.nbytes for array in item.load())


def test_folder_that_cannot_be_written(folder_of, train_options):
    folder = folder_of("hr", a=(33, 35))
    options = train_options(folder, cache="disk", cache_dir=str(folder / "a.png"))
    with pytest.raises(UserError, match="cache_dir"):
        build_train_set(options, 4, seed=0)
