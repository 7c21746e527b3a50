"""`prepare_data.py classes`: results, and what is wrong with a set ends with code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from labelled_sets import contents, tiny, write_cifar_10, write_cifar_100

from dhp_sr.data.forms import read_pictures

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


def run(*arguments):
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)


@pytest.fixture
def cifar(tmp_path):
    return write_cifar_10(tmp_path / "published", tiny())


def test_a_set_is_written_in_another_form(cifar, tmp_path):
    done = run("classes", cifar, tmp_path / "set.lmdb", "--form", "lmdb")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'set.lmdb'}: made from 7 images\n"), done.stderr
    assert contents(read_pictures(tmp_path / "set.lmdb", "train")) == contents(tiny())
    assert run("verify", tmp_path / "set.lmdb").returncode == 0


def test_coarse_labels_and_sizes_can_be_chosen(tmp_path):
    source = write_cifar_100(tmp_path / "published", tiny())
    done = run("classes", source, tmp_path / "set", "--form", "folders", "--labels", "coarse", "--size", 16)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "set" / "train").iterdir()) == ["first", "other"]
    assert read_pictures(tmp_path / "set", "train").images_NHWC.shape == (7, 16, 16, 3)


def test_a_truncated_file_ends_with_one_message(cifar, tmp_path):
    path = cifar / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("classes", cifar, tmp_path / "set", "--form", "sheets")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "it is cut short; copy or download it again" in done.stderr
    assert not (tmp_path / "set").exists()
