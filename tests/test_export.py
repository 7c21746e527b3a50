"""export.py: our files and other projects' weights in every format, with what they say about
themselves.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from basicsr_modules import from_basicsr

from dhp_sr.archs import build
from dhp_sr.cli.export import describe_facts
from dhp_sr.deploy import load_model, read_manifest, save_model
from dhp_sr.deploy.onnx_metadata import unpack_metadata
from dhp_sr.export import main
from dhp_sr.tasks.test_sets import restore

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"num_feat": 4, "num_block": 1, "upscale": 2}
ARGUMENTS = [f"{key}={value}" for key, value in SMALL.items()]


@pytest.fixture
def model(tmp_path):
    network = build("EDSR", **SMALL).eval()
    scores = {"Set5": {"psnr_y_db": 30.0}}
    save_model(
        network,
        tmp_path / "m.safetensors",
        macs=7,
        macs_input=[1, 3, 8, 8],
        scores=scores,
        licence="CC0",
    )
    return tmp_path / "m.safetensors"


def export(path, form, *more):
    return main(["--model", str(path), "--format", form, *map(str, more)])


def test_onnx_says_what_the_model_says(model, capsys):
    pytest.importorskip("onnxscript")
    from dhp_sr.deploy.onnx_runner import open_session

    assert export(model, "onnx", "--opset", 18) == 0
    text = capsys.readouterr().out
    assert "EDSR x2, ONNX, opset 18, fp32" in text and "largest difference to PyTorch: " in text
    assert "at 1x3x33x57" in text and "at 3x3x100x17" in text
    session = open_session(model.with_suffix(".onnx"))
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("input", ["batch", 3, "height", "width"])
    assert (made.name, made.shape) == ("output", ["batch", 3, "2*height", "2*width"])
    facts = unpack_metadata(session.get_modelmeta().custom_metadata_map)
    expected = {
        "architecture": "EDSR",
        "task": "sr",
        "scale": 2,
        "in_channels": 3,
        "out_channels": 3,
        "colour": "RGB",
    }
    expected |= {
        "value_range": [0, 1],
        "size_multiple": 1,
        "halo": 6,
        "macs": 7,
        "macs_input": [1, 3, 8, 8],
    }
    expected |= {
        "scores": {"Set5": {"psnr_y_db": 30.0}},
        "licence": "CC0",
        "precision": "fp32",
        "tile_multiple": 1,
    }
    assert {key: facts.get(key) for key in expected} == expected
    assert facts["params"] == sum(one.numel() for one in load_model(model).parameters())
    assert sorted(entry.name for entry in model.parent.iterdir()) == ["m.onnx", "m.safetensors"]


def test_pt2_in_half(model, capsys):
    assert export(model, "pt2", "--half", "--output", model.with_name("half.pt2")) == 0
    assert "torch.export, fp16" in capsys.readouterr().out
    assert (
        torch.export.load(model.with_name("half.pt2"))
        .module()(torch.rand(1, 3, 5, 6).half())
        .shape[-1]
        == 12
    )


def test_half_of_the_bytes(model, capsys):
    assert export(model, "safetensors", "--half") == 0
    small, whole = load_model(model.with_name("m_fp16.safetensors")), load_model(model)
    assert {tensor.dtype for tensor in small.state_dict().values()} == {torch.float16}
    assert torch.equal(small.conv_first.weight, whole.conv_first.weight.half())
    assert read_manifest(model.with_name("m_fp16.safetensors"))["macs"] == 7
    image = {"lq": torch.rand(3, 8, 9)}
    full, half = (restore(network, image, 2).astype(int) for network in (whole, small))
    assert full.shape == (16, 18, 3) and abs(full - half).max() <= 1


@pytest.mark.parametrize("wrapper", ["params", "params_ema", None])
def test_weights_of_other_projects(tmp_path, wrapper, capsys):
    network = build("EDSR", **SMALL).eval()
    torch.save(
        {wrapper: network.state_dict()} if wrapper else network.state_dict(), tmp_path / "net.pth"
    )
    assert (
        export(
            tmp_path / "net.pth",
            "safetensors",
            "--arch",
            "EDSR",
            *ARGUMENTS,
            "--licence",
            "Apache-2.0",
        )
        == 0
    )
    loaded, x = load_model(tmp_path / "net.safetensors"), torch.rand(1, 3, 9, 8)
    assert torch.equal(loaded(x), network(x))
    found = read_manifest(tmp_path / "net.safetensors")
    assert (found["parent"], found["licence"]) == ("net.pth", "Apache-2.0") and found["macs"] > 0


def test_a_network_of_basicsr(tmp_path, capsys):
    from_basicsr("utils.registry")
    from dhp_sr.zoo.names import build_named

    arguments = {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": 2,
        "num_feat": 8,
        "num_block": 1,
        "num_grow_ch": 4,
    }
    network = build_named("RRDBNet", arguments).eval()
    torch.save({"params_ema": network.state_dict()}, tmp_path / "net.pth")
    given = [f"{key}={value}" for key, value in arguments.items()]
    assert export(tmp_path / "net.pth", "safetensors", "--arch", "RRDBNet", *given) == 0
    assert "height and width in multiples of 2" in capsys.readouterr().out
    loaded, x = load_model(tmp_path / "net.safetensors"), torch.rand(1, 3, 10, 8)
    assert (loaded.scale, loaded.size_multiple, loaded.task) == (2, 2, "sr")
    assert torch.equal(loaded(x), network(x))


def test_facts_of_a_network_whose_tiles_are_aligned():
    facts = describe_facts(build("UNet", num_feat=4, num_levels=3).eval(), {})
    assert (facts["size_multiple"], facts["tile_multiple"], facts["macs_input"]) == (
        1,
        4,
        [1, 1, 128, 128],
    )
    assert facts["halo"] > 10 and facts["macs"] > 0 and facts["scores"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["pt2", "--opset", "17"], "--opset"),
        (["pt2", "num_feat=4"], "num_feat=4"),
        (
            ["pt2", "--output", "x.onnx"],
            "x.onnx",
        ),
        (["safetensors"], "m.safetensors"),
        (["pt2", "--arch", "EDSR", "num_feat=5", "num_block=1"], "the weights do not fit EDSR"),
        (["pt2", "--arch", "EDSR", "num_feat"], "'num_feat'"),
        (["pt2", "--arch", "ESDR"], "'ESDR'"),
        (["pt2", "--tolerance", "-1"], "--tolerance"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(model, more, message, capsys):
    before = model.read_bytes()
    assert export(model, *more) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and message in found
    assert [entry.name for entry in model.parent.iterdir()] == [
        "m.safetensors"
    ] and model.read_bytes() == before


def test_as_a_script_from_elsewhere(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "dhp_sr" / "export.py"),
        "--model",
        "none.safetensors",
        "--format",
        "onnx",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (
        done.returncode == 2 and done.stderr == "error: none.safetensors: there is no such file\n"
    )
