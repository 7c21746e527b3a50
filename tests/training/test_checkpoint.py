import json
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from dhp_sr.training.checkpoint import (
    CheckpointError,
    differences,
    fixed_options,
    list_states,
    load_state,
    pack,
    random_state,
    save_state,
    set_random_state,
    unpack,
    with_new_options,
    without_free_options,
)


def is_same(left, right) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, (torch.Tensor, np.ndarray)):
        return left.dtype == right.dtype and bool((left == right).all())
    if isinstance(left, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(is_same, left, right))
    return left == right


TREE = {
    "tensors": [
        torch.arange(3),
        torch.tensor(True),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.empty(0),
    ],
    "tuple": (0.9, (1, None)),
    3: {"integer key": 1e-300, "text": "ä", "tensor": "not one"},
    (1, 2): [],
    "array": np.array([1, 2**32 - 1], dtype=np.uint32),
    "infinite": float("inf"),
}


def test_unpack_inverts_pack(tmp_path):
    assert is_same(unpack(*pack(TREE)), TREE)
    assert is_same(load_state(save_state(tmp_path, 1, TREE)), TREE)


def test_shared_and_strided_tensors(tmp_path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = {"a": weight, "b": weight, "c": weight[:1]}
    loaded = load_state(save_state(tmp_path, 1, tree))
    for key, value in tree.items():
        assert torch.equal(loaded[key], value)


def test_only_tensors_and_plain_values():
    with pytest.raises(TypeError, match="object"):
        pack({"x": object()})


def test_the_newest_two_are_kept(tmp_path):
    for iteration in (9, 10, 100):
        save_state(tmp_path, iteration, {})
    assert [iteration for iteration, _ in list_states(tmp_path)] == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_later_state_does_not_count(tmp_path):
    """A damaged one, which the run went back from, takes no other's place."""
    (tmp_path / "9.state").write_bytes(b"damaged")
    for iteration in (1, 2, 3):
        save_state(tmp_path, iteration, {"a": torch.zeros(1)})
    assert [number for number, _ in list_states(tmp_path)] == [2, 3, 9]
    for iteration in (9, 10):
        save_state(tmp_path, iteration, {"a": torch.zeros(1)})
    assert [number for number, _ in list_states(tmp_path)] == [9, 10]


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_failed_write_leaves_the_old_state_and_names_the_file(tmp_path, monkeypatch, error):
    save_state(tmp_path, 1, {"a": 1})

    def fail(*_):
        raise error("no space left")

    monkeypatch.setattr("dhp_sr.training.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_state(tmp_path, 2, {"a": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["1.state"]


def damaged_header(folder):
    path = save_state(folder, 5, {"a": torch.zeros(1)})
    path.write_bytes(path.read_bytes().replace(b"t0", b"t1", 1))
    return path


def test_every_flipped_bit_is_detected(tmp_path):
    path = save_state(tmp_path, 7, {"iteration": 7, **TREE})
    content = path.read_bytes()
    rng = random.Random(0)
    undetected = []
    # Every byte of the file, one bit of each: length, names, numbers, padding and tensors.
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            load_state(path)
        except CheckpointError:
            continue
        undetected.append(position)
    assert undetected == []
    path.write_bytes(content)
    load_state(path)


def test_states_of_the_first_edition_have_no_checksum(tmp_path):
    from safetensors.torch import save_file

    tensors, skeleton = pack(TREE)
    metadata = {"format": "dhp_sr.state.2", "tree": json.dumps(skeleton)}
    save_file(tensors, tmp_path / "5.state", metadata)
    assert is_same(load_state(tmp_path / "5.state"), TREE)


def other_safetensors(folder):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, folder / "5.state")
    return folder / "5.state"


@pytest.mark.parametrize("make", [damaged_header, other_safetensors])
def test_other_files_are_refused(tmp_path, make):
    with pytest.raises(CheckpointError, match=r"5\.state"):
        load_state(make(tmp_path))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "5.state"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"5\.state"):
        load_state(path)
    assert not (tmp_path / "ran").exists()


def test_random_state_repeats_all_generators(tmp_path):
    def draw():
        return torch.rand(2).tolist(), random.random(), np.random.rand()

    path = save_state(tmp_path, 1, random_state())
    first = draw()
    set_random_state(load_state(path))
    assert draw() == first


def test_differences_name_the_keys_and_both_values():
    (line,) = differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": None}})
    assert line.startswith("a.c:") and "2" in line and "3" in line


def test_a_resumed_run_may_look_elsewhere_for_its_images(make_options):
    options = make_options()
    train = options.datasets["train"].model_copy(
        update={"dataroot_gt": "/moved", "cache_dir": "/moved"}
    )
    moved = options.model_copy(update={"datasets": {**options.datasets, "train": train}})
    assert fixed_options(moved, 1) == fixed_options(options, 1)
    train = options.datasets["train"].model_copy(update={"gt_size": 32})
    other = options.model_copy(update={"datasets": {**options.datasets, "train": train}})
    assert fixed_options(other, 1) != fixed_options(options, 1) != fixed_options(options, 2)


def test_a_resumed_run_may_change_the_rules_of_the_budget(make_options):
    options = fixed_options(make_options(), 1)
    assert fixed_options(make_options(compress={"tolerance": 0.1, "round_to": 4}), 1) == options
    assert fixed_options(make_options(compress={"target": {"macs": 0.4}}), 1) != options


def test_a_resumed_run_may_find_its_teacher_elsewhere(make_options):
    def fixed(teacher):
        return fixed_options(make_options(compress={"distill": {"teacher": teacher}}), 1)

    assert fixed("/first/dense.safetensors") == fixed("/moved/dense.safetensors")
    assert fixed("/first/dense.safetensors") != fixed("/first/other.safetensors")
    assert fixed("/first/dense.safetensors") != fixed(None)


def test_a_state_of_an_earlier_version_lacks_the_options_of_today(make_options):
    def earlier(options):
        saved = fixed_options(options, 1)
        del saved["compress"]["obs"], saved["compress"]["remove_blocks"]
        del saved["train"]["channels_last"], saved["datasets"]["train"]["small_images"]
        return saved

    options = make_options()
    saved, current = earlier(options), fixed_options(options, 1)
    assert differences(without_free_options(saved), current)
    assert not differences(without_free_options(with_new_options(saved, options)), current)
    # What was no option then had its default.
    options = make_options(train={"channels_last": True})
    train = options.datasets["train"].model_copy(update={"small_images": "skip"})
    options = options.model_copy(update={"datasets": {**options.datasets, "train": train}})
    completed = without_free_options(with_new_options(earlier(options), options))
    lines = differences(completed, fixed_options(options, 1))
    assert [line.partition(":")[0] for line in lines] == [
        "datasets.train.small_images",
        "train.channels_last",
    ]
    dense = make_options(compress={})
    saved = fixed_options(dense, 1)
    assert with_new_options(saved, dense) == saved
    # An option that has gone since shows as a difference.
    saved["train"]["former"] = 3
    saved = with_new_options(saved, dense)
    assert differences(saved, fixed_options(dense, 1)) != []
