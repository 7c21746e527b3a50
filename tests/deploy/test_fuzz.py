"""Files damaged in hundreds of ways: each is refused with a reason, or is what it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.deploy import ModelFileError, load_model, load_weights, read_manifest, save_model
from dhp_sr.export import main as export
from dhp_sr.test import main as score

from .bombs import write_all
from .conftest import cut_network
from .fuzzing import mutate

ROOT = Path(__file__).resolve().parents[2]


def contents(path):
    """Content of a model file: its description and its numbers."""
    network = load_model(path)
    return [json.dumps(read_manifest(path), sort_keys=True), *network.state_dict().items()]


def same(one, other):
    return len(one) == len(other) and all(
        a == b
        if isinstance(a, str)
        else a[0] == b[0] and a[1].dtype == b[1].dtype and torch.equal(a[1], b[1])
        for a, b in zip(one, other, strict=True)
    )


def refused(read, path, content):
    """Whether a damaged file is refused; otherwise what it gave."""
    path.write_bytes(content)
    try:
        return None, read(path)
    except ModelFileError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error)) < 8000
        return str(error), None


@pytest.mark.parametrize("name", ["EDSR", "UNet"])
def test_model_files(name, tmp_path):
    save_model(cut_network(name), tmp_path / "model.safetensors", scores={"Set5": 30.5})
    content, expected = (
        (tmp_path / "model.safetensors").read_bytes(),
        contents(tmp_path / "model.safetensors"),
    )
    reasons = set()
    for seed in range(150):
        reason, given = refused(contents, tmp_path / "damaged.safetensors", mutate(content, seed))
        assert reason or same(given, expected), f"seed {seed}: loaded with other contents"
        reasons.add(reason)
    assert len(reasons) > 30


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_files(zipped, tmp_path):
    weights = build("EDSR", num_feat=4, num_block=1, upscale=2).state_dict()
    torch.save({"params": weights}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    content, refusals = (tmp_path / "whole.pth").read_bytes(), 0
    for seed in range(150):
        reason, given = refused(load_weights, tmp_path / "damaged.pth", mutate(content, seed))
        refusals += reason is not None
        if (
            zipped and given
        ):  # files of torch before 1.6 have no checksums: their numbers may have changed
            assert same([*given.items()], [*weights.items()]), (
                f"seed {seed}: loaded with other contents"
            )
    assert refusals > (140 if zipped else 100)


def test_one_flipped_bit_in_a_weight(tmp_path, network):
    save_model(network, tmp_path / "model.safetensors")
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    place = content.find(bytes(network.conv_last.weight.detach().numpy().tobytes()))
    content[place + 2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="checksum"):
        load_model(tmp_path / "model.safetensors")


def test_metadata_of_another_network(tmp_path, spoil):
    for name in ("EDSR", "DnCNN"):
        save_model(cut_network(name), tmp_path / f"{name}.safetensors")
    other = read_manifest(tmp_path / "DnCNN.safetensors")
    with pytest.raises(ModelFileError, match="the tensors are not those of DnCNN"):
        load_model(spoil(tmp_path / "EDSR.safetensors", manifest=other))


@pytest.mark.parametrize("digits", ["65536", "4294967296", "99999999999999999999", "-1", "1e9"])
def test_huge_shapes_are_refused_at_once(tmp_path, network, digits):
    save_model(network, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    old = b'"shape":[8,3,3,3]'
    assert old in content
    new = content.replace(old, b'"shape":[' + digits.encode() + b",3,3,3]")
    length = int.from_bytes(new[:8], "little") + len(new) - len(content)
    reason, _ = refused(
        load_model, tmp_path / "damaged.safetensors", length.to_bytes(8, "little") + new[8:]
    )
    assert reason


def in_a_process(module, *arguments):
    """Run a program of this folder, which a crash would end; return what it printed as JSON."""
    command = [sys.executable, "-m", f"tests.deploy.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_bombs_stay_small(tmp_path):
    """In a process that may take half a GiB more than after its imports."""
    names = write_all(tmp_path)
    results = in_a_process("bombs", tmp_path, *names)
    assert list(results) == names and len(names) == 10
    for name, (reason, grown) in results.items():
        assert reason and grown < 200, (name, reason, grown)
    assert not (tmp_path / "executed").exists()


def test_onnx_files(tmp_path):
    """Damaged files of ours are found by their checksum; those of others reach onnxruntime, which
    must not crash.
    """
    pytest.importorskip("onnxscript")
    from dhp_sr.deploy.onnx_export import export_onnx

    from .test_onnx_metadata import FACTS

    network = build("DnCNN", num_feat=4, num_layers=3).eval()
    export_onnx(network, tmp_path / "whole.onnx", (1, 1, 8, 8), facts=FACTS)
    ours, theirs = in_a_process("fuzz_onnx", tmp_path)
    assert ours["opened"] == 0 and ours["refused"] == 150 and ours["reasons"] > 1
    assert theirs["refused"] > 100 and theirs["opened"] + theirs["refused"] == 150
    for found in (ours, theirs):
        assert found["grown"] < 200, found


@pytest.mark.parametrize("main", [export, score], ids=["export.py", "test.py"])
def test_commands_end_with_2_and_one_message(main, tmp_path, capsys):
    save_model(cut_network("EDSR"), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    write_all(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(content[:-9] + b"?" + content[-8:])
    more = ["--format", "pt2"] if main is export else ["--data", str(tmp_path)]
    for name in (
        "damaged.safetensors",
        "pickle.safetensors",
        "wide.safetensors",
        "code.pth",
        "none.safetensors",
    ):
        assert main(["--model", str(tmp_path / name), *more]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {tmp_path / name}: ") and message.count("\n") == 1
    assert not (tmp_path / "executed").exists() and not list(tmp_path.glob("*.pt2"))
