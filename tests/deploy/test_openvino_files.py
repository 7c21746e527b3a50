"""Writing OpenVINO's two files, whatever interrupts it."""

import contextlib

import pytest

from dhp_sr.deploy import openvino_export


def test_a_full_disk_during_an_export_to_openvino_is_an_os_error(tmp_path, monkeypatch):
    """OpenVINO's streams raise a RuntimeError, which would end in a traceback."""

    class Full:
        @staticmethod
        def save_model(model, path, *, compress_to_fp16):
            path.with_suffix(".bin").write_bytes(b"half")
            raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino_export, "require_openvino", lambda: Full)
    with pytest.raises(OSError, match=r"a\.xml: cannot be written .*disk full"):
        openvino_export.write_verified(None, tmp_path / "a.xml", False, lambda path: None)
    assert list(tmp_path.iterdir()) == []


class Writer:
    """Writes a graph and its weights as OpenVINO does."""

    @staticmethod
    def save_model(model, path, *, compress_to_fp16):
        path.write_text(model)
        path.with_suffix(".bin").write_text(model)


@pytest.mark.parametrize("stop_at", range(4))
def test_a_graph_never_lies_beside_the_weights_of_another(tmp_path, monkeypatch, stop_at):
    """OpenVINO would run the earlier graph with the new weights without a word."""

    class KilledError(BaseException):
        pass

    path = tmp_path / "a.xml"
    files = (path, path.with_suffix(".bin"))
    for file in files:
        file.write_text("old")
    renamed = []

    def replace_file(source, target, replace_file=openvino_export.os.replace):
        if len(renamed) == stop_at:
            raise KilledError
        renamed.append(target)
        replace_file(source, target)

    monkeypatch.setattr(openvino_export, "require_openvino", lambda: Writer)
    monkeypatch.setattr(openvino_export.os, "replace", replace_file)
    with contextlib.suppress(KilledError):
        openvino_export.write_verified("new", path, False, lambda written: None)
    contents = {file.read_text() for file in files if file.exists()}
    assert len(contents) == 1 or not path.exists()
    assert path.exists() == (stop_at in (0, 3))
    assert stop_at < 3 or contents == {"new"}


def test_an_export_whose_weights_cannot_be_replaced_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "a.xml"
    path.write_text("old")
    path.with_suffix(".bin").mkdir()
    monkeypatch.setattr(openvino_export, "require_openvino", lambda: Writer)
    with pytest.raises(OSError, match="directory"):
        openvino_export.write_verified("new", path, False, lambda written: None)
    assert path.read_text() == "old"
