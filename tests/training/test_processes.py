"""Several processes: torchrun on the CPU, restarts, lost ranks and workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import run
from safetensors.torch import load_file
from tiny_runs import tiny_options

from dhp_sr.data import memory, sampler
from dhp_sr.data.sampler import train_batches
from dhp_sr.training.driver import batch_of_workers
from dhp_sr.utils.errors import LostProcessError, UserError

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
TRAIN = str(ROOT / "dhp_sr" / "train.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PLAIN = {"amp": "none", "ema_decay": 0.9}


def write_options(path: Path, options) -> Path:
    path.write_text(yaml.safe_dump(options.model_dump(mode="json", exclude_unset=True)))
    return path


def torchrun(path: Path, *more: str, processes: int = 2, script: str = TRAIN, options=()):
    """Start a run; return its finished process."""
    launch = [*TORCHRUN, f"--nproc_per_node={processes}", *options, script]
    return subprocess.run(
        [*launch, "-opt", str(path), "--launcher", "pytorch", *more],
        env=ENVIRONMENT,
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )


def read_curves(folder: Path) -> np.ndarray:
    rows = (folder / "curves.csv").read_text().splitlines()[1:]
    return np.array([row.split(",")[2:] for row in rows], dtype=float)


CASES = {
    "dhp": {},
    "paper": {"compress": {"preset": "paper", "parametrization": "full", "dense_iter": 0}},
    "hsn": {"compress": {"method": "hsn"}},
    "obs": {"compress": {"method": "obs"}},
    "magnitude": {"compress": {"method": "magnitude"}},
    "uniform": {"compress": {"method": "uniform"}},
    "random": {"compress": {"method": "random"}},
    "prior_widths": {"compress": {"method": "prior_widths"}},
    "correction": {"compress": {"correction": {"samples": 6}}},
    "distill": {"compress": {"distill": {"weight": 0.5}}},
}


@pytest.mark.parametrize(
    "case",
    [case if case == "dhp" else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
)
def test_two_processes_equal_one(image_folder, tmp_path, case):
    """The same images make up each batch, so curves, widths and weights agree up to rounding."""
    changes = CASES[case]
    options = {}
    for name, batch_size in (("one", 4), ("two", 2)):
        options[name] = tiny_options(
            image_folder, tmp_path, train={**PLAIN, "channels_last": True}, name=name, **changes
        )
        options[name].datasets["train"] = (
            options[name].datasets["train"].model_copy(update={"batch_size_per_gpu": batch_size})
        )
    run(options["one"], tmp_path)
    done = torchrun(write_options(tmp_path / "two.yml", options["two"]))
    assert done.returncode == 0, done.stderr
    one, two = (tmp_path / "experiments" / name for name in ("one", "two"))
    np.testing.assert_allclose(read_curves(two), read_curves(one), rtol=1e-5)
    folders = (one, two)
    groups = [json.loads((path / "widths.json").read_text())["groups"] for path in folders]
    assert groups[0] == groups[1]
    left, right = (load_file(path / "models" / "pruned.safetensors") for path in folders)
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=1e-4, atol=1e-5)


SKIPS_A_LAYER = """
from torch import nn
class SkipsALayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.skipped = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
    def forward(self, x):
        return nn.functional.pixel_shuffle(self.last(self.first(x).relu()), 2)
"""


@pytest.mark.slow
def test_layers_that_the_forward_skips_do_no_harm(image_folder, tmp_path):
    """Their parameters have no gradient that other processes could wait for."""
    file = tmp_path / "net.py"
    file.write_text(SKIPS_A_LAYER)
    network = {"type": "Hyper", "network": {"type": f"{file}:SkipsALayer"}}
    path = write_options(
        tmp_path / "o.yml", tiny_options(image_folder, tmp_path, network, train=PLAIN)
    )
    done = torchrun(path)
    assert done.returncode == 0, done.stderr
    assert "find_unused_parameters" not in done.stderr


FAIL_ONCE = f"""
import os, sys
sys.argv[0] = {TRAIN!r}
import dhp_sr.training.loop as loop
from dhp_sr.train import main
save = loop.TrainingLoop._save
def failing(self, finished):
    save(self, finished)
    if finished == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(13)
