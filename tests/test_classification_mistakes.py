"""What users get wrong with labeled images: train.py ends with code 2 and one message, before it trains."""

import shutil

import pytest
import yaml
from labeled_sets import tiny, write_cifar_10

from dhp_sr.data.class_writers import make_classes
from dhp_sr.train import main

RECORD = 3073


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10's layout with three classes."""
    folder = write_cifar_10(tmp_path / "published", tiny(9))
    return write_cifar_10(folder, tiny(5, seed=1), "test")


@pytest.fixture
def refusal(tmp_path, capsys):
    """Start a run on a folder; return what it says once it has ended with code 2 and left nothing behind."""

    def run(folder, **network):
        data = {"type": "ClassificationDataset", "dataroot": str(folder)}
        options = {
            "name": "tiny",
            "model_type": "DHPClassificationModel",
            "num_gpu": 0,
            "network_g": {
                "type": "HyperResNet",
                "depth": 8,
                "num_feat": 4,
                "num_classes": 3,
                **network,
            },
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


def test_the_number_of_classes(cifar, refusal):
    text = refusal(cifar, num_classes=10)
    assert (
        "expected 10 classes" in text
        and "found 3 (ant, bee, cow)" in text
        and "network_g.num_classes: 3" in text
    )


def test_a_label_out_of_range(cifar, refusal):
    path = cifar / "data_batch_1.bin"
    data = bytearray(path.read_bytes())
    data[4 * RECORD] = 3
    path.write_bytes(bytes(data))
    assert "3 at image 4" in refusal(cifar)


def test_a_truncated_binary_file(cifar, refusal):
    path = cifar / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    text = refusal(cifar)
    assert (
        "datasets.val" in text
        and f"expected a multiple of {RECORD} bytes" in text
        and "cut short" in text
    )


def test_a_class_folder_without_pictures(cifar, refusal, tmp_path):
    make_classes(cifar, tmp_path / "folders", "folders")
    for picture in (tmp_path / "folders" / "train" / "bee").iterdir():
        picture.unlink()
    assert "bee: " in refusal(tmp_path / "folders")


def test_a_sheet_without_its_index(cifar, refusal, tmp_path):
    make_classes(cifar, tmp_path / "sheets", "sheets")
    shutil.move(tmp_path / "sheets" / "INDEX.tsv", tmp_path / "INDEX.tsv")
    assert "sheets need their INDEX.tsv, other images a folder for each class" in refusal(
        tmp_path / "sheets"
    )


def test_a_folder_that_is_not_there(refusal, tmp_path):
    assert "nothing" in refusal(tmp_path / "nosuch")
