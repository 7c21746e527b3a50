"""`prepare_data.py classes`: results, and what is wrong with a set ends with code 2."""

import pytest
from labeled_sets import contents, tiny, write_cifar_10, write_cifar_100

from dhp_sr.data.class_formats import read_labeled


@pytest.fixture
def cifar(tmp_path):
    return write_cifar_10(tmp_path / "published", tiny())


def test_a_set_is_written_in_another_form(cifar, tmp_path, run):
    assert run("classes", cifar, tmp_path / "set.lmdb", "--form", "lmdb") == (
        0,
        f"{tmp_path / 'set.lmdb'}: made from 7 images\n",
    )
    assert contents(read_labeled(tmp_path / "set.lmdb", "train")) == contents(tiny())
    assert run("verify", tmp_path / "set.lmdb") == (0, f"{tmp_path / 'set.lmdb'}: sound\n")


def test_coarse_labels_and_sizes_can_be_chosen(tmp_path, run):
    source = write_cifar_100(tmp_path / "published", tiny())
    chosen = ("--form", "folders", "--labels", "coarse", "--size", 16)
    code, text = run("classes", source, tmp_path / "set", *chosen)
    assert code == 0, text
    assert sorted(path.name for path in (tmp_path / "set" / "train").iterdir()) == [
        "first",
        "other",
    ]
    assert read_labeled(tmp_path / "set", "train").images_NHWC.shape == (7, 16, 16, 3)


def test_a_target_among_the_class_folders_would_be_a_class(cifar, tmp_path, run):
    assert run("classes", cifar, tmp_path / "set", "--format", "folders")[0] == 0
    (tmp_path / "link").symlink_to(tmp_path / "set")
    before = sorted((tmp_path / "set").rglob("*"))
    for target in (tmp_path / "set", tmp_path / "set" / "out", tmp_path / "link" / "train" / "out"):
        code, text = run("classes", tmp_path / "set", target, "--format", "sheets")
        assert code == 2 and "outside" in text
    assert sorted((tmp_path / "set").rglob("*")) == before


def test_a_truncated_file_ends_with_one_message(cifar, tmp_path, run):
    path = cifar / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    code, text = run("classes", cifar, tmp_path / "set", "--form", "sheets")
    assert code == 2 and text.count("\n") == 1
    assert text.startswith("error: ") and "data_batch_1.bin: " in text
    assert not (tmp_path / "set").exists()
