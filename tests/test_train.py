"""The command line of training, in processes of its own."""

import errno
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from runs import assert_same_run, empty_pages

from dhp_sr.train import main

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def option_file(tmp_path):
    """A function that writes the option file of a tiny run on bundled photographs."""

    def write(**changes) -> Path:
        data = {"type": "SRDataset", "dataroot_gt": "bundled:train"}
        options = {
            "name": "tiny",
            "scale": 2,
            "num_gpu": 0,
            "network_g": {"type": "HyperEDSR", "num_feat": 8, "num_block": 1, "upscale": 2},
            "datasets": {
                "train": {**data, "gt_size": 16, "batch_size_per_gpu": 2},
                "val": {**data, "dataroot_gt": "bundled:val", "max_images": 1},
            },
            "path": {"experiments_root": str(tmp_path / "experiments")},
            "compress": {
                "target": {"macs": 0.5},
                "tolerance": 0.15,
                "round_to": 2,
                "min_width": 2,
                "dense_iter": 4,
                "search_iter": 4,
            },
            # In another process `auto` may decide otherwise than in this one.
            "train": {"total_iter": 12, "optim_g": {"lr": 0.001}, "amp": "none"},
            "val": {"val_freq": 1000},
            "logger": {"print_freq": 1, "save_checkpoint_freq": 3, "use_tb_logger": False},
        }
        path = tmp_path / "options.yml"
        path.write_text(yaml.safe_dump({**options, **changes}))
        return path

    return write


def command(path: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "dhp_sr" / "train.py"), "-opt", str(path), *more]


@pytest.mark.slow
def test_killed_and_resumed_from_another_folder(option_file, tmp_path, monkeypatch, capsys):
    """SIGKILL somewhere in the middle; the end is that of an uninterrupted run."""
    path = option_file()
    with empty_pages():
        assert main(["-opt", str(path), "--set", "name=whole"]) == 0
    killed, whole = (tmp_path / "experiments" / name for name in ("tiny", "whole"))
    process = subprocess.Popen(
        command(path), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stderr:
            if re.match(r"[57]/12 ", line):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL and not (killed / "metrics.json").exists()
    monkeypatch.chdir("/")
    with empty_pages():
        assert main(["-opt", str(path), "--auto_resume"]) == 0
    assert "resumed at iteration" in capsys.readouterr().err
    assert_same_run(killed, whole)


def test_terminated_saves_its_state_and_says_how_to_resume(option_file, tmp_path):
    train = {"total_iter": 100000, "optim_g": {"lr": 0.001}}
    path = option_file(train=train)
    change = ("--set", "name=tiny", "datasets.train.name=a b")
    process = subprocess.Popen(
        command(path, *change), cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stderr:
            if line.startswith("10/"):
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    states = {int(file.stem) for file in (tmp_path / "experiments").rglob("*.state")}
    assert f"stopped after iteration {max(states)}" in rest
    (again,) = re.findall("resume with: (python .*)", rest)
    assert shlex.split(again)[1:] == command(path, *change, "--auto_resume")[1:]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"num_feats": 8}, "num_feats"),
        ({"num_gpu": 64}, "num_gpu: 64"),
        ({"network_g": {"type": "HyperEDSX"}}, "HyperEDSR"),
        ({"path": {"pretrain_network_g": "nowhere.pth"}}, "nowhere.pth"),
        ({"manual_seed": 2**70}, "manual_seed"),
        ({"model_type": "SRModel"}, "'DHPModel'"),
        (
            {
                "datasets": {
                    "train": {
                        "type": "SRDataset",
                        "dataroot_gt": "/no/such",
                        "gt_size": 16,
                        "batch_size_per_gpu": 1,
                    }
                }
            },
            "/no/such",
        ),
    ],
    ids=["key", "CUDA", "network", "checkpoint", "seed", "model", "folder"],
)
def test_mistakes_end_with_2_and_one_message(option_file, capsys, tmp_path, changes, expected):
    earlier = tmp_path / "experiments" / "tiny"
    earlier.mkdir(parents=True)
    assert main(["-opt", str(option_file(**changes))]) == 2
    message = capsys.readouterr().err
    assert expected in message and "Traceback" not in message
    assert list(earlier.parent.iterdir()) == [earlier], "an earlier run stays where it is"


def write_pickle(path):
    path.write_bytes(pickle.dumps(Path("x")))


def write_weights_of_another_network(path):
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [(write_pickle, "other.pth"), (write_weights_of_another_network, "conv.weight")],
)
def test_checkpoints_that_cannot_be_loaded(option_file, tmp_path, capsys, write, expected):
    checkpoint = tmp_path / "other.pth"
    write(checkpoint)
    root = str(tmp_path / "experiments")
    path = {"experiments_root": root, "pretrain_network_g": str(checkpoint)}
    assert main(["-opt", str(option_file(path=path))]) == 2
    assert expected in capsys.readouterr().err


def test_a_missing_option_file(capsys):
    assert main(["-opt", "no_such.yml"]) == 2
    assert "no_such.yml" in capsys.readouterr().err


def test_a_package_that_is_not_installed(option_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dhp_sr.training.driver", None)
    assert main(["-opt", str(option_file())]) == 2
    assert "pip install" in capsys.readouterr().err


def test_a_full_disk(option_file, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dhp_sr.training.trainer.save_state", fail)
    assert main(["-opt", str(option_file())]) == 2
    message = capsys.readouterr().err
    assert "No space left" in message and "--auto_resume" in message


def test_too_little_memory(option_file, monkeypatch, capsys):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")

    monkeypatch.setattr("dhp_sr.tasks.restoration.build_train_set", fail)
    assert main(["-opt", str(option_file())]) == 2
    message = capsys.readouterr().err
    assert "Tried to allocate 2 GiB" in message and "batch_size_per_gpu" in message


def test_an_interruption_before_the_first_step_ends_at_once(option_file, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dhp_sr.tasks.restoration.build_train_set", interrupt)
    assert main(["-opt", str(option_file())]) == 130
    assert "start again with the same command" in capsys.readouterr().err
    assert main(["-opt", str(option_file()), "--auto_resume"]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_patches_that_the_network_cannot_halve(option_file, capsys):
    train = {
        "type": "SRDataset",
        "dataroot_gt": "bundled:train",
        "gt_size": 34,
        "batch_size_per_gpu": 1,
    }
    rrdb = {
        "type": "RRDBNet",
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": 2,
        "num_feat": 8,
        "num_block": 1,
    }
    path = option_file(network_g={"type": "Hyper", "network": rrdb}, datasets={"train": train})
    assert main(["-opt", str(path)]) == 2
    message = capsys.readouterr().err
    assert "datasets.train.gt_size" in message and "gt_size: 32" in message


def test_torchrun_is_needed_for_the_launcher(option_file, monkeypatch, capsys):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert main(["-opt", str(option_file()), "--launcher", "pytorch"]) == 2
    assert "torchrun" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dhp", "hsn"])
def test_two_processes(option_file, tmp_path, method):
    path = option_file()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    torchrun += ["--master_port=29731"]
    arguments = [*command(path)[1:], "--launcher", "pytorch", "--set", f"compress.method={method}"]
    done = subprocess.run([*torchrun, *arguments], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "experiments" / "tiny"
    assert (folder / "metrics.json").exists()
    assert len((folder / "curves.csv").read_text().splitlines()) == 13
