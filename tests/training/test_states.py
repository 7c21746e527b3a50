import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from dhp_sr.training.optimizers import restore
from dhp_sr.training.states import (
    StateFileError,
    differences,
    load_state,
    pack,
    random_state,
    save_state,
    set_random_state,
    states,
    unpack,
)
from dhp_sr.utils.errors import UserError


def same(left, right) -> bool:
    if isinstance(left, (torch.Tensor, np.ndarray)):
        return (
            type(left) is type(right) and left.dtype == right.dtype and bool((left == right).all())
        )
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and list(left) == list(right)
            and all(same(left[k], right[k]) for k in left)
        )
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


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
    assert same(unpack(*pack(TREE)), TREE)
    assert same(load_state(save_state(tmp_path, 1, TREE)), TREE)


def test_shared_and_strided_tensors(tmp_path):
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    loaded = load_state(save_state(tmp_path, 1, {"a": weight, "b": weight, "c": weight[:1]}))
    assert all(
        torch.equal(loaded[key], value)
        for key, value in {"a": weight, "b": weight, "c": weight[:1]}.items()
    )


def test_only_tensors_and_plain_values():
    with pytest.raises(TypeError, match="found object"):
        pack({"x": object()})


def test_the_newest_two_are_kept(tmp_path):
    for iteration in (9, 10, 100):
        save_state(tmp_path, iteration, {})
    assert [iteration for iteration, _ in states(tmp_path)] == [10, 100]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_the_old_state(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"a": 1})

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("dhp_sr.training.states.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_state(tmp_path, 2, {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["1.state"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("dhp_sr.training.states.save_file", full)
    with pytest.raises(OSError, match=r"2\.state: No space left"):
        save_state(tmp_path, 2, {"a": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_a_damaged_header_is_refused(tmp_path):
    path = save_state(tmp_path, 5, {"a": torch.zeros(1)})
    path.write_bytes(path.read_bytes().replace(b"t0", b"t1", 1))
    with pytest.raises(StateFileError, match="a damaged one"):
        load_state(path)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "5.state"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="expected a training state in safetensors form"):
        load_state(path)
    assert not (tmp_path / "ran").exists()


def test_another_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "7.state")
    with pytest.raises(UserError, match="expected a training state"):
        load_state(tmp_path / "7.state")


def test_random_state_repeats_all_generators(tmp_path):
    def draw():
        return torch.rand(2).tolist(), random.random(), np.random.rand()

    path = save_state(tmp_path, 1, random_state())
    first = draw()
    set_random_state(load_state(path))
    assert draw() == first


def test_differences_name_the_keys():
    found = differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": None}})
    assert found == ["a.c: the state has 2, the options have 3"]


def test_moments_take_the_layout_of_their_weights():
    weight = torch.nn.Parameter(torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    saved = unpack(*pack(optimizer.state_dict()))
    other = torch.optim.Adam([weight])
    restore(other, saved)
    assert other.state[weight]["exp_avg"].stride() == weight.stride()
    assert torch.equal(other.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])
    assert same(other.state_dict(), optimizer.state_dict())
