"""Every option file runs in small, and so does every command and Python block of README
and docs.
"""

import configparser
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from class_images import save_classes
from photographs import save_pieces
from runs import empty_pages
from safetensors.torch import load_file

from dhp_sr.archs import build
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.cli import model_parsers, parsers
from dhp_sr.cli.compress import run_compress
from dhp_sr.config import load_options
from dhp_sr.infer import main as infer_main
from dhp_sr.plan import main as plan_main
from dhp_sr.report import main as report_main
from dhp_sr.tasks import task_of
from dhp_sr.test import main as score_main
from dhp_sr.train import main as run_main
from dhp_sr.zoo.names import build_named

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "datasets/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
OPTION_FILES = sorted((ROOT / "options").glob("*.yml"))
SMALL = {
    "HyperEDSR": ("num_feat=16", "num_block=1"),
    "HyperSRResNet": ("num_feat=16", "num_block=1"),
    "HyperDnCNN": ("num_feat=16", "num_layers=4"),
    "HyperUNet": ("num_feat=16", "num_levels=2"),
    "HyperRLFN": ("num_feat=16", "num_block=1"),
    "HyperResNet": ("num_feat=8", "depth=8", "block=basic"),
    "HyperDenseNet": ("num_feat=8", "depth=7"),
    "HyperMobileNetV1": ("width_mult=0.25",),
    "HyperMobileNetV2": ("width_mult=0.25",),
}
PROGRAMS = ("python", "torchrun", "pip", "pytest", "mkdocs", ".", "./scripts/")
"""Beginnings of a line of an unmarked code block; other text is marked as `text`."""


