"""Crops of test images, as the models really restored them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import run
from tiny_runs import DNCNN

from dhp_sr.archs import build
from dhp_sr.metrics import psnr_db
from dhp_sr.reports.run import read_run
from dhp_sr.reports.run_files import GROUND_TRUTH
from dhp_sr.tasks.test_sets import TestSet, restore, upscale_input
from dhp_sr.training.visual_samples import (
    CROP_SIZE,
    NUM_IMAGES,
    most_detailed_crop,
    write_samples,
)


def make_item(side, scale, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 256, (side, side, channels), dtype=np.uint8)
    lq = target[::scale, ::scale].copy()
    tensor = torch.from_numpy(lq).permute(2, 0, 1).float() / 255
    return {"lq": tensor, "lq_uint8": lq, "gt_uint8": target, "key": f"p{seed}"}


def load_images(path):
    return {file.stem: np.array(Image.open(file)) for file in path.glob("*.png")}


def test_crops_show_what_the_network_made(tmp_path):
    network = build("EDSR", num_feat=8, num_block=1, upscale=2)
    item = make_item(CROP_SIZE + 40, 2)
    write_samples(tmp_path, {"pruned": network}, [TestSet("A", [item], 2, 2)])
    (entry,) = json.loads((tmp_path / "index.json").read_text())["pictures"]
    top, left, height, width = entry["crop"]
    assert (height, width) == (CROP_SIZE, CROP_SIZE)
    assert entry["size"] == [CROP_SIZE + 40] * 2

    crops = load_images(tmp_path / "0")
    restored = restore(network, item, 2)
    whole = {
        "pruned": restored,
        "bicubic": upscale_input(item, 2),
        "gt": item["gt_uint8"],
    }
    assert set(crops) == {"input", *whole}
    for name, image in whole.items():
        assert np.array_equal(crops[name], image[top : top + height, left : left + width]), name
    half = np.s_[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    assert np.array_equal(crops["input"], item["lq_uint8"][half])

    scores = {version["name"]: version["psnr_db"] for version in entry["versions"]}
    expected = psnr_db(restored, item["gt_uint8"], crop_border=2, luma=True)
    assert scores["pruned"] == pytest.approx(expected)
    assert scores["gt"] is None and scores["input"] is None


def test_a_denoised_image_has_no_bicubic_version(tmp_path):
    network = build("DnCNN", num_in_ch=1, num_feat=8, num_layers=4)
    test_set = TestSet("A", [make_item(20, 1, channels=1)], 1, 0)
    write_samples(tmp_path, {"dense": network}, [test_set])
    crops = load_images(tmp_path / "0")
    assert set(crops) == {"input", "dense", "gt"} and crops["dense"].shape == (20, 20)


def test_images_are_few_and_alternate_between_sets(tmp_path):
    items = [make_item(24, 2, seed=seed) for seed in range(4)]
    write_samples(tmp_path, {}, [TestSet(name, items, 2, 2) for name in "AB"])
    entries = json.loads((tmp_path / "index.json").read_text())["pictures"]
    chosen = [(entry["set"], entry["key"]) for entry in entries]
    assert chosen == [("A", "p0"), ("B", "p0"), ("A", "p1")] and len(chosen) == NUM_IMAGES
    write_samples(tmp_path, {}, [])
    assert not tmp_path.exists()


def test_the_crop_is_where_the_detail_is():
    target = np.full((3 * CROP_SIZE, 3 * CROP_SIZE, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (CROP_SIZE, CROP_SIZE, 3))
    target[CROP_SIZE : 2 * CROP_SIZE, 2 * CROP_SIZE :] = noise
    assert most_detailed_crop(target, 4) == (CROP_SIZE, 2 * CROP_SIZE, CROP_SIZE, CROP_SIZE)


@pytest.mark.parametrize(("height", "width", "scale"), [(30, 301, 3), (7, 9, 2), (500, 261, 4)])
def test_the_crop_lies_inside_and_fits_the_input(height, width, scale):
    target = np.zeros((height // scale * scale, width // scale * scale, 1), np.uint8)
    crop = most_detailed_crop(target, scale)
    top, left, rows, columns = crop
    assert all(value % scale == 0 for value in crop)
    assert 0 < rows <= CROP_SIZE and 0 < columns <= CROP_SIZE
    assert top + rows <= height and left + columns <= width


@pytest.mark.parametrize(
    ("changes", "versions"),
    [
        ({}, ["input", "bicubic", "dense", "pruned"]),
        ({"network": DNCNN}, ["input", "dense", "pruned"]),
        ({"compress": {}}, ["input", "bicubic", "dense"]),
    ],
)
def test_a_run_leaves_its_report(make_options, tmp_path, changes, versions):
    run(make_options(**changes), tmp_path, pages=True)
    folder = tmp_path / "experiments" / "tiny"
    report = read_run(folder)
    assert (folder / "report.html").stat().st_size > 10_000
    assert len(report.samples) == 2
    names = [version.name for version in report.samples[0].versions]
    assert names == [*versions, GROUND_TRUTH]
    is_dense = changes.get("compress") == {}
    assert (report.plan is None) == (not report.latents) == is_dense
    if report.plan:
        planned = {group["name"] for group in report.plan["groups"]}
        assert planned == {group["name"] for group in report.widths["groups"]}
