import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dhp_sr.config.datasets import ValDataset
from dhp_sr.metrics import psnr_db, ssim
from dhp_sr.tasks import task_of
from dhp_sr.tasks.evaluation import evaluate_inputs, evaluate_sets
from dhp_sr.tasks.test_sets import (
    TestSet,
    build_test_sets,
    evaluate,
    evaluate_input_images,
    mean_scores,
)
from dhp_sr.utils.errors import UserError


class Nearest(nn.Module):
    """Enlarges twice; insists on heights and widths that are multiples of 16."""

    scale, size_multiple = 2, 16

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False, momentum=1.0)

    def forward(self, x):
        assert x.shape[-1] % 16 == 0 and x.shape[-2] % 16 == 0
        self.norm(x)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def make_items(height: int, width: int, channels: int = 3) -> list[dict]:
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 256, (2 * height, 2 * width, channels), dtype=np.uint8)
    lq = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    tensor = torch.from_numpy(lq).permute(2, 0, 1).float() / 255
    return [{"lq": tensor, "lq_uint8": lq, "gt_uint8": gt, "key": "one"}]


@pytest.mark.parametrize(
    "size", [(16, 32), (21, 50), (9, 10)], ids=["fits", "reflected", "replicated"]
)
def test_images_are_padded_and_cropped(size):
    (item,) = make_items(*size)
    expected = item["lq_uint8"].repeat(2, 0).repeat(2, 1)
    scores = evaluate(Nearest(), TestSet("A", [item], 2, 2))
    target = item["gt_uint8"]
    assert scores["psnr_y_db"] == psnr_db(expected, target, crop_border=2, luma=True)
    assert scores["psnr_rgb_db"] == psnr_db(expected, target, crop_border=2)
    assert scores["ssim_y"] == ssim(expected, target, crop_border=2, luma=True)
    assert scores["images"] == 1


def test_the_mode_is_restored_and_no_statistics_change():
    network = Nearest()
    network.train()
    network.norm.eval()
    evaluate(network, TestSet("A", make_items(16, 16), 2, 0))
    assert network.training and not network.norm.training
    assert network.norm.num_batches_tracked == 0


def test_images_are_saved(tmp_path):
    items = make_items(16, 16)
    evaluate(Nearest(), TestSet("A", items, 2, 0), save_to=tmp_path / "A")
    saved = np.asarray(Image.open(tmp_path / "A" / "one.png"))
    assert np.array_equal(saved, items[0]["lq_uint8"].repeat(2, 0).repeat(2, 1))


def test_images_of_equal_names_are_all_saved(tmp_path):
    first, second = make_items(16, 16)[0], make_items(16, 32)[0]
    items = [first, {**second, "key": "One"}]
    evaluate(Nearest(), TestSet("A", items, 2, 0), save_to=tmp_path)
    shapes = {path.name: np.asarray(Image.open(path)).shape for path in tmp_path.iterdir()}
    assert shapes == {"one.png": (32, 32, 3), "One_2.png": (32, 64, 3)}


def test_results_that_are_no_numbers_are_reported():
    class Overflowing(Nearest):
        def forward(self, x):
            return super().forward(x) * torch.nan

    with pytest.warns(UserWarning, match="not finite"):
        evaluate(Overflowing(), TestSet("A", make_items(16, 16), 2, 0))


def test_a_set_without_images():
    with pytest.raises(UserError, match="test set A"):
        evaluate(Nearest(), TestSet("A", [], 2, 0))


def with_crop_border(options, crop_border):
    val = options.datasets["val"].model_copy(update={"crop_border": crop_border})
    return options.model_copy(update={"datasets": {"val": val}})


def test_the_cropped_border(make_options):
    sr = make_options()
    assert [test_set.crop_border for test_set in build_test_sets(sr)] == [2]
    given = build_test_sets(with_crop_border(sr, 5))
    assert [test_set.crop_border for test_set in given] == [5]


def test_noise_is_scored_as_its_level(make_options):
    options = make_options(network={"type": "DnCNN", "num_feat": 8})
    (test_set,) = build_test_sets(options)
    scores = mean_scores(evaluate_input_images(test_set))
    assert test_set.crop_border == 0
    assert scores["psnr_y_db"] == scores["psnr_rgb_db"]
    assert scores["psnr_y_db"] == pytest.approx(20 * np.log10(255 / 25), abs=0.6)
    assert scores["ssim_y"] == scores["ssim_rgb"]


def test_images_too_small_to_score(make_options):
    with pytest.raises(UserError, match=r"33x33.*0\.png \(32x32\).*crop_border"):
        build_test_sets(with_crop_border(make_options(), 11))


def test_two_sets_of_one_name(make_options):
    options = make_options()
    both = {**options.datasets, "val_1": options.datasets["val"]}
    with pytest.raises(UserError, match=r"datasets\.val_1: .*'A'"):
        build_test_sets(options.model_copy(update={"datasets": both}))


def test_scores_of_sets_are_the_means_of_their_images(make_options):
    options = make_options()
    task = task_of(options)
    network = task.build_network(options)
    sets = build_test_sets(options)
    scores = evaluate_sets(task, network, sets, "cpu")
    assert scores.sets["A"] == task.evaluate(network, sets[0])
    assert [image["image"] for image in scores.images["A"]] == ["0", "1"]
    assert scores.sets["A"] == mean_scores(scores.images["A"])
    assert evaluate_inputs(task, sets).sets["A"]["psnr_y_db"] > scores.sets["A"]["psnr_y_db"]


@pytest.mark.parametrize(
    ("kind", "scale", "name", "input_name"),
    [
        ("ImageDataset", 1, "restoration", "input"),
        ("ImageDataset", 2, "sr", "bicubic"),
        ("NoiseDataset", 1, "denoise", "noisy"),
        ("SRDataset", 2, "sr", "bicubic"),
    ],
)
def test_what_a_run_restores_is_told_by_its_data(make_options, kind, scale, name, input_name):
    """Inputs of an ImageDataset may be blurred as well as noisy."""
    val = ValDataset(type=kind, dataroot_gt="gt")
    task = task_of(make_options().model_copy(update={"datasets": {"val": val}, "scale": scale}))
    assert (task.name, task.input_name) == (name, input_name)
    assert task.network_tasks[0] == ("sr" if scale > 1 else "denoise")


@pytest.mark.parametrize(("name", "expected"), [("Set5", 28.429), ("Set14", 25.994)])
def test_bicubic_scores_equal_the_published_ones(shared_data, name, expected):
    """Set14 holds one gray file, which the published mean scores as its own luma."""
    options = ValDataset(type="SRDataset", dataroot_gt=str(shared_data / name / "HR"))
    test_set = TestSet.from_options(name, options, 4)
    scores = mean_scores(evaluate_input_images(test_set))
    assert scores["psnr_y_db"] == pytest.approx(expected, abs=5e-4)