loop.TrainingLoop._save = failing
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--auto_resume",)])
def test_processes_that_torchrun_starts_again_resume(image_folder, tmp_path, more):
    script = tmp_path / "fail_once.py"
    script.write_text(FAIL_ONCE)
    folders = []
    for name in ("whole", "failing"):
        path = write_options(
            tmp_path / f"{name}.yml", tiny_options(image_folder, tmp_path, train=PLAIN, name=name)
        )
        folders.append(tmp_path / "experiments" / name)
        if name == "whole":
            done = torchrun(path)
        else:
            (folders[-1] / "models").mkdir(parents=True)  # an earlier run of this name
            done = torchrun(path, *more, script=str(script), options=("--max-restarts=2",))
        assert done.returncode == 0, done.stderr
    assert "resumed at iteration 6" in done.stderr
    whole, failing = folders
    assert (whole / "curves.csv").read_text() == (failing / "curves.csv").read_text()
    left, right = (load_file(folder / "models" / "pruned.safetensors") for folder in folders)
    assert all(torch.equal(left[key], right[key]) for key in left)
    # The earlier run made room once, and what was begun was not thrown away for the restart.
    assert len(list((tmp_path / "experiments").glob("failing_archived_*"))) == 1


@pytest.mark.slow
def test_a_killed_process_is_explained(image_folder, tmp_path):
    train = {**PLAIN, "total_iter": 100_000}
    path = write_options(
        tmp_path / "o.yml", tiny_options(image_folder, tmp_path, train=train, compress={})
    )
    process = subprocess.Popen(
        [*TORCHRUN, "--nproc_per_node=2", TRAIN, "-opt", str(path), "--launcher", "pytorch"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    with process:
        for line in process.stderr:
            lines.append(line)
            if line.startswith("20/"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        lines += process.stderr.readlines()
    text = "".join(lines)
    assert process.returncode != 0
    assert "lost the connection" in text and "memory" in text and "--auto_resume" in text
    # torchrun's own traceback follows; none leads through the run.
    assert f'File "{ROOT / "dhp_sr"}' not in text


class Samples(torch.utils.data.Dataset):
    """Samples of 480 KB each, made by workers that do something else first."""

    def __init__(self, act=lambda: None):
        self.act = act

    def __len__(self) -> int:
        return 10

    def __getitem__(self, sample):
        self.act()
        return {"lq": torch.zeros(3, 200, 200), "gt": torch.zeros(3, 200, 200), "key": "a"}


def batches(act):
    return train_batches(Samples(act), batch_size=2, workers=2, seed=0, start_iteration=0)


def test_a_killed_worker_is_explained():
    with pytest.raises(LostProcessError, match=r"worker .*memory.*num_worker_per_gpu"):
        next(batches(lambda: os.kill(os.getpid(), signal.SIGKILL)))


def test_a_worker_without_shared_memory_is_explained(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(LostProcessError, match=r"No space left.*num_worker_per_gpu.*--shm-size"):
        next(batches(lambda: None))


def test_a_worker_that_hangs_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(sampler, "MAX_WAIT", 1)
    with pytest.raises(LostProcessError, match="timed out"):
        next(batches(lambda: time.sleep(60)))


def test_shared_memory_is_counted_before_the_start(monkeypatch, tmp_path):
    batch = {"lq": torch.zeros(2, 3, 100, 100), "gt": torch.zeros(2, 3, 200, 200), "key": ["a"]}
    # 240,000 and 960,000 bytes in whole pages, for 2 x 4 + 2 batches
    assert memory.required_bytes(batch.values(), 4) == (59 + 235) * 4096 * 10
    memory.check_shared_memory(batch, workers=0, processes=1)

    class Status:
        f_bavail, f_frsize = 12_000, 1000

    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: Status)
    with pytest.raises(UserError, match=r"4 workers need 11 MB.*11 MB are free.*--shm-size=23m"):
        memory.check_shared_memory(batch, workers=4, processes=1)
    memory.check_shared_memory(batch, workers=3, processes=1)
    with pytest.raises(UserError, match="each of 2 processes"):
        memory.check_shared_memory(batch, workers=3, processes=2)


def test_the_outputs_of_a_teacher_are_counted_as_well(make_options):
    """They are computed after the first batch, and go through the workers with every later one."""
    batch = {"lq": torch.zeros(2, 3, 8, 8), "gt": torch.zeros(2, 3, 16, 16)}
    distill = {"weight": 1.0}
    assert batch_of_workers(batch, make_options(compress={"distill": distill})) is batch
    options = make_options(compress={"distill": {**distill, "whole_images": True}})
    taught = batch_of_workers(batch, options)["taught"]
    assert taught.shape == (2, 3, 8 * options.scale, 8 * options.scale)
