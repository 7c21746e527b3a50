"""The methods on equal terms: who trains how long, and the contest itself in its smallest size."""

import json

import pytest

from benchmarks.contest import CASES, ENTRIES, OVERHEAD, Case, plan_iterations, step_time
from benchmarks.controls import main
from dhp_sr.reports import controls_table, plot_controls


@pytest.mark.parametrize("method", ENTRIES)
@pytest.mark.parametrize("case", CASES.values())
def test_every_method_takes_the_same_time(case, method):
    phases = plan_iterations(case, ENTRIES[method])
    time = phases.dense + phases.search + phases.finetune * step_time(case.keep_ratio)
    assert time == pytest.approx(case.length, abs=1)
    assert (phases.search > 0) == (method in ("dhp", "hsn", "magnitude"))


def test_a_narrow_network_trains_longer_from_scratch():
    case = Case("x.yml", 0.5, 1000, ())
    assert plan_iterations(case, ENTRIES["uniform"]).total == round(1000 / (OVERHEAD + (1 - OVERHEAD) / 2))
    assert step_time(1) == 1


def test_finished_rows_are_kept_and_dense_training_is_shared(tmp_path, monkeypatch, noise_options, capsys):
    """A method that takes up the dense training of another one ends where it ends alone."""
    monkeypatch.setitem(CASES, "dncnn_50", Case(str(noise_options), 0.5, 24, ("tiny",)))
    out = tmp_path / "controls.json"
    given = ["--cases", "dncnn_50", "--seeds", "1", "--out", str(out)]
    assert main([*given, "--methods", "dhp", "magnitude"]) == 0
    together = json.loads(out.read_text())["rows"]
    assert main([*given, "--methods", "magnitude", "--again"]) == 0
    alone = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in alone] == ["dhp", "magnitude"]
    assert alone[1]["psnr_y_db"] == together[1]["psnr_y_db"]
    assert alone[1]["widths"] == together[1]["widths"]
    capsys.readouterr()
    assert main([*given, "--methods", "magnitude", "uniform"]) == 0
    assert "('dncnn_50', 'magnitude', 1, 1.0): kept" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 and rows[2]["iterations"]["dense"] == 0
    assert "| dncnn_50 |" in controls_table(rows)
    plot_controls(tmp_path / "controls.png", rows)
    assert (tmp_path / "controls.png").stat().st_size > 5000
