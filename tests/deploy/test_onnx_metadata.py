"""The metadata of ONNX files: what goes in comes out, and what others wrote is checked."""

import pytest

from dhp_sr import __version__
from dhp_sr.deploy import ModelFileError
from dhp_sr.deploy.onnx_metadata import pack_metadata, unpack_metadata
from dhp_sr.utils.errors import UserError

FACTS = {
    "architecture": "EDSR",
    "task": "sr",
    "scale": 4,
    "in_channels": 3,
    "out_channels": 3,
    "colour": "RGB",
    "value_range": [0, 1],
    "size_multiple": 1,
    "precision": "fp32",
    "params": 1234,
    "halo": 35,
    "macs": None,
    "scores": {"Set5": {"psnr_y_db": 32.1}},
    "licence": "MIT",
}


def test_what_goes_in_comes_out():
    texts = pack_metadata(FACTS)
    assert all(isinstance(text, str) for text in texts.values())
    assert (texts["format"], texts["scale"], texts["licence"]) == ("dhp_sr", "4", "MIT")
    expected = {key: value for key, value in FACTS.items() if value is not None}
    versions = {"format": "dhp_sr", "format_version": 1, "tool_version": __version__}
    assert unpack_metadata(texts) == {**expected, **versions}


def test_files_of_others_are_not_ours():
    assert unpack_metadata({}) is None
    assert unpack_metadata({"format": "onnx", "scale": "["}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "["}, "scale: not valid JSON"),
        ({"scale": "NaN"}, "NaN is not JSON"),
        ({"scale": "true"}, "scale of type int"),
        ({"scale": "0"}, "scale from 1"),
        ({"halo": "-1"}, "halo from 0.*-1"),
        ({"scale": '"4"'}, "scale of type int"),
        ({"scores": "[" * 100_000}, "scores: not valid JSON"),
        ({"scores": " " * 2**21}, "scores of at most"),
        ({"format_version": "2"}, "version 2.* 1"),
    ],
)
def test_what_is_not_well_formed(change, message):
    with pytest.raises(ModelFileError, match=message):
        unpack_metadata({**pack_metadata(FACTS), **change})


def test_what_is_missing_is_named():
    texts = pack_metadata(FACTS)
    del texts["size_multiple"]
    with pytest.raises(ModelFileError, match="size_multiple is missing"):
        unpack_metadata(texts)


@pytest.mark.parametrize(
    ("change", "message"), [({"scael": 2}, "unknown key 'scael'"), ({"task": None}, "task is mis")]
)
def test_only_known_facts_are_written(change, message):
    with pytest.raises(UserError, match=message):
        pack_metadata({**FACTS, **change})
