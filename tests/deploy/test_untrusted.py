"""deploy: a file from anywhere is refused with its reason, quickly, and nothing in it is
executed.
"""

import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from dhp_sr.archs import EDSR
from dhp_sr.deploy import ModelFileError, load_model, load_weights, read_manifest, save_model
from dhp_sr.deploy.manifest import MAX_NUMBER

from .conftest import cut_network


@pytest.fixture
def file(tmp_path, network):
    save_model(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"P5 1 1 255 ", r"b'P5 1 1 2'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>Sign in", "a web page"),
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (pickle.dumps([1] * 99, protocol=2), "pickle"),
        (pickle.dumps([1] * 99, protocol=4), "pickle"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00{}", "truncated or damaged"),
        (b"\xff" * 8 + b"{}", "something else"),
    ],
)
def test_other_kinds_of_files(tmp_path, content, message):
    path = _write(tmp_path / "model.safetensors", content)
    for read in (load_model, read_manifest):
        with pytest.raises(ModelFileError, match=message) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")


def test_a_program_of_torch_export_is_called_one(tmp_path):
    path = _write(tmp_path / "model.pt2", b"PK\x03\x04" + bytes(60))
    with pytest.raises(
        ModelFileError,
        match=r"model\.pt2: .*torch\.export\.load",
    ):
        load_model(path)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"missing\.safetensors: there is no such file"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)


def test_a_renamed_pickle_is_never_run(tmp_path):
    for name, write in {
        "a.safetensors": lambda path: torch.save({"x": Bomb(tmp_path / "trace")}, path),
        "b.safetensors": lambda path: path.write_bytes(
            pickle.dumps(Bomb(tmp_path / "trace"), protocol=2)
        ),
    }.items():
        write(tmp_path / name)
        for read in (load_model, read_manifest, load_weights):
            with pytest.raises(ModelFileError, match="pickle"):
                read(tmp_path / name)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kept", [4, 8, 100, -1])
def test_truncated_at_any_place(tmp_path, file, kept):
    path = _write(tmp_path / "cut.safetensors", file.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"truncated or damaged|something else"):
        load_model(path)


def test_trailing_bytes_and_lying_shapes(tmp_path, file):
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(_write(tmp_path / "longer.safetensors", file.read_bytes() + b"x"))
    lying = file.read_bytes().replace(b'"shape":[12]', b'"shape":[99]')
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(_write(tmp_path / "lying.safetensors", lying))