def blocks(page, language):
    """Return the code blocks of a page in a language; unmarked ones for ""."""
    # Fences are matched in pairs, for a fence also ends a block.
    fenced = re.findall(
        r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [text for kind, text in fenced if kind == language]


def command_lines(page):
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [line.split(" #")[0].strip() for line in lines if line.strip()]


COMMANDS = list(dict.fromkeys(line for page in PAGES for line in command_lines(page)))
"""Those in code blocks, each once."""

INLINE = list(
    dict.fromkeys(
        command
        for page in PAGES
        for command in re.findall(
            r"`(?:\w+=\S+ |taskset -c 0 )*python ([^`\n]+)`", page.read_text(encoding="utf-8")
        )
    )
)
"""Those between backticks: long runs, whose settings alone are looked at."""

PYTHON = [
    pytest.param(page, number, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number in range(len(blocks(page, "python")))
]

MEASURED = {
    row["measured"]["command"]
    for path in sorted((ROOT / "results").glob("*.json"))
    for row in json.loads(path.read_text(encoding="utf-8")).get("rows", [])
    if "measured" in row
}
"""Those that gave the figures of the benchmarks, as they were typed."""


def small(path, experiments):
    """The arguments that make an option file's run tiny."""
    options = load_options(path)
    changes = [f"network_g.{change}" for change in SMALL[options.network_g.type]]
    classifies = options.datasets["train"].type == "ClassificationDataset"
    changes += classes(options, experiments) if classifies else images(options, experiments)
    changes += ["datasets.train.num_worker_per_gpu=0", "train.total_iter=5", "train.warmup_iter=0"]
    step = 2 if classifies else 8
    changes += ["compress.dense_iter=2", "compress.search_iter=2", "compress.tolerance=0.2"]
    changes += [f"compress.round_to={step}"]
    if options.compress.min_width > step:
        changes += [f"compress.min_width={step}"]  # the tiny network is narrower
    if options.compress.distill and options.compress.distill.whole_images:
        # Its teacher is there from the start, and the published one does not fit the tiny network.
        weights = Path(f"{experiments}_weights", f"{path.stem}.pth")
        changes += [f"path.pretrain_network_g={weights}", "compress.dense_iter=0"]
        save_tiny_weights(load_options(path, changes), weights)
    else:
        changes += ["path.pretrain_network_g=null"]
    changes += ["logger.use_tb_logger=false", f"path.experiments_root={experiments}", "num_gpu=0"]
    return ["--set", *changes]


def save_tiny_weights(options, path):
    """Write weights of the network that options name, the same ones every time."""
    path.parent.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(task_of(options).build_network(options).state_dict(), path)


def images(options, experiments):
    """The changes that make an option file train on crops of scikit-image's photographs."""
    folder = Path(f"{experiments}_images")
    if not folder.exists():
        for part in ("train", "val"):
            save_pieces(folder / part, part)
    changes = ["datasets.train.gt_size=64", "datasets.train.batch_size_per_gpu=1"]
    for key in options.datasets:
        part = folder / ("train" if key == "train" else "val")
        changes += [f"datasets.{key}.dataroot_gt={part}", f"datasets.{key}.cache=memory"]
        changes += [] if key == "train" else [f"datasets.{key}.max_images=1"]
    return changes


def classes(options, experiments):
    """The changes that make an option file train on a few images in class folders."""
    folder = Path(f"{experiments}_classes")
    if not folder.exists():
        # other numbers of images, and so other images: those of the training score nothing
        for part, count in (("train", 3), ("test", 2)):
            save_classes(folder / part, count, side=32)
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
    """A folder with one photograph, and beside it `other` with another."""
    root = tmp_path_factory.mktemp("images")
    save_pieces(root / "other", "train", side=96)
    return save_pieces(root / "folder", "val", side=96)


RUN = (
    "quickstart",
    "edsr_x4_dhp",
    "srresnet_x4_cpu",
    "dncnn_s25_published",
    "unet_s70_dhp",
    "rlfn_x4_published",
    "resnet20_cifar10_dhp",
    "resnet56_cifar10_hsn",
)
"""A file of each task, method and way to begin. The others differ from them in numbers; they are
decoded, and the targets of most are planned at full size."""


def _runs(path):
    return pytest.param(path, marks=() if path.stem in RUN else pytest.mark.slow)


@pytest.mark.parametrize("path", [_runs(path) for path in OPTION_FILES], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
def test_option_file_runs(path, experiments):
    run = trained(path, experiments)
    names = {entry.name for entry in run.iterdir()}
    assert {"metrics.json", "widths.json", "options.yml", "report.html"} <= names


def torchrun(processes, script, *arguments):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, f"--nproc_per_node={processes}", script, *arguments, "--launcher", "pytorch"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: path.stem)
def test_option_file_runs_with_two_processes(path, experiments):
    """Started by torchrun, on the CPU; layouts of tensors that one process never sends are sent."""
    name = f"{load_options(path).name}_two"
    changes = [*small(path, experiments), f"name={name}"]
    torchrun(2, ROOT / "dhp_sr" / "train.py", "-opt", path, *changes)
    environment = json.loads((experiments / name / "environment.json").read_text())
    assert environment["processes"] == 2
    assert (experiments / name / "metrics.json").exists()


FIXED_STATISTICS = f"""
import sys
import torch
from torch.nn.modules.batchnorm import _BatchNorm
sys.argv[0] = {str(ROOT / "dhp_sr" / "train.py")!r}

def forward(self, x):
    return torch.nn.functional.batch_norm(
        x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
    )

_BatchNorm.forward = forward
from dhp_sr.train import main
from dhp_sr.training.trainer import Trainer

def doubled(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor

def double_inputs(module, inputs):
    return tuple(doubled(x) if isinstance(x, torch.Tensor) else x for x in inputs)

to_device = Trainer._to_device
Trainer._to_device = lambda self, tensor: to_device(self, doubled(tensor))
torch.nn.modules.module.register_module_forward_pre_hook(double_inputs)
torch.Tensor.float = torch.Tensor.double
torch.set_default_dtype(torch.float64)
sys.exit(main())
"""
"""train.py in double precision, with norms that take no statistics of a batch.

Those are each process's own. In single precision the order of a sum decides the first step of Adam
wherever a gradient is nearly zero.
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda path: path.stem)
def test_two_processes_equal_one_with_every_option_file(path, experiments, tmp_path):
    """At the same global batch: curves, widths and weights."""
    script = tmp_path / "train.py"
    script.write_text(FIXED_STATISTICS)
    options = load_options(path)
    batch_size = 2 if options.datasets["train"].type == "ClassificationDataset" else 1
    runs = []
    for processes in (1, 2):
        name = f"{options.name}_equal_{processes}"
        runs.append(experiments / name)
        changes = [f"name={name}", "train.amp=none", "logger.print_freq=1"]
        changes += [f"datasets.train.batch_size_per_gpu={2 * batch_size // processes}"]
        if options.compress.distill:
            changes += ["compress.distill.mix=0"]  # within a process, see docs
        if "dropout" in options.network_g.model_dump():
            changes += ["network_g.dropout=0"]  # drawn by each process for its own images
        torchrun(processes, script, "-opt", path, *small(path, experiments), *changes)
    curves = [read_curves(run) for run in runs]
    assert len(curves[0]) == len(curves[1]) > 3
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-7)
    groups = [json.loads((run / "widths.json").read_text())["groups"] for run in runs]
    assert groups[0] == groups[1]
    left, right = (load_file(run / "models" / "pruned.safetensors") for run in runs)
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=1e-6, atol=1e-9)


def read_curves(run):
    """Losses, rates and costs of curves.csv."""
    rows = (run / "curves.csv").read_text().splitlines()[1:]
    return np.array([row.split(",")[2:] for row in rows], dtype=float)


def test_pages_hold_commands():
    assert len(PAGES) >= 30
    assert len(COMMANDS) >= 40 and len(INLINE) >= 8 and len(MEASURED) >= 8
    assert len(PYTHON) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_unmarked_code_blocks_hold_commands_alone(page):
    """So that no command is overlooked; other text is marked as `text`."""
    for line in command_lines(page):
        assert line.startswith(PROGRAMS), line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
def test_command_runs(command, experiments, folder):
    words = [
        word.replace("FOLDER2", str(folder.with_name("other"))).replace("FOLDER", str(folder))
        for word in shlex.split(command)
    ]
    if words[0] == "torchrun":
        # One process here; two are started by the tests of training.
        launched = ("--nproc", "--launcher")
        words = [word for word in words if not word.startswith(launched) and word != "pytorch"]
    if words[0] in ("python", "torchrun"):
        assert (ROOT / words[1]).is_file()
        RUNNERS[words[1]](words[2:], experiments, folder)
    elif words[0] == "pip":
        check_extras(words)
    elif words[0].startswith("./scripts/"):
        subprocess.run(["bash", "-n", ROOT / words[0]], check=True)
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests/"))
    else:
        assert words in ([".", ".venv/bin/activate"],)


@pytest.mark.filterwarnings("ignore:.*has no effect:UserWarning")
@pytest.mark.parametrize("command", [*INLINE, *sorted(MEASURED)])
def test_commands_of_long_runs_are_understood(command):
    script, *given = shlex.split(command)
    folder, *_, name = Path(script).parts
    assert (ROOT / script).is_file()
    if not given:  # a script by its name alone
        return
    if folder == "dhp_sr" and name == "train.py":
        decode_options(given)
    elif folder == "dhp_sr" and name == "plan.py":
        assert plan_main(given) == 0
    else:
        parse_by_script(script, given)


def decode_options(given):
    changes = given[given.index("--set") + 1 :] if "--set" in given else []
    assert load_options(ROOT / given[given.index("-opt") + 1], changes).compress


def parse_by_script(script, given):
    """Let the parser of a script outside the package read its arguments."""
    path = ROOT / script
    if path.parent.name == "benchmarks":
        importlib.import_module(f"benchmarks.{path.stem}")._parser().parse_args(given)
        return
    search_path = list(sys.path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = search_path
    make_parser = getattr(module, "_make_parser", None) or getattr(module, "_parser", None)
    if given or make_parser is not None:
        make_parser().parse_args(given)


def check_extras(words):
    assert words[:2] == ["pip", "install"]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for name in re.findall(r"\w+", words[2]):
        assert name in setup["options.extras_require"]


def run_train(words, experiments, folder):
    parsers.train_parser().parse_args(words)
    option_file = ROOT / words[words.index("-opt") + 1]
    if "--set" not in words:  # runs in test_option_file_runs
        assert option_file in OPTION_FILES
        return
    # Times of a tiny network on a busy machine may miss any budget; networks of other packages are
    # trained by tests/test_third_party_run.py.
    if any(word in " ".join(words) for word in ("latency", "network_g=")):
        decode_options(words)
        return
    words[words.index("-opt") + 1] = str(option_file)
    with empty_pages():
        assert run_main(small_before(words, option_file, experiments)) == 0


def run_plan(words, experiments, folder):
    if any("latency" in word for word in words):
        parsers.plan_parser().parse_intermixed_args(words)
        decode_options(words)  # the times of all layers take a minute
        return
    arguments = [str(ROOT / word) if word.startswith("options/") else word for word in words]
    assert plan_main(arguments) == 0


def run_score(words, experiments, folder):
    model_parsers.evaluate_parser().parse_args(words)
    assert score_main(scoring_arguments(words, experiments, folder)) == 0


def run_report(words, experiments, folder):
    assert report_main(report_arguments(words, experiments)) == 0


def run_compress_small(words, experiments, folder):
    """The checkpoint of the page is a tiny one here, and two iterations are its minutes."""
    arguments = parsers.compress_parser().parse_intermixed_args(words)
    arguments.model = str(compact_checkpoint(experiments / arguments.model))
    arguments.images = str(save_pieces(experiments / arguments.images, "train", 96, 3))
    arguments.output = str(experiments / (arguments.output or "small.safetensors"))
    arguments.iterations = 2
    with empty_pages():
        assert run_compress(arguments, experiments.parent) == 0


def compact_checkpoint(path):
    """Weights of a tiny Compact network, as Real-ESRGAN writes them."""
    prepare_torchvision()
    pytest.importorskip("spandrel")
    compact = build_named("spandrel:Compact.SRVGGNetCompact", {"num_feat": 16, "num_conv": 2})
    torch.save({"params": compact.state_dict()}, path)
    return path


def run_infer(words, experiments, folder):
    assert infer_main(restoring_arguments(words, experiments)) == 0


def parse_export(words, experiments, folder):
    """Exports are run by tests/test_export.py; here the arguments must be understood."""
    arguments = model_parsers.export_parser().parse_intermixed_args(words)
    assert arguments.model and arguments.format
    for word in arguments.arguments:
        assert "=" in word


RUNNERS = {
    "dhp_sr/train.py": run_train,
    "dhp_sr/plan.py": run_plan,
    "dhp_sr/test.py": run_score,
    "dhp_sr/report.py": run_report,
    "dhp_sr/infer.py": run_infer,
    "dhp_sr/compress.py": run_compress_small,
    "dhp_sr/export.py": parse_export,
}
"""Command -> how it is run in small."""

for other in {shlex.split(command)[1] for command in COMMANDS if command.startswith("python ")}:
    if other.startswith(("scripts/", "benchmarks/")):
        RUNNERS[other] = lambda words, experiments, folder, script=other: parse_by_script(
            script, words
        )


def small_before(given, option_file, experiments):
    """The settings of the pages come last and win, but for lengths."""
    if "--set" not in given:
        return [*given, *small(option_file, experiments)]
    position = given.index("--set")
    changes = []
    for change in given[position + 1 :]:
        if not change.partition("=")[0].endswith("_iter"):
            changes.append(change)
    return [*given[:position], *small(option_file, experiments), *changes]


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


def restoring_arguments(words, experiments):
    given = dict(zip(words[::2], words[1::2], strict=True))
    if given["--model"].endswith("_half.safetensors"):  # of the command before
        makers = [line for line in COMMANDS if line.endswith(f"--output {given['--model']}")]
        run_compress_small(shlex.split(makers[0])[2:], experiments, None)
        given["--model"] = str(experiments / given["--model"])
        given["--input"] = str(experiments / given["--input"])
    elif not given["--model"].startswith("zoo:"):
        trained(ROOT / "options" / f"{Path(given['--model']).parts[1]}.yml", experiments)
        given["--model"] = given["--model"].replace("experiments", str(experiments))
    if "--output" in given:
        given["--output"] = str(experiments / given["--output"])
    return [word for pair in given.items() for word in pair]


def report_arguments(words, experiments):
    """Any run stands for a run, and pages go beside the runs."""
    run = str(trained(ROOT / "options" / "quickstart.yml", experiments))
    arguments = []
    for word in words:
        if word.startswith("results/"):
            word = f"{ROOT}/{word}"
        elif word.startswith("experiments/"):
            word = run
        elif word.endswith(".html"):
            word = str(experiments / word)
        arguments.append(word)
    return arguments


def trained(option_file, experiments):
    run = experiments / load_options(option_file).name
    if not (run / "models" / "pruned.safetensors").exists():
        with empty_pages():
            assert run_main(["-opt", str(option_file), *small(option_file, experiments)]) == 0
    return run


@pytest.mark.parametrize(("page", "number"), PYTHON)
def test_python_runs(page, number, experiments, tmp_path, monkeypatch, registry_restored):
    source = blocks(page, "python")[number]
    if "experiments/quickstart" in source:
        run = trained(ROOT / "options" / "quickstart.yml", experiments)
        shutil.copytree(run, tmp_path / "experiments" / "quickstart")
    monkeypatch.chdir(tmp_path)
    # Classes of a page find themselves by the name of their module, as dataclasses do.
    module = SimpleNamespace(__name__="page")
    if page.name == "README.md":
        module.network = build("DnCNN", num_feat=16, num_layers=5)
        module.batches = [torch.rand(2, 1, 48, 48)]
    exec(compile(source, f"{page.name}-{number}", "exec"), vars(module))


def test_tables_equal_the_saved_results():
    done = subprocess.run(
        [sys.executable, "scripts/results.py", "tables", "--check"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
