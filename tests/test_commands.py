"""Every option file, and every command and piece of Python in the README, runs in a small size."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from class_pictures import save_classes
from photographs import save_pieces

from dhp_sr.config import load_options
from dhp_sr.infer import main as infer_main
from dhp_sr.plan import main as plan_main
from dhp_sr.report import main as report_main
from dhp_sr.test import main as score_main
from dhp_sr.train import main as run_main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTION_FILES = sorted((ROOT / "options").glob("*.yml"))
SMALL = {
    "HyperEDSR": ("num_feat=16", "num_block=1"),
    "HyperSRResNet": ("num_feat=16", "num_block=1"),
    "HyperDnCNN": ("num_feat=16", "num_layers=4"),
    "HyperUNet": ("num_feat=16", "num_levels=2"),
    "HyperResNet": ("num_feat=8", "depth=8", "block=basic"),
    "HyperDenseNet": ("num_feat=8", "depth=7"),
    "HyperMobileNetV1": ("width_mult=0.25",),
    "HyperMobileNetV2": ("width_mult=0.25",),
}


def blocks(language):
    fenced = re.findall(
        r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
    )  # in pairs: a fence also ends one
    return [text for kind, text in fenced if kind == language]


COMMANDS = [
    line.split(" #")[0].strip()
    for block in blocks("")
    for line in block.splitlines()
    if line.startswith(("python ", "./scripts/", "torchrun "))
]


INLINE = re.findall(r"`(?:\w+=\S+ |taskset -c 0 )*python ([^`\n]+)`", README)
"""Those between backticks: long runs, whose settings alone are looked at."""

MEASURED = {
    row["measured"]["command"]
    for path in sorted((ROOT / "results").glob("*.json"))
    for row in json.loads(path.read_text(encoding="utf-8")).get("rows", [])
}
"""Those that gave the figures of the benchmarks, as they were typed."""


def small(path, experiments):
    """The arguments that make an option file's run tiny."""
    options = load_options(path)
    changes = [f"network_g.{change}" for change in SMALL[options.network_g.type]]
    classifies = options.datasets["train"].type == "ClassificationDataset"
    changes += classes(options, experiments) if classifies else images(options, experiments)
    changes += ["datasets.train.num_worker_per_gpu=0", "train.total_iter=6", "train.warmup_iter=0"]
    step = 2 if classifies else 8
    changes += ["compress.dense_iter=2", "compress.search_iter=2", "compress.tolerance=0.2"]
    changes += [f"compress.round_to={step}"]
    changes += ["path.pretrain_network_g=null"]  # the checkpoint does not fit the tiny network
    changes += ["logger.use_tb_logger=false", f"path.experiments_root={experiments}", "num_gpu=0"]
    return ["--set", *changes]


def images(options, experiments):
    """The changes that make an option file train on crops of scikit-image's photographs."""
    folder = Path(f"{experiments}_images")
    if not folder.exists():
        for part in ("train", "val"):
            save_pieces(folder / part, part)
    changes = ["datasets.train.gt_size=48", "datasets.train.batch_size_per_gpu=1"]
    for key in options.datasets:
        part = folder / ("train" if key == "train" else "val")
        changes += [f"datasets.{key}.dataroot_gt={part}", f"datasets.{key}.cache=memory"]
        changes += [] if key == "train" else [f"datasets.{key}.max_images=1"]
    return changes


