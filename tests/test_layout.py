"""The layout of the project: direction of imports, option files, scripts, effects of imports."""

import graphlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from dhp_sr.config import dump_options, load_options

ROOT = Path(__file__).resolve().parents[1]
PAPER_FILES = ("edsr_x4_dhp", "srresnet_x4_dhp", "dncnn_s70_dhp", "unet_s70_dhp")
OPTION_FILES = sorted((ROOT / "options").glob("*.yml"))


def run(*command, cwd=ROOT, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_imports_go_down_only():
    code = "from importlinter.cli import lint_imports_command as run; run()"
    done = run(sys.executable, "-c", code, "--no-cache")
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


def test_no_modules_import_each_other():
    """Cycles inside a package count, which the contracts between packages do not see."""
    graph = grimp.build_graph("dhp_sr", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle


def test_option_files_are_there():
    names = {path.name for path in OPTION_FILES}
    assert {f"{name}.yml" for name in (*PAPER_FILES, "quickstart")} <= names


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: path.stem)
def test_option_file_decodes(path, tmp_path):
    options = load_options(path)
    copy = tmp_path / path.name
    copy.write_text(dump_options(options))
    assert load_options(copy) == options
    head = path.read_text().splitlines()[:12]
    for word in ("Task", "Row", "Hardware", "Command", "Images"):
        assert any(line.startswith(f"# {word} ") for line in head), word
    assert any(f"options/{path.name}" in line for line in head)
    val_names = [one.name for key, one in options.datasets.items() if key != "train"]
    assert val_names and len(set(val_names)) == len(val_names) and all(val_names)


@pytest.mark.parametrize("name", PAPER_FILES)
def test_paper_files_hold_the_papers_settings(name):
    path = ROOT / "options" / f"{name}.yml"
    options = load_options(path)
    compress = options.compress
    assert (compress.preset, compress.round_to, compress.tolerance) == ("default", 16, 0.01)
    assert (options.train.optim_g.type, options.train.optim_g.lr) == ("Adam", 1e-4)
    epoch = {"edsr": 2013, "srresnet": 2013, "dncnn": 10412, "unet": 10000}[path.stem.split("_")[0]]
    converge = 299 if options.scale == 4 else 59
    assert compress.search_iter == 60 * epoch
    assert options.train.total_iter == (60 + converge) * epoch


EPOCHS = {"resnet": (782, 300), "densenet": (782, 300), "mobilenetv": (1563, 220)}
CLASS_FILES = sorted((ROOT / "options").glob("*_cifar10_dhp.yml")) + sorted(
    (ROOT / "options").glob("*_tiny_dhp.yml")
)


def test_there_is_a_file_for_every_network_of_the_papers_table():
    types = {load_options(path).network_g.type for path in CLASS_FILES}
    assert types == {"HyperResNet", "HyperDenseNet", "HyperMobileNetV1", "HyperMobileNetV2"}


def test_no_option_file_reads_from_beside_the_project():
    options = [path.read_text() for path in (ROOT / "options").rglob("*.yml")]
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    pages += [(ROOT / name).read_text() for name in ("README.md", "datasets/README.md")]
    assert len(options) > 10 and not any("../" in text for text in options)
    assert len(pages) > 10 and not any("../shared" in text for text in pages)


@pytest.mark.parametrize("path", CLASS_FILES, ids=lambda path: path.stem)
def test_paper_files_of_classifiers_hold_the_papers_settings(path):
    options = load_options(path)
    epoch, converge = next(value for name, value in EPOCHS.items() if path.stem.startswith(name))
    optimizer = options.train.optim_g
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        "SGD",
        0.1,
        0.9,
        1e-4,
    )
    assert options.compress.search_iter == 100 * epoch
    assert options.train.total_iter == (100 + converge - 1) * epoch
    milestones = [place / epoch for place in options.train.scheduler.milestones]
    assert milestones == ([150, 225] if converge == 300 else [200, 205, 210, 215])
    assert (options.datasets["train"].batch_size_per_gpu, options.datasets["train"].padding) == (
        64,
        4,
    )


@pytest.mark.parametrize(
    "name", ["scripts/quickstart.sh", "scripts/gpu_check.sh", "scripts/test.sh", ".ci/run"]
)
def test_scripts_can_be_run(name):
    path = ROOT / name
    assert os.access(path, os.X_OK)
    assert run("bash", "-n", path).returncode == 0


@pytest.fixture
def scripts(tmp_path):
    """A copy of the scripts, so that no environment is made or changed in the checkout."""
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_a_given_python_is_used_as_it_is(scripts):
    done = run(
        "bash",
        "-c",
        "source scripts/environment.sh; echo $PYTHON",
        cwd=scripts,
        DHP_SR_PYTHON=sys.executable,
    )
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable)
    assert not (scripts / ".venv").exists()


def test_without_a_python_it_says_what_is_missing(scripts):
    bash = shutil.which("bash")
    (scripts / "empty").mkdir()
    done = run(
        bash,
        "-c",
        "source scripts/environment.sh",
        cwd=scripts,
        PATH=str(scripts / "empty"),
        DHP_SR_PYTHON="",
    )
    assert done.returncode == 1
    assert "expected Python 3.11 or 3.12, found none" in done.stderr


def test_help_needs_no_library():
    """It comes at once, and in an environment that lacks them there is a message, no traceback."""
    names = ("train", "compress", "test", "infer", "plan", "export", "report")
    code = f"""
import contextlib, importlib, sys
for library in ("torch", "numpy", "pydantic", "yaml", "cv2", "PIL"):
    sys.modules[library] = None
for name in {names}:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"dhp_sr.{{name}}").main(["--help"])
"""
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(names)


def test_import_has_no_effects():
    code = (
        "import logging, random, sys; state = random.getstate();"
        "import dhp_sr, dhp_sr.config, dhp_sr.basicsr_adapter.shim, torch;"
        "assert 'basicsr' not in sys.modules and 'torchvision' not in sys.modules;"
        "assert state == random.getstate() and not logging.getLogger().handlers"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
