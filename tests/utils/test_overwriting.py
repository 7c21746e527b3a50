"""Outputs of a command replace none of its inputs, under whatever name."""

import os
from pathlib import Path

import pytest

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.overwriting import check_outputs, is_same_file


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "folder" / "net.pth"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def test_every_name_of_an_input_is_refused(model, tmp_path):
    (tmp_path / "link.pth").symlink_to(model)
    os.link(model, tmp_path / "hard.pth")
    (tmp_path / "other").symlink_to(model.parent)
    names = (
        "folder/net.pth",
        "./folder/../folder/net.pth",
        "link.pth",
        "hard.pth",
        "other/net.pth",
    )
    for name in names:
        assert is_same_file(name, model)
        with pytest.raises(UserError, match=r"--output .*net\.pth"):
            check_outputs({"--output": name}, [None, model])
    # The input may be the link as well.
    with pytest.raises(UserError, match=r"link\.pth"):
        check_outputs({"--output": model}, ["link.pth"])
    check_outputs({"--output": "new.pth", "--json": None}, [model, Path("missing")])


def test_names_in_another_case_are_one_file_where_the_system_says_so(model, monkeypatch):
    def samefile(first, second):
        return os.path.normcase(first).lower() == os.path.normcase(second).lower()

    (model.parent / "NET.pth").touch()
    monkeypatch.setattr(os.path, "samefile", samefile)
    with pytest.raises(UserError, match=r"NET\.pth"):
        check_outputs({"--output": model.parent / "NET.pth"}, [model])


def test_files_of_a_folder_that_is_read_stay_but_for_earlier_results(model):
    (model.parent / "scores.json").touch()
    with pytest.raises(UserError, match="a file of"):
        check_outputs({"--json": model}, [model.parent], (".json",))
    check_outputs({"--json": model.parent / "scores.json"}, [model.parent], (".json",))
    check_outputs({"--json": model.parent / "new.pth"}, [model.parent], (".json",))


def test_an_output_is_no_folder(model):
    with pytest.raises(UserError, match=r"--json .*a folder"):
        check_outputs({"--json": model.parent}, [model])


def test_two_outputs_are_two_files(model):
    with pytest.raises(UserError, match="--output and --save_options"):
        check_outputs({"--output": "a.yml", "--save_options": "folder/../a.yml"}, [])
