"""reports/run.py and write.py: a folder is read whole, in part, or refused with a reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from dhp_sr.reports.run import TrainingPoint, ValidationPoint, read_run
from dhp_sr.reports.write import write_reports
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
    with pytest.raises(UserError, match=r"expected a run folder .* found nothing there"):
        read_run(tmp_path / "none")
    with pytest.raises(UserError, match="nothing to report"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "{", r"metrics\.json: not valid JSON"),
        ("widths.json", "[]", r"widths\.json: expected a JSON object, found list"),
        (
            "curves.csv",
            "iteration,phase,loss\n1,dense,0.5\n2,dense,much\n",
            r"curves\.csv, line 3: .*'much'",
        ),
        ("curves.csv", "phase,loss\ndense,0.5\n", r"curves\.csv, line 2: .*iteration"),
        ("validation.csv", "iteration,phase\n1.5,dense\n", r"validation\.csv, line 2: .*'1.5'"),
    ],
)
def test_damaged_files_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(folder)


def test_columns_of_a_later_version_are_ignored(folder):
    (folder / "curves.csv").write_text("iteration,phase,loss,lambda\n1,dense,0.5,3\n")
    assert read_run(folder).curves == (TrainingPoint(1, "dense", 0.5),)


def test_all_reports_are_written(folder):
    written = write_reports(folder)
    assert [path.relative_to(folder).as_posix() for path in written] == [
        "widths.txt",
        "plots/widths.png",
        "plots/curves.png",
    ]
    assert all(path.stat().st_size > 0 for path in written)


def test_reports_of_a_run_before_its_cut(folder):
    (folder / "widths.json").unlink()
    assert [path.name for path in write_reports(folder)] == ["curves.png"]


def test_reports_need_no_torch():
    code = "import sys, dhp_sr.reports; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )
