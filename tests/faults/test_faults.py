"""Faults put in on purpose: killed runs, full disks, damaged files. Prints its counts.

python -m pytest -m slow tests/faults
"""

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import assert_same_run, run
from tiny_runs import tiny_options

from dhp_sr.config import load_options
from dhp_sr.data.images import decode
from dhp_sr.data.lmdb_write import write_database
from dhp_sr.data.sources import find_images
from dhp_sr.deploy import load_model
from dhp_sr.training.checkpoint import CheckpointError, load_state
from dhp_sr.utils.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLED_RUNS = int(os.environ.get("DHP_SR_KILLED_RUNS", "12"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def _load_mutate():
    path = ROOT / "tests" / "deploy" / "fuzzing.py"
    spec = importlib.util.spec_from_file_location("fuzzing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mutate


mutate = _load_mutate()


def test_killed_runs_end_like_whole_ones(count):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "faults" / "kills.py", "--runs", str(KILLED_RUNS)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    count("killed: " + done.stdout.rpartition(f"\n{KILLED_RUNS}: ")[2].strip())
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def finished(image_folder, tmp_path_factory):
    """Folder of a finished run, and its root and options."""
    root = tmp_path_factory.mktemp("finished")
    options = tiny_options(image_folder, root)
    run(options, root)
    return root / "experiments" / "tiny", root, options


def test_damaged_states_are_detected(finished, tmp_path, count):
    folder, _, _ = finished
    content = (folder / "training_states" / "12.state").read_bytes()
    rng = random.Random(0)
    path = tmp_path / "12.state"
    flips = 1000
    for _ in range(flips):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_state(path)
    for seed in range(200):
        path.write_bytes(mutate(content, seed))
        with pytest.raises(CheckpointError):
            load_state(path)
    count(f"states: {flips} of {flips} flipped bits and 200 of 200 other damages detected")


def test_runs_with_a_damaged_state_end_like_whole_ones(finished, count, tmp_path, image_folder):
    folder, _, options = finished
    rng = random.Random(1)
    runs = 6
    for number in range(runs):
        root = tmp_path / str(number)
        copied = root / "experiments" / "tiny"
        shutil.copytree(folder, copied)
        (copied / "metrics.json").unlink()
        newest = copied / "training_states" / "12.state"
        damaged = bytearray(newest.read_bytes())
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        newest.write_bytes(damaged)
        moved = options.path.model_copy(update={"experiments_root": str(root / "experiments")})
        with pytest.warns(UserWarning, match=r"12\.state.*state before it"):
            run(options.model_copy(update={"path": moved}), root, auto_resume=True)
        assert_same_run(folder, copied)
    count(f"runs with a damaged newest state: {runs} of {runs} identical")


ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
shift 2
"$@"
code=$?
exit $code
"""


def has_own_mounts() -> bool:
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
    )
    return tried.returncode == 0


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
@pytest.mark.parametrize("kib", [16, 64, 128, 256, 400, 800])
def test_a_full_disk_ends_with_a_message(image_folder, tmp_path, kib, count):
    """The disk is a file system in memory; where its size suffices, the run ends."""
    if not has_own_mounts():
        pytest.skip("needs the right to mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    path = tmp_path / "options.yml"
    fields = tiny_options(image_folder, disk).model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(fields))
    shell = ["unshare", "-m", "bash", "-c", ON_A_SMALL_DISK, "bash", f"{kib}k", str(disk)]
    done = subprocess.run(
        [*shell, sys.executable, ROOT / "dhp_sr" / "train.py", "-opt", path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 2:
        assert "No space left" in done.stderr
    count(f"full disk: {kib} KiB ends with {done.returncode}")


def test_damaged_option_files(tmp_path, count):
    texts = [path.read_bytes() for path in sorted((ROOT / "options").glob("*.yml"))]
    path = tmp_path / "fuzzed.yml"
    refused = 0
    total = 2000
    for seed in range(total):
        path.write_bytes(mutate(texts[seed % len(texts)], seed))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_options(path)
        except UserError:
            refused += 1
    count(f"option files: {total} mutations, {refused} refused, none with another error")


def image_files(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    paths = []
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "ppm"):
        paths.append(folder / f"a.{suffix}")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_damaged_images(tmp_path, count):
    contents = [path.read_bytes() for path in image_files(tmp_path)]
    refused = 0
    total = 1800
    for seed in range(total):
        path = tmp_path / "fuzzed.png"
        path.write_bytes(mutate(contents[seed % len(contents)], seed // len(contents)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decode(path, "fuzzed.png")
        except UserError:
            refused += 1
    count(f"images: {total} mutations, {refused} refused, none with another error")


def test_damaged_models(finished, tmp_path, count):
    folder, _, _ = finished
    content = (folder / "models" / "pruned.safetensors").read_bytes()
    path = tmp_path / "fuzzed.safetensors"
    total = 1000
    for seed in range(total):
        path.write_bytes(mutate(content, seed))
        with pytest.raises(UserError):
            load_model(path)
    count(f"models: {total} of {total} mutations refused")


READ_DATABASE = """
import sys
from dhp_sr.data.sources import find_images
from dhp_sr.utils.errors import UserError
sys.path[:0] = [sys.argv[2]]
from fuzzing import mutate
from pathlib import Path
folder = Path(sys.argv[1])
content = (folder / "data.mdb").read_bytes()
refused = 0
for seed in range(int(sys.argv[3])):
    (folder / "data.mdb").write_bytes(mutate(content, seed))
    try:
        for image in find_images(folder):
            image.read()
    except UserError:
        refused += 1
print(refused)
"""


def test_damaged_databases(tmp_path, count):
    """In a process of its own, which a fault of the memory map would end."""
    (tmp_path / "images").mkdir()
    image_files(tmp_path / "images")[0].rename(tmp_path / "images" / "b.png")
    for path in (tmp_path / "images").glob("a.*"):
        path.unlink()
    database = tmp_path / "x.lmdb"
    write_database(find_images(tmp_path / "images"), database)
    total = 500
    code = [sys.executable, "-c", READ_DATABASE, str(database)]
    done = subprocess.run(
        [*code, str(ROOT / "tests" / "deploy"), str(total)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count(f"databases: {total} mutations, {int(done.stdout)} refused, no process ended")
