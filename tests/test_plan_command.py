"""The plan of a network, from the command line."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from basicsr_modules import from_basicsr
from real_networks import BASICSR

from dhp_sr.archs import build
from dhp_sr.metrics import complexity
from dhp_sr.plan import main

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = str(ROOT / "options" / "quickstart.yml")
SMALL_EDSR = ("num_feat=8", "num_block=1")
RRDB = ("num_in_ch=3", "num_out_ch=3", "scale=2", "num_feat=8", "num_block=1")


def plan(tmp_path, *arguments):
    path = tmp_path / "plan.json"
    code = main([*arguments, "--json", str(path)])
    return code, json.loads(path.read_text())


DEEP = (
    "densenet40_cifar10_dhp",
    "mobilenetv1_tiny_dhp",
    "mobilenetv2_wide_c10_cpu",
    "resnet110_cifar10_dhp",
    "resnet56_cifar10_dhp",
    "resnet56_cifar10_hsn",
    "srresnet_x4_dhp",
)
"""Long to trace, and alike to others."""
DOCUMENTED = ("edsr_x4_dhp", "mobilenetv2_tiny_dhp")
"""Planned as commands of the documentation."""


def _plans(path):
    is_slow = path.stem in (*DEEP, *DOCUMENTED)
    return pytest.param(path, marks=pytest.mark.slow if is_slow else (), id=path.stem)


@pytest.mark.parametrize(
    "path", [_plans(path) for path in sorted((ROOT / "options").glob("*.yml"))]
)
def test_every_option_file_can_be_planned_and_met(path, capsys):
    assert main(["-opt", str(path)]) == 0
    text = capsys.readouterr().out
    assert "can be met; equal scores keep" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_a_network_by_name(tmp_path, capsys):
    arguments = ("--arch", "EDSR", "num_feat=16", "num_block=2", "upscale=2", "--size", "32", "48")
    code, found = plan(
        tmp_path, *arguments, "--exclude", "upsample.*", "--min_width", "4", "--round_to", "4"
    )
    cost = complexity(build("EDSR", num_feat=16, num_block=2, upscale=2), (1, 3, 32, 48))
    assert code == 0 and found["dense"] == {"macs": cost.macs, "params": cost.params}
    assert found["input"] == [1, 3, 32, 48] and found["targets"] == []
    assert found["excluded"] == ["upsample.0"]
    groups = {group["name"]: group for group in found["groups"]}
    assert (
        groups["conv_first"]["cost_shares"]["macs"]
        > groups["body.0.conv1"]["cost_shares"]["macs"]
        > 0
    )
    assert (
        groups["conv_first"]["width"],
        groups["conv_first"]["min_width"],
        groups["conv_first"]["reason"],
    ) == (16, 4, "")
    assert groups["x"]["reason"] == "input of the network" and groups["x"]["cost_shares"] == {}
    least = found["lower_bound"]["macs"]
    assert least["kept"] == pytest.approx(least["pinned"] + least["min_width"])
    text = capsys.readouterr().out
    assert "Excluded by name: upsample.0" in text and "x (3): input of the network" in text
    assert f"{least['kept']:.4f} of macs" in text


def test_a_network_of_basicsr(tmp_path):
    if importlib.util.find_spec("basicsr") is None:
        pytest.skip("basicsr is not installed")
    for name in ("MSRResNet", "basicsr:MSRResNet"):
        code, found = plan(
            tmp_path, "--arch", name, "num_feat=16", "num_block=1", "--size", "16", "16"
        )
        assert code == 0 and found["network"] == "MSRResNet" and found["name"] == name
        assert {group["name"] for group in found["groups"] if not group["reason"]} >= {
            "conv_first",
            "body.0.conv1",
        }


@pytest.mark.parametrize("name", BASICSR)
def test_every_network_of_basicsr_in_an_option_file(name, tmp_path, capsys):
    from_basicsr("utils.registry")
    given = BASICSR[name][1]
    network = {"type": f"basicsr:{name}", **given}
    scale = {"RIDNet": 1, "RCAN": 4}.get(name) or given.get("upscale") or given["scale"]
    changes = [
        f"network_g={{type: Hyper, network: {json.dumps(network)}}}",
        f"scale={scale}",
        "compress.round_to=4",
    ]
    if scale == 1:
        noisy = ("type=NoiseDataset", "sigma=25.0")
        changes += [f"datasets.{key}.{change}" for key in ("train", "val") for change in noisy]
    code, found = plan(tmp_path, "-opt", OPTIONS, "--set", *changes, "num_gpu=0")
    assert code == 0 and found["network"] == name
    assert (
        found["training_form"]
        == ("the forward of training mode" in capsys.readouterr().out)
        == (name == "ECBSR")
    )
    assert found["targets"][0]["kept"]["macs"] == pytest.approx(0.5, abs=0.01)


def test_ours_come_first_and_theirs_can_be_named(tmp_path):
    if importlib.util.find_spec("basicsr") is None:
        pytest.skip("basicsr is not installed")
    theirs = ("num_in_ch=3", "num_out_ch=3", "num_feat=16", "num_block=1", "--size", "16", "16")
    _, ours = plan(tmp_path, "--arch", "EDSR", "num_feat=16", "num_block=1", "--size", "16", "16")
    _, other = plan(tmp_path, "--arch", "basicsr:EDSR", *theirs)
    assert ours["network"] == other["network"] == "EDSR" and ours["groups"] != other["groups"]


def test_a_classifier_of_torchvision(tmp_path):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    arguments = ("--arch", "torchvision:resnet18", "num_classes=10", "--size", "64", "64")
    code, found = plan(tmp_path, *arguments)
    assert code == 0 and found["network"] == "ResNet" and found["input"] == [1, 3, 64, 64]
    assert found["dense"]["params"] == 11_181_642
    reasons = [group["reason"] for group in found["groups"] if group["reason"]]
    assert reasons == ["input of the network", "output of the network"]


@pytest.mark.parametrize(("name", "expected"), [
    ("torchvision:resnet81", "torchvision has no classifier 'resnet81' (did you mean 'resnet18'?)"),
    (
        "torchvison:resnet18",
        "before the colon (did you mean 'torchvision'?)",
    ),
    ("basicsr:RCAM", "did you mean 'RCAN'"),
    ("resnet18", "did you mean 'torchvision:resnet18'"),
])  # fmt: skip
def test_unknown_networks_of_other_packages(name, expected, capsys):
    if importlib.util.find_spec("basicsr") is None:
        pytest.skip("basicsr is not installed")
    assert main(["--arch", name]) == 2
    assert expected in capsys.readouterr().err


def test_a_target_that_cannot_be_met_ends_with_2_after_the_plan(capsys):
    assert main(["-opt", OPTIONS, "--set", "compress.target=[{macs: 0.5}, {macs: 0.01}]"]) == 2
    captured = capsys.readouterr()
    assert (
        "macs 0.5: can be met" in captured.out
        and "macs 0.01: a kept fraction of 0.01" in captured.out
    )
    assert captured.err.strip().endswith(
        "error: macs 0.01 cannot be met, for the reason given above"
    )


def test_a_latency_is_measured(tmp_path, capsys):
    table = tmp_path / "table.json"
    changes = [
        "compress.target={latency: 0.6}",
        f"compress.latency_table={table}",
        "compress.latency_size=[24, 24]",
    ]
    changes += ["network_g.num_block=1", "compress.tolerance=0.3", "num_gpu=0"]
    code, found = plan(tmp_path, "-opt", OPTIONS, "--set", *changes)
    assert code == 0 and table.exists() and found["input"] == [1, 3, 128, 128]
    (target,) = found["targets"]
    assert abs(target["kept"]["latency"] - 0.6) <= 0.3
    assert "of latency" in capsys.readouterr().out


def test_a_target_of_activations_is_planned(tmp_path):
    changes = ["compress.target={activations: 0.5}", "network_g.num_block=1", "num_gpu=0"]
    code, found = plan(tmp_path, "-opt", OPTIONS, "--set", *changes)
    (target,) = found["targets"]
    assert code == 0 and target["met"] and abs(target["kept"]["activations"] - 0.5) <= 0.01
    assert set(found["dense"]) == set(found["lower_bound"]) == {"macs", "params", "activations"}


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], "-opt"),
    (["-opt", OPTIONS, "--arch", "EDSR"], "--arch"),
    (["-opt", OPTIONS, "--size", "8", "8"], "--size"),
    (["-opt", OPTIONS, "--set", "compress=null"], "section compress"),
    (["-opt", "nowhere.yml"], "nowhere.yml"),
    (["--arch", "EDSX"], "did you mean 'EDSR'"),
    (["--arch", "EDSR", "num_fet=3"], "did you mean 'num_feat'"),
    (["--arch", "EDSR", "num_feat"], "'num_feat'"),
    (["--arch", "EDSR", "--set", "a=b"], "--set"),
    (["--arch", "EDSR", *SMALL_EDSR, "--exclude", "bodi.*"], "names no layer"),
    (["--arch", "EDSR", *SMALL_EDSR, "--round_to", "0"], "0 and 8"),
    (["--arch", "EDSR", "--size", "0", "8"], "--size"),
    (["--arch", "basicsr:RRDBNet", *RRDB, "--size", "9", "9"], "RRDBNet cannot be traced"),
])  # fmt: skip
def test_mistakes_end_with_2_and_one_message(arguments, expected, capsys):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert expected in message and "Traceback" not in message


@pytest.mark.slow  # all entry points begin alike; test_export runs one as a script
def test_as_a_script_from_elsewhere(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "dhp_sr" / "plan.py"),
        "--arch",
        "HyperDnCNN",
        "num_feat=8",
        "num_layers=3",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith(
        "DnCNN: DnCNN for an input of 1 x 1 x 128 x 128"
    ), done.stderr
    assert torch.get_num_threads() == 1
