"""A run folder is read whole, in part, or refused with the file that is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from dhp_sr.reports.run import TrainingPoint, ValidationPoint, phase_spans, read_run
from dhp_sr.utils.errors import UserError


def test_a_finished_run(folder, metrics, widths):
    run = read_run(folder)
    assert run.metrics == metrics and run.widths == widths
    assert run.curves[0] == TrainingPoint(10, "dense", 0.5, 1e-4, None, None)
    assert run.curves[-1] == TrainingPoint(40, "finetune", 0.01, 5e-5, 0.4, 0.45)
    assert run.validation[-1] == ValidationPoint(40, "finetune", "Set14", 27.0, 0.74, None, None)


def test_an_unfinished_run(folder):
    for name in ("metrics.json", "widths.json", "validation.csv"):
        (folder / name).unlink()
    run = read_run(folder)
    assert (run.metrics, run.widths, run.validation) == (None, None, ())
    assert len(run.curves) == 4


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match=r"none: .*experiments/<name>"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match=r"metrics\.json, widths\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("metrics.json", "{", ["metrics.json", "JSON"]),
        ("metrics.json", '{"a": NaN}', ["metrics.json", "NaN"]),
        ("widths.json", "[]", ["widths.json", "list"]),
        ("curves.csv", "iteration,phase\n1,dense\nx,dense\n", ["curves.csv, line 3", "'x'"]),
        ("curves.csv", "phase,loss\ndense,0.5\n", ["curves.csv, line 2", "iteration"]),
        ("validation.csv", "iteration,phase\n1.5,dense\n", ["validation.csv, line 2", "'1.5'"]),
        ("curves.csv", "iteration,phase\n1,\xff\n", ["CSV"]),
        ("latents.csv", "iteration,group,latents\n1,a,x\n", ["latents.csv, line 2", "'x'"]),
        ("latents.csv", "iteration,latents\n1,1\n", ["latents.csv, line 2", "group"]),
        ("latents.csv", "iteration,group,latents\n1,a,1 1\n2,a,1\n", ["of a", "[1, 2]"]),
        ("options.yml", "a: [", ["options.yml"]),
        ("options.yml", "name: \xe4", ["UTF-8"]),
    ],
)
def test_damaged_files_are_named(folder, name, text, facts):
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        read_run(folder)
    for fact in [name, *facts]:
        assert fact in str(error.value)


def test_columns_of_a_later_version_are_ignored(folder):
    (folder / "curves.csv").write_text("iteration,phase,loss,lambda\n1,dense,0.5,3\n")
    assert read_run(folder).curves == (TrainingPoint(1, "dense", 0.5),)


def test_a_phase_begins_where_the_one_before_was_last_seen(folder):
    spans = phase_spans(read_run(folder).curves)
    assert spans == [("dense", 0, 20), ("search", 20, 30), ("finetune", 30, 40)]


@pytest.mark.parametrize("module", ["dhp_sr.reports.run", "dhp_sr.reports.page"])
def test_reports_need_no_torch_and_no_window(module):
    code = (
        f"import sys, {module}; sys.exit(bool({{'torch', 'matplotlib.pyplot'}} & {{*sys.modules}}))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
