"""Denoising sets."""

import numpy as np
import pytest
import torch

from dhp_sr.data import build_train_set, build_val_set


@pytest.fixture
def folder(folder_of):
    return folder_of("clean", a=(64, 64), b=(64, 48, 1))


@pytest.mark.parametrize(("color", "channels"), [("rgb", 3), ("gray", 1)])
def test_fixed_level_has_the_right_statistics(folder, train_options, color, channels):
    options = train_options(folder, type="NoiseDataset", color=color, sigma=25.0, gt_size=48)
    dataset = build_train_set(options, 1, seed=0)
    noise = (
        torch.stack([item["lq"] - item["gt"] for item in (dataset[(0, p)] for p in range(20))])
        * 255
    )
    assert noise.shape[1] == channels
    assert noise.std().item() == pytest.approx(25, rel=0.02)
    assert abs(noise.mean().item()) < 0.5
    assert noise.abs().max() > 75  # neither clipped
    assert not torch.equal(noise, noise.round())  # nor rounded


def test_level_is_drawn_from_the_range(folder, train_options):
    dataset = build_train_set(
        train_options(folder, type="NoiseDataset", sigma=[5.0, 55.0], gt_size=48), 1, seed=0
    )
    items = [dataset[(0, position)] for position in range(60)]
    levels = np.array([(item["lq"] - item["gt"]).std().item() * 255 for item in items])
    assert 4 < levels.min() < 12 and 48 < levels.max() < 57
    assert np.mean(levels) == pytest.approx(30, abs=6)


def test_training_noise_repeats_with_the_seed_alone(folder, train_options):
    options = train_options(folder, type="NoiseDataset", sigma=25.0)
    first, same, other = (
        build_train_set(options, 1, seed=seed)[(0, 7)]["lq"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_validation_noise_repeats_by_name(folder, folder_of, val_options):
    options = val_options(folder, type="NoiseDataset", sigma=50.0, color="gray", noise_seed=3)
    first = [item["lq"] for item in build_val_set(options, 1)]
    again = [item["lq"] for item in build_val_set(options.model_copy(update={"cache": "none"}), 1)]
    assert all(map(torch.equal, first, again))
    other = build_val_set(options.model_copy(update={"noise_seed": 4}), 1)[0]["lq"]
    assert not torch.equal(first[0], other)
    alone = folder_of("alone", b=(64, 48, 1))
    (alone / "b.png").write_bytes((folder / "b.png").read_bytes())
    options = options.model_copy(update={"dataroot_gt": str(alone)})
    assert torch.equal(
        build_val_set(options, 1)[0]["lq"], first[1]
    )  # independent of the other images


def test_validation_images_are_clipped_tensors_are_not(folder, val_options):
    item = build_val_set(val_options(folder, type="NoiseDataset", sigma=70.0), 1)[0]
    assert item["lq"].min() < 0 and item["lq"].max() > 1
    expected = (item["lq"] * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(item["lq_uint8"], expected)
    np.testing.assert_array_equal(
        item["gt_uint8"], (item["gt"] * 255).round().byte().permute(1, 2, 0).numpy()
    )


def test_truly_gray_files_stay_as_they_are(folder, val_options):
    gray = build_val_set(val_options(folder, type="NoiseDataset", sigma=25.0, color="gray"), 1)[1]
    rgb = build_val_set(val_options(folder, type="NoiseDataset", sigma=25.0), 1)[1]
    assert gray["gt"].shape[0] == 1 and torch.equal(rgb["gt"], gray["gt"].expand(3, -1, -1))
