"""compress.py and dhp_sr.compress: whole runs in small, checkpoints, targets, mistakes."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from plain_spandrel import run_in_plain_spandrel
from runs import empty_pages
from tiny_runs import save_images

import dhp_sr
from dhp_sr.allocation.budget import Budget
from dhp_sr.archs import build
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.cli import compress_prepare
from dhp_sr.cli.compress import run_compress
from dhp_sr.cli.compress_images import BATCH_SIZE, default_drawn
from dhp_sr.cli.compress_options import SEARCH_SAMPLES
from dhp_sr.cli.compress_outputs import CompressReport
from dhp_sr.cli.compress_plan import (
    StepTimes,
    check_reachable,
    describe_length,
    measure_steps,
    plan_length,
)
from dhp_sr.cli.compress_prepare import prepare_run
from dhp_sr.cli.compress_quality import QualityBound
from dhp_sr.cli.compress_request import CompressRequest, Target
from dhp_sr.cli.parsers import compress_parser
from dhp_sr.config import load_options
from dhp_sr.config.schema import Options
from dhp_sr.deploy import load_model, read_manifest
from dhp_sr.deploy.model_info import info_of
from dhp_sr.hyper import convert
from dhp_sr.metrics import complexity
from dhp_sr.training import phases
from dhp_sr.training.driver import train
from dhp_sr.training.run_lock import FolderInUseError
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.checkpoints import open_checkpoint
from dhp_sr.zoo.names import build_named

COMPACT = {
    "num_in_ch": 3,
    "num_out_ch": 3,
    "num_feat": 16,
    "num_conv": 2,
    "upscale": 2,
    "act_type": "prelu",
}
OWN_CLASS = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x):
        return x + self.last(torch.relu(self.second(torch.relu(self.first(x)))))
"""


