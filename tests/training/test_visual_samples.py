"""models/samples.py: pieces of test pictures, as the models really made them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import run

from dhp_sr.archs import build
from dhp_sr.metrics import psnr_db
from dhp_sr.reports.run import read_run
from dhp_sr.tasks.test_sets import TestSet, enlarge, restore
from dhp_sr.training.visual_samples import COUNT, SIDE, busiest, write_samples

DNCNN = {"type": "HyperDnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4}


def item(side, scale, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 256, (side, side, channels), dtype=np.uint8)
    lq = truth[::scale, ::scale].copy()
    tensor = torch.from_numpy(lq).permute(2, 0, 1).float() / 255
    return {"lq": tensor, "lq_uint8": lq, "gt_uint8": truth, "key": f"p{seed}"}


def pictures(path):
    return {file.stem: np.array(Image.open(file)) for file in path.glob("*.png")}


def test_pieces_are_what_the_network_made(tmp_path):
    network, one = build("EDSR", num_feat=8, num_block=1, upscale=2), item(SIDE + 40, 2)
    write_samples(tmp_path, {"pruned": network}, [TestSet("A", [one], 2, 2)])
    (entry,) = json.loads((tmp_path / "index.json").read_text())["pictures"]
    top, left, height, width = entry["crop"]
    assert (height, width) == (SIDE, SIDE) and entry["size"] == [SIDE + 40] * 2
    found, made = pictures(tmp_path / "0"), restore(network, one, 2)
    area = np.s_[top : top + height, left : left + width]
    assert set(found) == {"input", "bicubic", "pruned", "truth"}
    for name, whole in {
        "pruned": made,
        "bicubic": enlarge(one, 2),
        "truth": one["gt_uint8"],
    }.items():
        assert np.array_equal(found[name], whole[area]), name
    small = np.s_[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    assert np.array_equal(found["input"], one["lq_uint8"][small])
    scores = {version["name"]: version["psnr_db"] for version in entry["versions"]}
    assert scores["pruned"] == pytest.approx(
        psnr_db(made, one["gt_uint8"], crop_border=2, luma=True)
    )
    assert scores["truth"] is None and scores["input"] is None


def test_grey_noise_has_no_enlargement(tmp_path):
    network, one = build("DnCNN", num_in_ch=1, num_feat=8, num_layers=4), item(20, 1, channels=1)
    write_samples(tmp_path, {"dense": network}, [TestSet("A", [one], 1, 0)])
    found = pictures(tmp_path / "0")
    assert set(found) == {"input", "dense", "truth"} and found["dense"].shape == (20, 20)


def test_sets_take_turns_and_few_are_kept(tmp_path):
    sets = [TestSet(name, [item(24, 2, seed=seed) for seed in range(4)], 2, 2) for name in "AB"]
    write_samples(tmp_path, {}, sets)
    entries = json.loads((tmp_path / "index.json").read_text())["pictures"]
    assert [(entry["set"], entry["key"]) for entry in entries] == [
        ("A", "p0"),
        ("B", "p0"),
        ("A", "p1"),
    ]
    assert len(entries) == COUNT
    write_samples(tmp_path, {}, [])
    assert not tmp_path.exists()


def test_the_piece_is_where_the_detail_is():
    truth = np.full((3 * SIDE, 3 * SIDE, 3), 128, np.uint8)
    truth[SIDE : 2 * SIDE, 2 * SIDE :] = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    assert busiest(truth, 4) == (SIDE, 2 * SIDE, SIDE, SIDE)


@pytest.mark.parametrize(("height", "width", "scale"), [(30, 301, 3), (7, 9, 2), (500, 261, 4)])
def test_the_piece_lies_inside_and_fits_the_input(height, width, scale):
    crop = busiest(np.zeros((height // scale * scale, width // scale * scale, 1), np.uint8), scale)
    top, left, rows, cols = crop
    assert all(value % scale == 0 for value in crop) and 0 < rows <= SIDE and 0 < cols <= SIDE
    assert top + rows <= height and left + cols <= width


@pytest.mark.parametrize(
    "changes", [{}, {"network": DNCNN}, {"compress": {}}, {"compress": {"method": "uniform"}}]
)
def test_a_run_leaves_its_report(make_options, tmp_path, changes):
    run(make_options(**changes), tmp_path)
    folder = tmp_path / "experiments" / "tiny"
    found = read_run(folder)
    assert (folder / "report.html").stat().st_size > 10_000
    names = [version.name for version in found.samples[0].versions]
    first = ["input"] if "network" in changes else ["input", "bicubic"]
    middle = ["dense"] if changes.get("compress") == {} else ["dense", "pruned"]
    assert len(found.samples) == 2 and names == [*first, *middle, "ground truth"]
    assert (found.plan is None) == (changes.get("compress") == {}) == (not found.latents)
    if found.plan:
        assert {group["name"] for group in found.plan["groups"]} == {
            group["name"] for group in found.widths["groups"]
        }
