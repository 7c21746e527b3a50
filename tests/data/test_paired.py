"""Super-resolution pairs."""

import numpy as np
import pytest
import torch
from PIL import Image

from dhp_sr.data import build_train_set, build_val_set, paired
from dhp_sr.data.augment import orient
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.images import crop_to_multiple, decode, to_color
from dhp_sr.utils.errors import UserError


def test_patch_and_its_lr_show_the_same_area(tmp_path, train_options):
    """An image of coordinates: each LR pixel of a patch has to lie amid its HR pixels."""
    rows, columns = np.mgrid[0:64, 0:96]
    ramp = np.stack([rows * 2, columns * 2, np.zeros_like(rows)], axis=2).astype(np.uint8)
    (tmp_path / "hr").mkdir()
    Image.fromarray(ramp).save(tmp_path / "hr" / "ramp.png")
    dataset = build_train_set(train_options(tmp_path / "hr"), 4, seed=3)
    seen = set()
    for position in range(64):
        item = dataset[(0, position)]
        assert item["lq"].shape == (3, 4, 4) and item["gt"].shape == (3, 16, 16)
        means = torch.nn.functional.avg_pool2d(item["gt"], 4)
        inside = item["lq"][:2] * 255 - means[:2] * 255
        assert (
            inside.abs().max() <= 6
        )  # half an LR pixel at the mirrored border, rounding elsewhere
        seen.add(tuple(torch.sign(item["gt"][:2, 0, 0] - item["gt"][:2, -1, -1]).tolist()))
    assert len(seen) == 4  # mirrored and turned


def test_items_are_contiguous_floats_in_range(folder_of, train_options):
    dataset = build_train_set(train_options(folder_of("hr", a=(40, 50))), 2, seed=0)
    item = dataset[(0, 5)]
    for name in ("lq", "gt"):
        assert item[name].dtype == torch.float32 and item[name].is_contiguous()
        assert item[name].min() >= 0 and item[name].max() <= 1
    assert item["key"] == "a"


@pytest.mark.parametrize(
    ("hflip", "rot", "orientations"), [(False, False, 1), (True, False, 2), (True, True, 8)]
)
def test_augmentation_can_be_switched_off(folder_of, train_options, hflip, rot, orientations):
    options = train_options(folder_of("hr", a=(16, 16)), use_hflip=hflip, use_rot=rot)
    dataset = build_train_set(options, 2, seed=0)
    assert (
        len({dataset[(0, position)]["gt"].numpy().tobytes() for position in range(64)})
        == orientations
    )


def test_orientations_are_the_eight_of_a_square(make_image):
    image = make_image(4, 4).transpose(2, 0, 1)
    flags = [(h, v, s) for h in (False, True) for v in (False, True) for s in (False, True)]
    found = {orient(image, *flag).tobytes() for flag in flags}
    turned = {np.rot90(image, k, axes=(1, 2)).tobytes() for k in range(4)}
    turned |= {np.rot90(image[:, :, ::-1], k, axes=(1, 2)).tobytes() for k in range(4)}
    assert found == turned


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_lr_is_made_once(folder_of, train_options, monkeypatch, cache):
    calls = []
    monkeypatch.setattr(
        paired, "downscale", lambda image, scale: calls.append(1) or downscale(image, scale)
    )
    dataset = build_train_set(
        train_options(folder_of("hr", a=(32, 32), b=(32, 40)), cache=cache), 2, seed=0
    )
    for position in range(10):
        dataset[(position % 2, position)]
    assert len(calls) == 2


def test_caches_agree(folder_of, train_options):
    folder = folder_of("hr", a=(33, 35), b=(32, 40))
    kept, read = (
        build_train_set(train_options(folder, cache=cache), 4, seed=0)
        for cache in ("memory", "none")
    )
    for address in ((0, 0), (1, 1), (0, 2)):
        assert all(torch.equal(kept[address][name], read[address][name]) for name in ("lq", "gt"))


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_ready_pairs_equal_made_ones(tmp_path, folder_of, val_options, cache, color):
    """Grey files in an RGB set, and sides that are no multiples of the scale, included."""
    folder = folder_of("hr", a=(33, 35), b=(32, 40, 1))
    ready = tmp_path / "lr"
    ready.mkdir()
    for path in folder.iterdir():
        lr = downscale(crop_to_multiple(to_color(decode(path.read_bytes(), ""), color), 4), 4)
        Image.fromarray(lr.squeeze()).save(ready / f"{path.stem}x4.png")
    made = build_val_set(val_options(folder, color=color), 4)
    options = val_options(
        folder, color=color, dataroot_lq=str(ready), filename_tmpl="{}x4", cache=cache
    )
    for ours, theirs in zip(made, build_val_set(options, 4), strict=True):
        assert ours["key"] == theirs["key"]
        assert all(torch.equal(ours[name], theirs[name]) for name in ("lq", "gt"))
        assert ours["lq"].shape[0] == {"rgb": 3, "gray": 1}[color]
        assert ours["gt"].shape[1] == 4 * ours["lq"].shape[1]


def test_val_items_carry_uint8(folder_of, val_options):
    item = build_val_set(val_options(folder_of("hr", a=(33, 35))), 4)[0]
    assert item["gt_uint8"].shape == (32, 32, 3) and item["lq_uint8"].dtype == np.uint8
    np.testing.assert_array_equal(
        item["gt_uint8"], item["gt"].mul(255).round().byte().permute(1, 2, 0).numpy()
    )
    np.testing.assert_array_equal(item["lq_uint8"], downscale(item["gt_uint8"], 4))


def test_max_images_takes_the_first(folder_of, val_options):
    dataset = build_val_set(
        val_options(folder_of("hr", a=(8, 8), b=(8, 8), c=(8, 8)), max_images=2), 2
    )
    assert [item["key"] for item in dataset] == ["a", "b"]


def test_several_roots_of_pairs_may_share_names(folder_of, train_options):
    hr = [folder_of("hr1", a=(32, 32)), folder_of("hr2", a=(48, 32))]
    lr = [folder_of("lr1", a=(16, 16)), folder_of("lr2", a=(24, 16))]
    options = train_options(hr, dataroot_lq=[str(one) for one in lr])
    assert len(build_train_set(options, 2, seed=0)) == 2
    with pytest.raises(UserError, match="2 of dataroot_gt and 1 of dataroot_lq"):
        build_train_set(train_options(hr, dataroot_lq=str(lr[0])), 2, seed=0)