OTHERS = {
    "esrgan": (
        "spandrel:ESRGAN.RRDBNet",
        {"num_filters": 48, "num_blocks": 1, "scale": 2, "shuffle_factor": 2},
    ),
    "span": ("spandrel:SPAN.SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16}),
    "safmn": (
        "spandrel:SAFMN.SAFMN",
        {"dim": 24, "n_blocks": 2, "ffn_scale": 2.0, "upscaling_factor": 2},
    ),
}
"""File -> network of spandrel, and small arguments."""


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A folder with images, and checkpoints as several projects write them."""
    prepare_torchvision()
    pytest.importorskip("spandrel")
    folder = tmp_path_factory.mktemp("compress")
    save_images(folder / "images", 6, 64)
    torch.manual_seed(0)
    compact = build_named("spandrel:Compact.SRVGGNetCompact", COMPACT)
    torch.save({"params_ema": compact.state_dict()}, folder / "compact.pth")
    dncnn = build("DnCNN", num_feat=16, num_layers=8, batch_norm=False)
    torch.save(dncnn.state_dict(), folder / "dncnn.pth")
    for name, (network, arguments) in OTHERS.items():
        torch.save(build_named(network, arguments).state_dict(), folder / f"{name}.pth")
    (folder / "own.py").write_text(OWN_CLASS)
    return folder


def compress(material, root, model, *rest, iterations="2", pages=False):
    """Run the command with a root of its own; return its exit code."""
    text = [
        "--model",
        str(material / model),
        "--images",
        str(material / "images"),
        "--output",
        str(root / "small.safetensors"),
        "--iterations",
        iterations,
        *map(str, rest),
    ]
    with contextlib.nullcontext() if pages else empty_pages():
        return run_compress(compress_parser().parse_intermixed_args(text), root)


def test_a_checkpoint_becomes_a_model_file_of_half_the_cost(material, tmp_path, capsys):
    assert compress(material, tmp_path, "compact.pth", pages=True) == 0
    output = tmp_path / "small.safetensors"
    small = load_model(output)
    dense = build_named("spandrel:Compact.SRVGGNetCompact", COMPACT)
    shape = (1, 3, 32, 32)
    ratio = complexity(small, shape).macs / complexity(dense, shape).macs
    assert abs(ratio - 0.5) < 0.02
    assert read_manifest(output)["scale"] == 2
    assert small(torch.rand(1, 3, 20, 24)).shape == (1, 3, 40, 48)
    assert (tmp_path / "small_report.html").read_text(encoding="utf-8").startswith("<!doctype html")
    captured = capsys.readouterr()
    said = captured.out
    assert "\r" not in captured.err  # no progress bar in a log file
    assert "RealESRGAN Compact" in said and "input of the network" in said
    assert "to the original's output" in said


def test_a_pruned_model_is_pruned_again(material, tmp_path):
    shape = (1, 1, 32, 32)
    compress(material, tmp_path, "dncnn.pth")
    once = load_model(tmp_path / "small.safetensors")
    again = ("--target", "macs=0.7", "--output", tmp_path / "again.safetensors")
    compress(tmp_path, tmp_path, "small.safetensors", "--images", material / "images", *again)
    twice = load_model(tmp_path / "again.safetensors")
    ratio = complexity(twice, shape).macs / complexity(once, shape).macs
    assert abs(ratio - 0.7) < 0.02
    assert info_of(twice).architecture == "DnCNN"
    options = load_options(next((tmp_path / "experiments").glob("small_macs0.7/options.yml")))
    # Its own copy: the user's file may be elsewhere by the time that it is resumed.
    assert str(tmp_path / "experiments") in options.network_g.arguments["network"]["type"]
    with empty_pages():
        small, _ = dhp_sr.compress(
            once, material / "images", macs=0.7, iterations=2, root=tmp_path / "api", say=len
        )
    assert abs(complexity(small, shape).macs / complexity(once, shape).macs - 0.7) < 0.02


def test_the_saved_options_are_those_of_train(material, tmp_path):
    saved = tmp_path / "o.yml"
    compress(material, tmp_path / "a", "compact.pth", "--degradation", "bicubic",
             "--remove_blocks", "--save_options", saved)  # fmt: skip
    options = load_options(saved)
    assert options.compress.remove_blocks
    assert options.compress.distill.task_loss and options.datasets["val"].type == "SRDataset"
    first = (
        tmp_path / "a" / "experiments" / options.name / "models" / "pruned.safetensors"
    ).read_bytes()
    with empty_pages():
        metrics = train(options.model_copy(update={"name": "again"}), root=tmp_path / "a")
    rows = {row["model"]: row for row in metrics["rows"]}
    again = load_model(tmp_path / "a/experiments/again/models/pruned.safetensors")
    Path(tmp_path / "x.safetensors").write_bytes(first)
    for key, value in load_model(tmp_path / "x.safetensors").state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert rows["pruned"]["macs"] < rows["dense"]["macs"]


def test_a_class_in_the_users_file(material, tmp_path):
    pytest.importorskip("onnxscript")
    code = material / "own.py"
    sys.path.insert(0, str(material))
    try:
        import own
    finally:
        sys.path.remove(str(material))
    torch.manual_seed(1)
    network = own.Own(12)
    # Small differences, as a trained network makes: values of another range would be found else.
    network.last.weight.data.mul_(0.01)
    weights = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save(weights, tmp_path / "w.pth")
    code_arguments = ("--arch", f"{code}:Own", "width=12", "--onnx")
    assert compress(material, tmp_path, tmp_path / "w.pth", *code_arguments) == 0
    assert (tmp_path / "small.onnx").is_file() and (tmp_path / "small.pt2").is_file()
    manifest = read_manifest(tmp_path / "small.safetensors")
    assert manifest["architecture"] == "user:Own" and manifest["arguments"] == {"width": 12}
    program = torch.export.load(tmp_path / "small.pt2").module()
    x = torch.rand(1, 3, 32, 32)
    assert torch.allclose(program(x), load_model(tmp_path / "small.safetensors")(x), atol=1e-5)


def test_a_network_of_a_program(material, tmp_path):
    network = build("DnCNN", num_in_ch=3, num_feat=16, num_layers=4, batch_norm=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with empty_pages():
        small, report = dhp_sr.compress(
            network,
            material / "images",
            params=0.5,
            iterations=2,
            root=tmp_path,
            say=lambda line: None,
        )
    assert abs(report.kept["params_ratio"] - 0.5) < 0.02
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(UserError, match="single target"):
        dhp_sr.compress(network, material / "images", macs=0.5, params=0.5)


def test_the_settings_of_a_program_are_those_of_the_command(tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr(
        "dhp_sr.cli.compress.compress_checkpoint",
        lambda checkpoint, request, **more: requests.append(request) or finished,
    )
    network = build("DnCNN", num_feat=8, num_layers=3)
    finished = CompressReport(network, tmp_path, None)
    for remove_blocks in (False, True):
        dhp_sr.compress(network, tmp_path, macs=0.5, remove_blocks=remove_blocks)
    dhp_sr.compress(network, tmp_path, latency=0.5, runtime="onnxruntime", drawn=3)
    plain, removing, timed = requests
    assert (plain.runtime, timed.runtime) == (None, "onnxruntime")
    assert (plain.drawn, timed.drawn) == (None, 3)
    assert (plain.remove_blocks, removing.remove_blocks) == (False, True)
    # A run that is resumed goes on with its options, so the folders differ.
    assert plain.run_name != removing.run_name


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_what_is_no_network_of_a_program(material, tmp_path):
    network = build("DnCNN", num_feat=8, num_layers=3)
    others = {"str": "net.pth", "OrderedDict": network.state_dict()}
    others["TorchScript"] = torch.jit.trace(network.eval(), torch.rand(1, 1, 8, 8))
    for kind, other in others.items():
        with pytest.raises(UserError, match=f"expected a network .*got .*{kind}"):
            dhp_sr.compress(other, material / "images", macs=0.5, root=tmp_path)


@pytest.mark.parametrize("channels, weight, fact", [(4, 0.1, "4 channels"), (3, torch.nan, "nan")])
def test_networks_of_a_program_that_no_image_suits(material, tmp_path, channels, weight, fact):
    first = torch.nn.Conv2d(channels, 16, 3, padding=1)
    last = torch.nn.Conv2d(16, 3, 3, padding=1)
    torch.nn.init.constant_(last.weight, weight)
    with pytest.raises(UserError, match=fact):
        dhp_sr.compress(
            torch.nn.Sequential(first, torch.nn.ReLU(), last),
            material / "images",
            macs=0.5,
            root=tmp_path,
        )


def test_importing_the_package_is_cheap():
    code = "import sys, dhp_sr; assert 'torch' not in sys.modules; "
    code += "import dhp_sr.compress; dhp_sr.compress.main"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(dhp_sr.__file__).parents[1])
    assert callable(dhp_sr.compress)


@pytest.mark.parametrize("model, architecture, channels", [
    ("compact.pth", "Compact", 3),
    pytest.param("dncnn.pth", "DnCNN", 1, marks=pytest.mark.slow),
    pytest.param("esrgan.pth", "ESRGAN", 3, marks=pytest.mark.slow),
    pytest.param("span.pth", "SPAN", 3, marks=pytest.mark.slow),
    pytest.param("safmn.pth", "SAFMN", 3, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_drop_in_result_is_an_ordinary_file_of_its_class(
    material, tmp_path, model, architecture, channels
):
    output = tmp_path / "drop.pth"
    compress(material, tmp_path, model, "--drop_in", "--output", output)
    x = torch.rand(1, channels, 24, 20)
    loaded_as, result = run_in_plain_spandrel(output, x, tmp_path)
    assert loaded_as == architecture
    runs = list((tmp_path / "experiments").glob("*/models/pruned.safetensors"))
    expected = load_model(runs[0])(x)
    assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("degradation", ["bicubic", pytest.param("none", marks=pytest.mark.slow)])
def test_a_drop_in_result_has_fewer_blocks_where_that_loses_less(
    material, tmp_path, capsys, degradation
):
    torch.manual_seed(0)
    arguments = {"dim": 16, "n_blocks": 4, "ffn_scale": 2.0, "upscaling_factor": 2}
    network = build_named("spandrel:SAFMN.SAFMN", arguments)
    for number in (1, 2):  # x + 0
        block = network.feats[number]
        for layer in (block.safm.aggr, block.ccm.ccm[2]):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    torch.save(network.state_dict(), tmp_path / "safmn.pth")
    output = tmp_path / "drop.pth"
    options = ("--drop_in", "--target", "macs=0.55", "--output", output)
    degraded = ("--degradation", degradation)
    compress(material, tmp_path, tmp_path / "safmn.pth", *options, *degraded)
    said = capsys.readouterr().out
    assert "of 4 blocks, the output can best do without: 1, 2" in said
    assert "drop-in: dim=16, n_blocks=2" in said
    x = torch.rand(1, 3, 24, 16)
    loaded_as, result = run_in_plain_spandrel(output, x, tmp_path)
    assert loaded_as == "SAFMN"
    (run,) = (tmp_path / "experiments").glob("*/models/pruned.safetensors")
    expected = load_model(run)
    assert len(expected.feats) == 2
    assert torch.allclose(result, expected(x), atol=1e-5)
    shape = (1, 3, 128, 128)
    ratio = complexity(expected, shape).macs / complexity(network, shape).macs
    assert f"kept: {ratio:.1%} of the macs" in said


def test_quality_bisects_budgets(material, tmp_path, capsys):
    compress(material, tmp_path, "compact.pth", "--degradation", "bicubic", "--target", "quality=3")
    said = capsys.readouterr().out
    assert "where the original has" in said
    options = yaml.safe_load(next((tmp_path / "experiments").glob("*/options.yml")).read_text())
    assert 0 < options["compress"]["target"]["macs"] < 0.95


def test_a_loss_at_a_level_as_psnr_to_the_output():
    # Independent errors add: the loss of the sum of both against the first alone.
    bound = QualityBound(0.1, None)
    own_error, added = 10 ** (-30 / 10), 10 ** (-bound.least_db / 10)
    loss = torch.log10(torch.tensor((own_error + added) / own_error)) * 10
    assert float(loss) == pytest.approx(0.1, abs=1e-4)
    assert QualityBound(0.1, 29.0).least_db == pytest.approx(28.9)


MISTAKES = [
    (("compact.pth", "--target", "macs=2"), "macs"),
    (("compact.pth", "--target", "speed=0.5"), "speed"),
    (("compact.pth", "--target", "macs=0.001"), "least possible"),
    (("compact.pth", "--target", "macs"), "macs=0.5"),
    (("compact.pth", "--minutes", "0"), "--minutes"),
    (("compact.pth", "--minutes", "nan"), "--minutes"),
    (("compact.pth", "--minutes", "inf"), "--minutes"),
    (("compact.pth", "--iterations", "0"), "--iterations"),
    (("compact.pth", "--seed", str(2**64)), "--seed"),
    (("compact.pth", "--seed", "-1"), "--seed"),
    (("compact.pth", "--output", "."), "folder"),
    (("compact.pth", "--output", "small.onnx"), "small.onnx"),
    (("compact.pth", "--truth", "nowhere"), "--truth nowhere"),
    (("compact.pth", "--truth", ".", "--drawn", "4"), "--drawn"),
    (("compact.pth", "--drawn", "-1"), "--drawn"),
    (("compact.pth", "--degradation", "noise=25"), "noise"),
    (("compact.pth", "--degradation", "fog"), "fog"),
    (("compact.pth", "--arch", "spandrel:Nothing"), "Nothing"),
    (("compact.pth", "--arch", "DnCNN", "num_feat=8"), "num_feat"),
    (("dncnn.pth", "--arch", "DnCNN", "num_feat=12", "batch_norm=false"), "(12,"),
    (("dncnn.pth", "--degradation", "bicubic"), "bicubic"),
    (("missing.pth",), "missing.pth"),
    (("compact.pth", "--runtime", "openvino"), "--runtime"),
    (("compact.pth", "--remove_blocks", "--drop_in"), "--remove_blocks"),
]


def test_a_latency_is_that_of_the_runtime_named(material, tmp_path):
    checkpoint = open_checkpoint(material / "compact.pth", None, [])
    request = CompressRequest(
        material / "images", Target("latency", 0.5), iterations=20, runtime="onnxruntime"
    )
    compress = prepare_run(checkpoint, request, tmp_path, lambda line: None).compress
    assert compress.target.keep_ratio == 0.5 and compress.latency_runtime == "onnxruntime"
    # Which widths suit the runtime, its times tell.
    assert compress.round_to is None


@pytest.mark.parametrize(
    "model, degradation, whole",
    [
        ("compact.pth", None, True),
        ("compact.pth", "bicubic", True),
        ("dncnn.pth", "noise=25", False),
    ],
)
def test_the_original_runs_over_whole_images_where_inputs_stay(
    material, tmp_path, model, degradation, whole
):
    """The images of the test hold fewer pixels than the patches of twenty steps."""
    checkpoint = open_checkpoint(material / model, None, [])
    request = CompressRequest(
        material / "images", Target("macs", 0.5), minutes=1.0, degradation=degradation
    )
    options = prepare_run(checkpoint, request, tmp_path, lambda line: None)
    assert options.compress.distill.whole_images is whole


@pytest.mark.parametrize(
    "more, roots, said",
    [
        ({}, ["train", "drawn:1"], "5 images and 1 drawn"),
        ({"degradation": "bicubic", "drawn": 3}, ["train", "drawn:3"], "5 images and 3 drawn"),
        ({"drawn": 0}, ["train"], "5 images, scored"),
    ],
)
def test_drawn_images_are_added_to_the_training_alone(material, tmp_path, more, roots, said):
    checkpoint = open_checkpoint(material / "compact.pth", None, [])
    lines = []
    request = CompressRequest(material / "images", Target("macs", 0.5), iterations=2, **more)
    datasets = prepare_run(checkpoint, request, tmp_path, lines.append).datasets
    assert [Path(root).name for root in datasets["train"].dataroot_gt] == roots
    assert "drawn:" not in str(datasets["val"].dataroot_gt)
    assert any(said in line for line in lines)


def test_drawn_images_are_few():
    assert [default_drawn(count) for count in (1, 7, 20, 281, 9999)] == [1, 1, 3, 40, 100]


@pytest.mark.parametrize("arguments, fact", MISTAKES)
def test_mistakes_are_named(material, tmp_path, arguments, fact):
    with pytest.raises(UserError) as caught:
        compress(material, tmp_path, *arguments)
    assert fact in str(caught.value)
    assert not (tmp_path / "small.safetensors").exists()


def test_truths_that_the_original_made(material, tmp_path, capsys):
    """Its own PSNR is infinite there, which JSON does not hold."""
    checkpoint = open_checkpoint(material / "compact.pth", None, [])
    truths = tmp_path / "truths"
    truths.mkdir()
    for path in sorted((material / "images").iterdir()):
        pixels = np.array(Image.open(path).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            output = checkpoint.network(image)[0].permute(1, 2, 0)
        output = (output.clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(output.numpy()).save(truths / f"{path.stem}.png")
    more = ("--truth", truths, "--target", "quality=3")
    assert compress(material, tmp_path, "compact.pth", *more) == 0
    said = capsys.readouterr().out
    assert "dB to the ground truths, which are the original's output" in said
    assert "to the original's output, which is 3 dB lost" in said


def test_no_time_for_anything(material, tmp_path):
    text = ["--model", str(material / "compact.pth"), "--images", str(material / "images"),
            "--minutes", "0.0001"]  # fmt: skip
    with pytest.raises(UserError, match="no time"):
        run_compress(compress_parser().parse_intermixed_args(text), tmp_path)


@pytest.mark.parametrize("target", [Target("quality", 1.0), Target("macs", 0.5)])
def test_the_preparation_is_part_of_the_time(material, tmp_path, monkeypatch, target):
    """Trials for a quality may take minutes."""
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(compress_prepare.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(compress_prepare, "find_keep_ratio", lambda *arguments: 0.5)
    times = StepTimes(0.01, 0.01, 0.01)
    monkeypatch.setattr(compress_prepare, "measure_steps", lambda *arguments: times)
    checkpoint = open_checkpoint(material / "compact.pth", None, [])
    request = CompressRequest(material / "images", target, minutes=0.5)
    with pytest.raises(UserError, match=r"--minutes 0\.5: no time; .* give 1\.\d minutes"):
        prepare_run(checkpoint, request, tmp_path, lambda line: None)


def test_folders_without_enough_images(material, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = ["--model", str(material / "compact.pth"), "--images", str(empty), "--iterations", "1"]
    with pytest.raises(UserError, match="two images"):
        run_compress(compress_parser().parse_intermixed_args(text), tmp_path)
    save_images(tmp_path / "tiny", 3, 8)
    text[3] = str(tmp_path / "tiny")
    with pytest.raises(UserError, match="pixels"):
        run_compress(compress_parser().parse_intermixed_args(text), tmp_path)


def test_a_target_that_only_removal_reaches_is_refused_with_advice():
    def summary(kept):
        return {"lower_bound": {"macs": {"kept": kept}}}

    with pytest.raises(UserError, match=r"--remove_blocks, with which it is 0\.2000"):
        check_reachable(summary(0.5), "macs", 0.3, lambda: summary(0.2))
    check_reachable(summary(0.2), "macs", 0.3)


def stop_while_finetuning(monkeypatch):
    """Let a run be interrupted in the second iteration of its finetuning."""
    from dhp_sr.cli import compress as service

    search_iterations = SEARCH_SAMPLES // BATCH_SIZE

    class Stop:
        calls = 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def __call__(self):
            Stop.calls += 1
            return Stop.calls == search_iterations + 2

    monkeypatch.setattr(service, "stop_on_signals", Stop)


def test_an_interrupted_run_leaves_its_best_and_goes_on(material, tmp_path, monkeypatch, capsys):
    stop_while_finetuning(monkeypatch)
    assert compress(material, tmp_path, "compact.pth", iterations="4") == 130
    first = load_model(tmp_path / "small.safetensors").state_dict()
    assert "--auto_resume" in capsys.readouterr().out
    assert compress(material, tmp_path, "compact.pth", "--auto_resume", iterations="9") == 0
    second = load_model(tmp_path / "small.safetensors").state_dict()
    assert {key: value.shape for key, value in first.items()} == {
        key: value.shape for key, value in second.items()
    }
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_an_interrupted_drop_in_run_leaves_weights_for_the_class(material, tmp_path, monkeypatch):
    stop_while_finetuning(monkeypatch)
    output = tmp_path / "drop.pth"
    options = ("--drop_in", "--output", output)
    assert compress(material, tmp_path, "compact.pth", *options, iterations="4") == 130
    weights = torch.load(output, weights_only=True)["params"]
    arguments = {**COMPACT, "num_feat": len(weights["body.0.weight"])}
    build_named("spandrel:Compact.SRVGGNetCompact", arguments).load_state_dict(weights)


def interrupt_in(monkeypatch, module, name):
    """Let Ctrl-C come when a function is called."""
    called = getattr(module, name)

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return called(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)


def test_ctrl_c_ends_the_preparation_at_once(material, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_in(patch, compress_prepare, "summarize_plan")
        assert compress(material, tmp_path, "compact.pth", iterations="4") == 130
    assert "before the first step" in capsys.readouterr().out
    assert not (tmp_path / "experiments" / "compact_macs0.5").exists()


def test_ctrl_c_during_the_search_leaves_the_state_before_it(
    material, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        interrupt_in(patch, phases, "prune_for_targets")
        assert compress(material, tmp_path, "compact.pth", iterations="4") == 130
    steps = SEARCH_SAMPLES // BATCH_SIZE
    said = capsys.readouterr().out
    assert f"state of iteration {steps} is saved" in said and "before the cut" in said
    assert compress(material, tmp_path, "compact.pth", "--auto_resume", iterations="4") == 0
    stopped = load_model(tmp_path / "small.safetensors").state_dict()
    assert compress(material, tmp_path, "compact.pth", iterations="4") == 0
    whole = load_model(tmp_path / "small.safetensors").state_dict()
    assert all(torch.equal(stopped[key], whole[key]) for key in whole)


def test_a_full_disk_leaves_a_run_that_can_be_resumed(material, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(phases, "prune_for_targets", fail)
        with pytest.raises(OSError, match="No space"):
            compress(material, tmp_path, "dncnn.pth")
    assert "is saved\nresume with the same command and --auto_resume" in capsys.readouterr().out


def test_an_earlier_run_is_set_aside_with_its_images(material, tmp_path, monkeypatch, capsys):
    """Its images are replaced, so that it could only be resumed with those of another run."""
    assert compress(material, tmp_path, "compact.pth", iterations="4") == 0
    interrupt_in(monkeypatch, compress_prepare, "write_json")
    assert compress(material, tmp_path, "compact.pth", iterations="4") == 130
    said = capsys.readouterr().out
    (earlier,) = (tmp_path / "experiments").glob("compact_macs0.5_archived_*")
    assert earlier.name in said and "no state yet" in said
    assert (earlier / "report.html").is_file()


def test_a_resumed_run_is_that_of_the_same_checkpoint(material, tmp_path):
    compress(material, tmp_path, "dncnn.pth")
    torch.manual_seed(1)
    other = tmp_path / "dncnn.pth"
    torch.save(build("DnCNN", num_feat=16, num_layers=8, batch_norm=False).state_dict(), other)
    with pytest.raises(UserError, match="another --model"):
        compress(material, tmp_path, other, "--auto_resume")
    assert compress(material, tmp_path, "dncnn.pth", "--auto_resume") == 0


def test_the_checkpoint_is_not_replaced_by_its_result(material, tmp_path):
    model = tmp_path / "small.safetensors"
    model.write_bytes(b"weights")
    with pytest.raises(UserError, match="would replace"):
        compress(material, tmp_path, model)
    assert model.read_bytes() == b"weights"


def test_the_images_of_a_running_compression_are_left_alone(material, tmp_path):
    folder = tmp_path / "experiments" / "compact_macs0.5_images"
    held = (
        "import sys, time; from pathlib import Path; from dhp_sr.training.run_lock import RunLock;"
    )
    held += "RunLock.acquire(Path(sys.argv[1])); print(flush=True); time.sleep(600)"
    arguments = [sys.executable, "-c", held, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as running:
        running.stdout.readline()
        (folder / "train").mkdir()
        (folder / "train" / "00000_a.png").touch()
        try:
            with pytest.raises(FolderInUseError):
                compress(material, tmp_path, "compact.pth")
        finally:
            running.kill()
    assert (folder / "train" / "00000_a.png").exists()


def test_the_folder_of_a_program_may_be_relative(material, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build("DnCNN", num_feat=16, num_layers=3, batch_norm=False)
    with empty_pages():
        dhp_sr.compress(
            network, material / "images", macs=0.5, iterations=1, root="runs", say=lambda line: None
        )
    names = sorted(path.name for path in (tmp_path / "runs" / "experiments").iterdir())
    assert names == ["DnCNN_macs0.5", "DnCNN_macs0.5_images"]


def test_steps_are_timed_in_the_memory_format_of_the_training(monkeypatch):
    """In the other one a step may take twice as long, and half as many are planned."""
    formats = []
    convolve = torch.nn.Conv2d._conv_forward

    def record(self, x, weight, bias):
        # The step with gradients is the student's.
        formats.append(
            (torch.is_grad_enabled(), x.is_contiguous(memory_format=torch.channels_last))
        )
        return convolve(self, x, weight, bias)

    plain = build("EDSR", num_feat=32, num_block=2, upscale=2)
    hyper = convert(plain, torch.rand(1, 3, 8, 8))
    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", record)
    measure_steps(hyper, plain, Budget.from_target("macs", 0.5), patch=8, batch_size=2)
    student = [channels_last for with_gradients, channels_last in formats if with_gradients]
    assert student and all(student)


def test_steps_are_timed_on_the_device_of_the_training(monkeypatch):
    """Timed on the processor, a graphics card would get a hundredth of the iterations."""
    asked = []

    def choose(num_gpu):
        asked.append(num_gpu)
        return torch.device("cpu")

    plain = build("EDSR", num_feat=32, num_block=2, upscale=2)
    hyper = convert(plain, torch.rand(1, 3, 8, 8))
    monkeypatch.setattr("dhp_sr.cli.compress_plan.select_device", choose)
    times = measure_steps(hyper, plain, Budget.from_target("macs", 0.5), patch=8, batch_size=2)
    # As option files say where they say nothing.
    assert asked == [Options.model_fields["num_gpu"].default]
    assert 0 < times.teacher < times.step and times.dense > 0


TIMES = StepTimes(dense=0.2, teacher=0.1, step=0.3)


def test_more_minutes_give_more_iterations_and_all_fit():
    info = info_of(build("DnCNN", num_feat=16, num_layers=5))
    before = 0
    for minutes in (3, 10, 30):
        length = plan_length(TIMES, info, patch=48, batch_size=8, minutes=minutes)
        used = length.search_seconds + length.finetune_iter * length.step_seconds
        assert used <= minutes * 60
        assert length.finetune_iter > before
        before = length.finetune_iter


def test_a_teacher_on_whole_images_is_paid_once_and_shortens_the_steps():
    info = info_of(build("DnCNN", num_feat=16, num_layers=5))
    arguments = {"patch": 48, "batch_size": 8, "minutes": 10}
    on_patches = plan_length(TIMES, info, **arguments)
    few = plan_length(TIMES, info, **arguments, input_pixels=10 * 48**2)
    many = plan_length(TIMES, info, **arguments, input_pixels=10**7)
    assert few.whole_images and not many.whole_images and not on_patches.whole_images
    assert few.step_seconds == pytest.approx(TIMES.step - TIMES.teacher)
    assert few.search_seconds > on_patches.search_seconds
    assert few.finetune_iter > on_patches.finetune_iter == many.finetune_iter
    assert "once" in describe_length(few) and "once" not in describe_length(many)
