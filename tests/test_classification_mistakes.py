"""Mistakes with labeled images: train.py ends with code 2 and a message, before it trains."""

import shutil

import pytest
import yaml
from labeled_sets import tiny, write_cifar_10

from dhp_sr.data.class_writers import make_classes
from dhp_sr.train import main

RECORD_BYTES = 3073


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10's layout with three classes."""
    folder = write_cifar_10(tmp_path / "published", tiny(9))
    return write_cifar_10(folder, tiny(5, seed=1), "test")


@pytest.fixture
def refusal(tmp_path, capsys):
    """Start a run on a folder; return its message once it has ended and left nothing behind."""

    def run(folder, **network):
        data = {"type": "ClassificationDataset", "dataroot": str(folder)}
        resnet = {"type": "HyperResNet", "depth": 8, "num_feat": 4, "num_classes": 3}
        options = {
            "name": "tiny",
            "model_type": "DHPClassificationModel",
            "num_gpu": 0,
            "network_g": {**resnet, **network},
            "datasets": {"train": {**data, "batch_size_per_gpu": 2}, "val": data},
            "path": {"experiments_root": str(tmp_path / "experiments")},
            "train": {"total_iter": 2, "optim_g": {"type": "SGD", "lr": 0.1}},
            "logger": {"use_tb_logger": False},
        }
        (tmp_path / "options.yml").write_text(yaml.safe_dump(options))
        code = main(["-opt", str(tmp_path / "options.yml")])
        text = capsys.readouterr().err
        assert code == 2 and "Traceback" not in text, text
        assert not list(tmp_path.glob("experiments/*/models/*"))
        return text

    return run


def assert_names(text, *facts):
    for fact in facts:
        assert fact in text


def test_the_number_of_classes(cifar, refusal):
    text = refusal(cifar, num_classes=10)
    assert_names(text, "10 classes", "3 (ant, bee, cow)", "network_g.num_classes: 3")


def test_a_label_out_of_range(cifar, refusal):
    path = cifar / "data_batch_1.bin"
    data = bytearray(path.read_bytes())
    data[4 * RECORD_BYTES] = 3
    path.write_bytes(bytes(data))
    assert_names(refusal(cifar), "0 to 2", "3 at image 4")


def test_a_truncated_binary_file(cifar, refusal):
    path = cifar / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert_names(refusal(cifar), "datasets.val", "test_batch.bin", str(RECORD_BYTES))


def test_a_class_folder_without_images(cifar, refusal, tmp_path):
    make_classes(cifar, tmp_path / "folders", "folders")
    for image in (tmp_path / "folders" / "train" / "bee").iterdir():
        image.unlink()
    assert_names(refusal(tmp_path / "folders"), "'bee'")


def test_a_sprite_sheet_without_its_index(cifar, refusal, tmp_path):
    make_classes(cifar, tmp_path / "sheets", "sheets")
    shutil.move(tmp_path / "sheets" / "INDEX.tsv", tmp_path / "INDEX.tsv")
    assert_names(refusal(tmp_path / "sheets"), "INDEX.tsv")


def test_a_missing_folder(refusal, tmp_path):
    assert_names(refusal(tmp_path / "nosuch"), "nosuch")
