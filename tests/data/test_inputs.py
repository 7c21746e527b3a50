"""Images that are inputs themselves: as they are and reduced, with a target of the
output's shape.
"""

import os

import numpy as np
import pytest
import torch
from input_sets import input_train_set, reduced

from dhp_sr.data.inputs import TeacherOutputs


def test_patches_come_from_images_and_from_reduced_ones():
    # Only the reduced image is gray: its fine stripes are averaged away.
    stripes = np.zeros((3, 64, 64), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    data = input_train_set([stripes], side=8, scale=2, reductions=(1, 2), augment=False)
    kinds = set()
    for position in range(12):
        item = data[0, position]
        assert item["lq"].shape == (3, 8, 8) and item["gt"].shape == (3, 16, 16)
        assert torch.equal(item["lq"], data[0, position]["lq"])
        kinds.add(bool(item["lq"].std() > 0.3))
    assert kinds == {True, False}


def test_space_of_outputs_is_taken_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr("dhp_sr.data.inputs._CHUNK_BYTES", 100)
    outputs = TeacherOutputs([(1, 5, 7), (3, 8, 8)], tmp_path)
    outputs[1][:] = 0.5
    assert outputs[0].sum() == 0 and outputs[1].sum() == 96


def test_images_too_small_to_be_reduced_are_taken_as_they_are():
    image = np.full((1, 12, 12), 7, dtype=np.uint8)
    data = input_train_set([image], side=8, scale=1, reductions=(1, 2), augment=True)
    assert all(data[0, position]["lq"].shape == (1, 8, 8) for position in range(6))


def test_every_factor_comes_equally_often_and_whole_images_are_in_their_order():
    # The factor shows in the values: steps between neighbors grow with it.
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8) * 2, (1, 96, 96)).copy()
    data = input_train_set([ramp], side=8, scale=2, reductions=(2, 3, 4), augment=False)
    assert [image.shape[1] for image in data.whole_inputs()] == [48, 32, 24]
    steps = []
    for position in range(300):
        row = data[0, position]["lq"][0, 0] * 255
        steps.append(round(float(row[4] - row[3]) / 2))
    assert all(80 < steps.count(factor) < 120 for factor in (2, 3, 4))


@pytest.mark.parametrize("shape", [(3, 50, 41), (1, 16, 90), (1, 7, 7)])
def test_the_memory_is_known_before_an_image_is_decoded(shape):
    item = reduced(np.zeros(shape, np.uint8), (1, 2, 3, 4), 8)
    assert item.decoded_bytes() == sum(array.nbytes for array in item.load())


def test_other_factors_or_patches_are_other_arrays_of_a_cache():
    image = np.zeros((1, 40, 40), np.uint8)
    recipes = {reduced(image, *asked).recipe for asked in (((2,), 8), ((2, 3), 8), ((2,), 24))}
    assert len(recipes) == 3
