"""User's mistakes, each with one message, when a set is built."""

import pytest

from dhp_sr.data import build_train_set, build_val_set
from dhp_sr.utils.errors import UserError


def fails(match: str, options, scale: int = 2) -> None:
    build = build_train_set if hasattr(options, "gt_size") else build_val_set
    arguments = (options, scale, 0) if build is build_train_set else (options, scale)
    with pytest.raises(UserError, match=match):
        build(*arguments)


@pytest.fixture
def folder(folder_of):
    return folder_of("hr", a=(40, 50), b=(20, 30))


def test_message_names_the_section_and_the_set(tmp_path, train_options, val_options):
    fails(
        r"^datasets\.train \(Mine\): .*absent",
        train_options(tmp_path / "absent", name="Mine"),
    )
    fails(r"^datasets\.val: .*absent", val_options(tmp_path / "absent"))


def test_image_smaller_than_the_patch(folder, train_options):
    fails(
        r"24x24.* \S+b\.png \(20x30\).*gt_size",
        train_options(folder, gt_size=24),
    )
    noise = train_options(folder, gt_size=24, type="NoiseDataset", sigma=5.0)
    fails(r"24x24.* \S+b\.png \(20x30\).*gt_size", noise, scale=1)


def test_cropping_to_the_scale_counts(folder_of, train_options):
    folder = folder_of("odd", a=(17, 17))
    fails(r"18x18.* \S+a\.png", train_options(folder, gt_size=18), scale=3)
    assert build_train_set(train_options(folder, gt_size=15), 3, 0)[(0, 0)]["gt"].shape == (
        3,
        15,
        15,
    )


def test_patch_no_multiple_of_the_scale(folder, train_options):
    fails(r"gt_size \(=16\).*scale \(=3\).*15", train_options(folder), scale=3)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_truncated_image_is_found_before_training(folder, train_options, cache):
    path = folder / "b.png"
    path.write_bytes(path.read_bytes()[:-300])
    fails(r"datasets\.train: \S+b\.png: .*damaged", train_options(folder, cache=cache))


def test_lr_names(folder, folder_of, train_options):
    lr = folder_of("lr", ax2=(20, 25), c=(10, 15))
    options = train_options(folder, dataroot_lq=str(lr), filename_tmpl="{}x2")
    fails(
        r"bx2 \(of \S+b\.png\).*lr/c\.png.*'\{\}x2'",
        options,
    )


def test_lr_count(folder, folder_of, val_options):
    lr = folder_of("lr", a=(20, 25))
    fails(r"2 HR and 1 LR.* b \(of \S+b\.png", val_options(folder, dataroot_lq=str(lr)))


def test_lr_sizes(folder, folder_of, val_options):
    lr = folder_of("lr", a=(20, 25), b=(10, 14))
    fails(
        r"scale \(=2\).* \S+b\.png is 10x14, \S+b\.png is 20x30",
        val_options(folder, dataroot_lq=str(lr)),
    )


def test_lr_names_twice(folder, folder_of, val_options):
    lr = folder_of("lr", a=(20, 25), b=(10, 15))
    (lr / "a.bmp").write_bytes((lr / "a.png").read_bytes())
    fails(r"lr/a\.\S+: LR .*twice", val_options(folder, dataroot_lq=str(lr)))


def test_database_without_meta_file(tmp_path, val_options):
    (tmp_path / "x.lmdb").mkdir()
    (tmp_path / "x.lmdb" / "data.mdb").touch()
    fails(
        r"x\.lmdb: .*meta_info\.txt",
        val_options(tmp_path / "x.lmdb"),
    )


@pytest.mark.parametrize(
    ("values", "scale", "match"),
    [
        ({"type": "NoiseDataset"}, 1, "NoiseDataset.*sigma"),
        (
            {"type": "NoiseDataset", "sigma": 5.0},
            2,
            "NoiseDataset.*scale 2",
        ),
        (
            {"type": "NoiseDataset", "sigma": 5.0, "dataroot_lq": "x"},
            1,
            "dataroot_lq.*NoiseDataset",
        ),
        (
            {"type": "NoiseDataset", "sigma": [9.0, 5.0]},
            1,
            r"sigma.*0-255.*9\.0, 5\.0",
        ),
        ({"type": "NoiseDataset", "sigma": 256.0}, 1, r"sigma.*0-255.*256\.0"),
        ({"sigma": 5.0}, 2, r"sigma \(=5\.0\).*SRDataset"),
        ({}, 1, "SRDataset at scale 1.*dataroot_lq"),
        ({"filename_tmpl": "{}x2"}, 2, "filename_tmpl.*dataroot_lq"),
        (
            {"filename_tmpl": "x2", "dataroot_lq": "x"},
            2,
            r"filename_tmpl.*'x2'",
        ),
    ],
)
def test_settings_that_contradict(folder, train_options, values, scale, match):
    try:
        options = train_options(folder, **values)
    except ValueError:
        return  # the option schema refuses it already
    fails(match, options, scale)