def classes(options, experiments):
    """The changes that make an option file train on a few pictures in class folders."""
    folder = Path(f"{experiments}_classes")
    if not folder.exists():
        for part in ("train", "test"):
            save_classes(folder / part, 2, side=32)
    changes = [f"datasets.{key}.dataroot={folder}" for key in options.datasets]
    changes += [
        "datasets.train.batch_size_per_gpu=4",
        "network_g.num_classes=3",
        "network_g.input_size=32",
    ]
    return [*changes, "compress.min_width=2"]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one photograph."""
    return save_pieces(tmp_path_factory.mktemp("images"), "val", side=96)


LONG = ("densenet40_cifar10_dhp", "resnet110_cifar10_dhp", "mobilenetv2_wide_c10_cpu")
"""Deep: long to trace and cut, and alike to another file."""


def _runs(path):
    return pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ())


@pytest.mark.parametrize("path", [_runs(path) for path in OPTION_FILES], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
def test_option_file_runs(path, experiments):
    assert run_main(["-opt", str(path), *small(path, experiments)]) == 0
    run = experiments / load_options(path).name
    assert {"metrics.json", "widths.json", "plots", "options.yml"} <= {
        entry.name for entry in run.iterdir()
    }


def test_the_readme_holds_commands():
    assert len(COMMANDS) >= 8 and len(INLINE) >= 8 and len(MEASURED) >= 8
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
def test_readme_command_runs(command, experiments, folder):
    words = [
        str(folder) if word == "FOLDER" else word.replace("FOLDER2", str(folder))
        for word in shlex.split(command)
    ]
    words = [word.replace("FOLDER", str(folder)) for word in words]
    if words[0].startswith("./scripts/"):
        assert (ROOT / words[0]).is_file()
        subprocess.run(["bash", "-n", ROOT / words[0]], check=True)
        return
    if words[0] == "torchrun":
        words = [
            word
            for word in words
            if not word.startswith(("--nproc", "--launcher")) and word != "pytorch"
        ]
    assert (ROOT / words[1]).is_file()
    if words[1].endswith("train.py"):
        option_file = ROOT / words[words.index("-opt") + 1]
        if "--set" not in words:  # runs in test_option_file_runs
            assert option_file in OPTION_FILES
            return
        given = words[2:]
        given[given.index("-opt") + 1] = str(option_file)
        assert run_main([*small_before(given, option_file, experiments)]) == 0
    elif words[1].endswith("plan.py"):
        assert (
            plan_main(
                [str(ROOT / word) if word.startswith("options/") else word for word in words[2:]]
            )
            == 0
        )
    elif words[1].endswith("report.py"):
        assert report_main(report_arguments(words[2:], experiments)) == 0
    elif words[1].endswith("test.py"):
        assert score_main(scoring_arguments(words[2:], experiments, folder)) == 0
    elif words[1].endswith("infer.py"):
        assert infer_main(restoring_arguments(words[2:], experiments, folder)) == 0
    else:
        done = subprocess.run(
            [sys.executable, *words[1:], "--help"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0


@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
@pytest.mark.parametrize("command", [*INLINE, *sorted(MEASURED)])
def test_commands_of_long_runs_are_understood(command):
    script, *given = shlex.split(command)
    folder, name = Path(script).parts
    if folder == "benchmarks":
        importlib.import_module(f"benchmarks.{Path(name).stem}")._parser().parse_args(given)
    elif name == "train.py":
        changes = given[given.index("--set") + 1 :] if "--set" in given else []
        assert load_options(ROOT / given[given.index("-opt") + 1], changes).compress
    else:
        assert plan_main(given) == 0


def small_before(given, option_file, experiments):
    """What the README sets comes last and wins, but for lengths."""
    if "--set" not in given:
        return [*given, *small(option_file, experiments)]
    place = given.index("--set")
    own = [
        change for change in given[place + 1 :] if not change.partition("=")[0].endswith("_iter")
    ]
    return [*given[:place], *small(option_file, experiments), *own]


def scoring_arguments(words, experiments, folder):
    if "-opt" in words:
        option_file = ROOT / words[words.index("-opt") + 1]
        trained(option_file, experiments)
        return ["-opt", str(option_file), *small(option_file, experiments)]
    models = words[words.index("--model") + 1 : words.index("--data")]
    files = [ROOT / "options" / f"{Path(model).parts[1]}.yml" for model in models]
    for option_file in files:
        trained(option_file, experiments)
    classifies = load_options(files[0]).datasets["train"].type == "ClassificationDataset"
    data = [f"{experiments}_classes" if classifies else str(folder), "--repeats", "0"]
    return [
        "--model",
        *(model.replace("experiments", str(experiments), 1) for model in models),
        "--data",
        *data,
    ]


def restoring_arguments(words, experiments, folder):
    given = dict(zip(words[::2], words[1::2], strict=True))
    trained(ROOT / "options" / f"{Path(given['--model']).parts[1]}.yml", experiments)
    given["--model"] = given["--model"].replace("experiments", str(experiments))
    given["--output"] = str(experiments / given["--output"])
    return [word for pair in given.items() for word in pair]


def report_arguments(words, experiments):
    """Any run stands for a run, and pages go beside the runs."""
    run = str(trained(ROOT / "options" / "quickstart.yml", experiments))
    found = [f"{ROOT}/{word}" if word.startswith("results/") else word for word in words]
    found = [run if word.startswith("experiments/") else word for word in found]
    return [str(experiments / word) if word.endswith(".html") else word for word in found]


def trained(option_file, experiments):
    run = experiments / load_options(option_file).name
    if not (run / "models" / "pruned.safetensors").exists():
        assert run_main(["-opt", str(option_file), *small(option_file, experiments)]) == 0
    return run


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_readme_python_runs(number, experiments, tmp_path, monkeypatch):
    run = trained(ROOT / "options" / "quickstart.yml", experiments)
    shutil.copytree(run, tmp_path / "experiments" / "quickstart")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], "README.md", "exec"), {})


def test_readme_tables_equal_the_kept_results():
    done = subprocess.run(
        [sys.executable, "scripts/results.py", "tables", "--check"], cwd=ROOT, check=False
    )
    assert done.returncode == 0
