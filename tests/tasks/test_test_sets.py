import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.config.datasets import ValDataset
from dhp_sr.metrics import psnr_db, ssim
from dhp_sr.tasks.test_sets import TestSet, build_test_sets, evaluate, evaluate_input


class Nearest(nn.Module):
    """Enlarges twice; insists on sides that are multiples of 16."""

    scale, size_multiple = 2, 16

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False, momentum=1.0)

    def forward(self, x):
        assert x.shape[-1] % 16 == 0 and x.shape[-2] % 16 == 0
        self.norm(x)
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def items(height: int, width: int, channels: int = 3) -> list[dict]:
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 256, (2 * height, 2 * width, channels), dtype=np.uint8)
    lq = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    tensor = torch.from_numpy(lq).permute(2, 0, 1).float() / 255
    return [{"lq": tensor, "lq_uint8": lq, "gt_uint8": gt, "key": "one"}]


@pytest.mark.parametrize(
    "size", [(16, 32), (21, 50), (9, 10)], ids=["fits", "reflected", "replicated"]
)
def test_sides_are_padded_and_cropped(size):
    given = items(*size)
    expected = given[0]["lq_uint8"].repeat(2, 0).repeat(2, 1)
    scores = evaluate(Nearest(), TestSet("A", given, 2, 2))
    truth = given[0]["gt_uint8"]
    assert scores["psnr_y_db"] == psnr_db(expected, truth, crop_border=2, luma=True)
    assert scores["psnr_rgb_db"] == psnr_db(expected, truth, crop_border=2)
    assert scores["ssim_y"] == ssim(expected, truth, crop_border=2, luma=True)
    assert scores["images"] == 1


def test_the_mode_is_put_back_and_no_statistics_move():
    network = Nearest()
    network.train()
    network.norm.eval()
    evaluate(network, TestSet("A", items(16, 16), 2, 0))
    assert network.training and not network.norm.training
    assert network.norm.num_batches_tracked == 0


def test_pictures_are_saved(tmp_path):
    from PIL import Image

    given = items(16, 16)
    evaluate(Nearest(), TestSet("A", given, 2, 0), save_to=tmp_path / "A")
    saved = np.asarray(Image.open(tmp_path / "A" / "one.png"))
    assert np.array_equal(saved, given[0]["lq_uint8"].repeat(2, 0).repeat(2, 1))


def test_the_borders_shaved(make_options):
    sr = make_options()
    assert [one.shave for one in build_test_sets(sr)] == [2]
    border = {"val": sr.datasets["val"].model_copy(update={"crop_border": 5})}
    assert [one.shave for one in build_test_sets(sr.model_copy(update={"datasets": border}))] == [5]


def test_noise_is_scored_as_its_level(make_options):
    options = make_options(network={"type": "DnCNN", "num_feat": 8})
    (test_set,) = build_test_sets(options)
    scores = evaluate_input(test_set)
    assert test_set.shave == 0
    assert (
        scores["psnr_y_db"]
        == scores["psnr_rgb_db"]
        == pytest.approx(20 * np.log10(255 / 25), abs=0.6)
    )
    assert scores["ssim_y"] == scores["ssim_rgb"]


def test_pictures_too_small_to_score(make_options):
    from dhp_sr.utils.errors import UserError

    sr = make_options()
    border = {"val": sr.datasets["val"].model_copy(update={"crop_border": 11})}
    with pytest.raises(
        UserError, match=r"at least 33x33 pixels, found \S+0\.png \(32x32\).* lower crop_border"
    ):
        build_test_sets(sr.model_copy(update={"datasets": border}))


def test_two_sets_of_one_name(make_options):
    from dhp_sr.utils.errors import UserError

    options = make_options()
    both = {**options.datasets, "val_1": options.datasets["val"]}
    with pytest.raises(UserError, match=r"datasets\.val_1: the name 'A' is taken"):
        build_test_sets(options.model_copy(update={"datasets": both}))


def test_the_bicubic_baseline_equals_the_published_one(shared_data):
    """Set14 holds one grey file, which the published mean scores as its own luma."""
    for name, expected in (("Set5", 28.429), ("Set14", 25.994)):
        options = ValDataset(type="SRDataset", dataroot_gt=str(shared_data / name / "HR"))
        scores = evaluate_input(TestSet.from_options(name, options, 4))
        assert scores["psnr_y_db"] == pytest.approx(expected, abs=5e-4)
