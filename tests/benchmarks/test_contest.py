"""The methods on equal terms: who trains how long, and the contest itself in its smallest size."""

import copy
import json
from pathlib import Path

import pytest
import torch

import benchmarks.controls
from benchmarks.contest import CASES, ENTRIES, Case, plan_iterations
from benchmarks.controls import main
from benchmarks.step import compare_steps
from dhp_sr.config import load_options
from dhp_sr.models.compression import Compression
from dhp_sr.models.devices import Place
from dhp_sr.reports import controls_table, plot_controls


@pytest.mark.parametrize("step_ratio", [0.4, 0.9])
@pytest.mark.parametrize("method", ENTRIES)
@pytest.mark.parametrize("case", CASES.values())
def test_every_method_takes_the_same_time(case, method, step_ratio):
    phases = plan_iterations(case, ENTRIES[method], step_ratio=step_ratio)
    time = phases.dense + phases.search + phases.finetune * step_ratio
    assert time == pytest.approx(case.length, abs=1)
    assert (phases.search > 0) == (method in ("dhp", "hsn", "magnitude"))
    assert plan_iterations(case, ENTRIES[method]).search == phases.search


def test_a_narrow_network_trains_longer_from_scratch():
    case = Case("x.yml", 0.5, 1000, ())
    assert plan_iterations(case, ENTRIES["uniform"], step_ratio=0.8).total == 1250
    assert plan_iterations(case, ENTRIES["uniform"]).total == round(1000 / 0.75)


def test_finished_rows_are_kept_and_repeated_ones_come_out_alike(tmp_path, monkeypatch, noise_options, capsys):
    monkeypatch.setitem(CASES, "dncnn_50", Case(str(noise_options), 0.5, 24, ("tiny",)))
    measured, rates = [], []
    monkeypatch.setattr(
        benchmarks.controls, "compare_steps", lambda *given: measured.append(compare_steps(*given)) or 0.9
    )
    step = Compression.step
    monkeypatch.setattr(Compression, "step", lambda *given: rates.append(step(*given)["lr"]) or {})
    out = tmp_path / "controls.json"
    given = ["--cases", "dncnn_50", "--seeds", "1", "--set", "train.scheduler.type=cosine", "--out", str(out)]
    assert main([*given, "--methods", "dhp", "magnitude"]) == 0
    first = json.loads(out.read_text())["rows"]
    assert main([*given, "--methods", "magnitude", "--again"]) == 0
    again = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in again] == ["dhp", "magnitude"]
    assert again[1]["psnr_y_db"] == first[1]["psnr_y_db"]
    assert again[1]["widths"] == first[1]["widths"]
    assert len(measured) == 3 and min(measured) > 0  # the cut network in training can be copied, and stepped
    assert rates[-1] < 1e-5  # it falls to the end that was found, not to the one first guessed
    capsys.readouterr()
    assert main([*given, "--methods", "magnitude", "uniform"]) == 0
    assert "('dncnn_50', 'magnitude', 1, 1.0): kept" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 and rows[2]["iterations"] == {"dense": 0, "search": 0, "finetune": 27}
    assert "| dncnn_50 |" in controls_table(rows)
    plot_controls(tmp_path / "controls.png", rows)
    assert (tmp_path / "controls.png").stat().st_size > 5000


def test_what_a_step_takes_is_measured_on_copies(noise_options):
    batch = {"lq": torch.rand(2, 1, 24, 24), "gt": torch.rand(2, 1, 24, 24)}
    narrow, wide = (_plain(noise_options, width) for width in (8, 96))
    before = copy.deepcopy(narrow.network.state_dict())
    moments = copy.deepcopy(wide.optimiser.state_dict())
    assert compare_steps(narrow, wide, batch, rounds=5) < 1 < compare_steps(wide, narrow, batch, rounds=5)
    assert wide.optimiser.state_dict() == moments
    assert all(torch.equal(value, before[key]) for key, value in narrow.network.state_dict().items())


def _plain(option_file, width):
    options = load_options(option_file, ["compress=null", f"network_g.num_feat={width}"])
    return Compression(options, Place(torch.device("cpu")), Path("dense.safetensors"))