def test_safetensors_of_other_programs(tmp_path, network):
    for metadata in (None, {"format": "pt"}):
        save_file(dict(network.state_dict()), tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(ModelFileError, match=r"path\.pretrain_network_g"):
            load_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", "version 2.* 1"),
        ("x", "format version"),
        ("9" * 5000, "format version"),
    ],
)
def test_format_versions(file, spoil, version, message):
    with pytest.raises(ModelFileError, match=message):
        load_model(spoil(file, metadata={"format_version": version}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ('{"scale": NaN}', "NaN is not JSON"),
        ('{"scale": ' + "9" * 9999 + "}", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "architecture of type str.*None"),
    ],
)
def test_manifests_that_are_not_one(file, spoil, text, message):
    with pytest.raises(ModelFileError, match=message):
        load_model(spoil(file, text=text))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"architecture": "ESDR"}, "'ESDR'.*'EDSR'"),
        ({"architecture": 5}, "architecture of type str.*5"),
        ({"architecture": "__class__"}, "'__class__'"),
        ({"arguments": [1]}, "arguments of type dict"),
        ({"scale": "2"}, "scale of type int.*'2'"),
        ({"scale": True}, "scale of type int.*True"),
        ({"scale": 4}, "scale .*4.*2"),
        ({"task": "denoise"}, "task .*'denoise'.*'sr'"),
        ({"colour": "grey"}, "colour .*'grey'.*'RGB'"),
        ({"params": 1}, "params .*1"),
        ({"widths": {}}, r"conv_first .*None.*\[8, 3\]"),
        ({"widths": {"nowhere": [1, 2]}}, "conv_first"),
    ],
)
def test_manifests_that_do_not_fit(file, spoil, entry, message):
    with pytest.raises(ModelFileError, match=message):
        load_model(spoil(file, manifest=entry))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"num_feat": MAX_NUMBER + 1}, "argument 'num_feat': .*65536"),
        ({"num_feat": -8}, "argument 'num_feat': "),
        ({"num_feat": 10**400}, "argument 'num_feat': "),
        ({"res_scale": 1e300}, "argument 'res_scale': "),
        ({"rgb_mean": [0.0] * 1000}, "argument 'rgb_mean': "),
        ({"rgb_mean": [[[[1]]]]}, "argument 'rgb_mean': "),
        ({"rgb_mean": {"a": 1}}, "argument 'rgb_mean': "),
        ({"upscale": "x" * 10_000}, "argument 'upscale': "),
        (
            {"num_block": MAX_NUMBER},
            "num_block=65536 .*16 tensors",
        ),
        ({"num_feat": "eight"}, "EDSR.*eight"),
        ({"num_feet": 8}, "'num_feet'.*'num_feat'"),
        ({"type": "UNet"}, "manifest: "),
        ({"upscale": 65536}, "manifest: |missing: upsample"),
        ({"num_block": 3}, "missing: body.2.conv1.weight\n  missing: body.2.conv1.bias"),
        ({"num_block": 1}, "unexpected: body.1.conv1.weight"),
    ],
)
def test_arguments_out_of_bounds_are_refused(file, spoil, argument, message):
    arguments = {**EDSR(num_feat=8, num_block=2, upscale=2).arguments, **argument}
    path = spoil(file, manifest={"arguments": arguments})
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_levels_that_would_grow_without_bound(tmp_path, spoil):
    save_model(cut_network("UNet"), tmp_path / "unet.safetensors")
    for levels in (20, 65536):
        arguments = {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_levels": levels}
        with pytest.raises(ModelFileError, match=r"num_levels=65536 asks|missing|manifest: "):
            load_model(spoil(tmp_path / "unet.safetensors", manifest={"arguments": arguments}))


def test_a_wide_parent_costs_no_memory(file, spoil, monkeypatch):
    """Dense widths of 65536 would need 150 GB a layer; the file's own widths are a few."""
    arguments = {**EDSR(num_feat=8, num_block=2, upscale=2).arguments, "num_feat": MAX_NUMBER}
    assert load_model(spoil(file, manifest={"arguments": arguments})).conv_first.out_channels == 8


def test_missing_unexpected_and_wrong_shape_keys_are_all_listed(file, spoil):
    other = {"extra.weight": torch.zeros(1), "conv_first.weight": torch.zeros(8, 3, 5, 5)}
    with pytest.raises(ModelFileError) as error:
        load_model(spoil(file, tensors=other, drop=["conv_last.bias"]))
    message = str(error.value)
    assert "missing: conv_last.bias" in message and "unexpected: extra.weight" in message
    assert re.search(r"wrong shape: conv_first\.weight: .*\(3, 3\).*\(5, 5\)", message)


def test_layers_that_do_not_fit_each_other(file, spoil):
    path = spoil(file, tensors={"conv_last.weight": torch.zeros(3, 2, 3, 3)})
    manifest = json.loads(json.dumps(read_manifest(file)))
    widths = {**manifest["widths"], "conv_last": [3, 2]}
    changed = {"params": manifest["params"] - 27, "widths": widths}
    with pytest.raises(ModelFileError, match="the layers' widths do not fit each other"):
        load_model(spoil(path, manifest=changed))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.zeros(3, dtype=torch.float64),
            "torch.float32.*torch.float64|torch.float64.*torch.float32",
        ),
        (
            torch.zeros(3, dtype=torch.int64),
            "conv_last.bias: .*torch.float32.*torch.int64",
        ),
    ],
)
def test_types_of_numbers(file, spoil, tensor, message):
    with pytest.raises(ModelFileError, match=message):
        load_model(spoil(file, tensors={"conv_last.bias": tensor}))
