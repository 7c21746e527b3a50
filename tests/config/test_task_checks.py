"""Settings of one task beside data of another: found before anything is built, exit code 2."""

import pytest
import yaml

from dhp_sr.config import load_options
from dhp_sr.train import main
from dhp_sr.utils.errors import UserError

CLASSES = {"type": "ClassificationDataset", "dataroot": "nowhere"}
IMAGES = {"type": "SRDataset", "dataroot_gt": "nowhere"}
CLASSIFIER = {
    "name": "one",
    "model_type": "DHPClassificationModel",
    "network_g": {"type": "HyperResNet"},
    "datasets": {"train": {**CLASSES, "batch_size_per_gpu": 8}, "val": CLASSES},
    "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}},
}
RESTORER = {
    "name": "one",
    "scale": 2,
    "network_g": {"type": "HyperEDSR", "upscale": 2},
    "datasets": {"train": {**IMAGES, "batch_size_per_gpu": 8, "gt_size": 32}, "val": IMAGES},
    "compress": {
        "target": {"macs": 0.5},
        "search_iter": 2,
        "dense_iter": 2,
        "distill": {"weight": 1.0},
    },
    "train": {"total_iter": 9, "optim_g": {"lr": 0.1}},
}


def write(tmp_path, base):
    path = tmp_path / "one.yml"
    path.write_text(yaml.safe_dump(base))
    return path


@pytest.mark.parametrize("base", [CLASSIFIER, RESTORER])
def test_both_are_right_as_they_are(tmp_path, base):
    assert load_options(write(tmp_path, base)).name == "one"


MISTAKES = [
    (CLASSIFIER, "scale=4", r"scale: 1, found 4"),
    (
        CLASSIFIER,
        "model_type=DHPModel",
        r"expects datasets of type .*found ClassificationDataset: set DHPClassif",
    ),
    (
        RESTORER,
        "model_type=DHPClassificationModel",
        r"expects datasets of type Class.*found SRDataset: set DHPModel",
    ),
    (CLASSIFIER, "train.pixel_opt.type=MSELoss", r"train\.pixel_opt .*compares images"),
    (CLASSIFIER, "val.save_img=true", r"val\.save_img .*make no images"),
    (CLASSIFIER, "datasets.train.sigma=25.0", r"datasets\.train\.sigma .*unknown key"),
    (CLASSIFIER, "datasets.val.crop_border=4", r"datasets\.val\.crop_border .*unknown key"),
    (
        CLASSIFIER,
        "train.cls_opt={type: L1Loss}",
        r"train\.cls_opt.*expected 'CrossEntropyLoss', found 'L1Loss'",
    ),
    (CLASSIFIER, "train.cls_opt={label_smoothing: 1.0}", r"label_smoothing.*below 1"),
    (RESTORER, "train.cls_opt={}", r"train\.cls_opt .*expects a ClassificationDataset"),
    (RESTORER, "compress.distill.temperature=2.0", r"temperature .*images have no temperature"),
]


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    MISTAKES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_of_the_other_task(tmp_path, base, change, expected):
    with pytest.raises(UserError, match=expected):
        load_options(write(tmp_path, base), [change])


def test_nesterov_needs_momentum(tmp_path):
    changes = ["train.optim_g.nesterov=true", "train.optim_g.momentum=0.0"]
    with pytest.raises(UserError, match="expects a momentum above 0"):
        load_options(write(tmp_path, CLASSIFIER), changes)


def test_nesterov_means_nothing_to_adam(tmp_path):
    with pytest.warns(UserWarning, match="nesterov .*has no effect with type: Adam"):
        load_options(
            write(tmp_path, CLASSIFIER), ["train.optim_g.type=Adam", "train.optim_g.nesterov=true"]
        )


def test_the_command_ends_with_exit_code_2(tmp_path, capsys):
    assert main(["-opt", str(write(tmp_path, CLASSIFIER)), "--set", "scale=4"]) == 2
    assert "scale: 1, found 4" in capsys.readouterr().err
