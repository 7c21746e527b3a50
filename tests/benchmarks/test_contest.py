"""The methods on equal terms: who trains how long, and the contest itself in its smallest size."""

import json
from pathlib import Path

import pytest
import torch

import benchmarks.controls
from benchmarks.contest import CASES, FROM_NOTHING, FROM_TRAINED, Case, entry_of, plan_iterations
from benchmarks.controls import LOOKS, main
from benchmarks.published import SHRINKING, published
from benchmarks.step import compare_steps
from dhp_sr.config import load_options
from dhp_sr.reports import controls_table, plot_controls
from dhp_sr.training.compression import Compression
from dhp_sr.training.distributed import Place
from dhp_sr.training.losses import Objective
from dhp_sr.utils.errors import UserError


@pytest.mark.parametrize("search_ratio, step_ratio", [(1.0, 0.4), (1.4, 0.9)])
@pytest.mark.parametrize(
    "case, method",
    [
        (case, method)
        for case in CASES.values()
        for method in (FROM_TRAINED if case.trained else FROM_NOTHING)
    ],
)
def test_every_method_takes_the_same_time(case, method, search_ratio, step_ratio):
    entry = entry_of(case, method)
    phases = plan_iterations(case, entry, search_ratio=search_ratio, step_ratio=step_ratio)
    time = phases.dense + phases.search * search_ratio + phases.finetune * step_ratio
    assert time == pytest.approx(case.length, abs=1)
    assert entry.method == method.partition("_")[0]
    searches = entry.method in ("dhp", "hsn")
    assert (phases.search > 0) == (searches or (method == "magnitude" and not case.trained))
    assert plan_iterations(case, entry).search == phases.search


def test_what_is_trained_already_is_not_trained_again_before_the_cut():
    assert FROM_TRAINED.keys() == FROM_NOTHING.keys() - {"dhp_faithful"}
    with pytest.raises(UserError, match="dhp_faithful draws its own weights"):
        entry_of(CASES["dncnn_published_50"], "dhp_faithful")
    assert {method for method, entry in FROM_TRAINED.items() if entry.dense} == {"dense"}


def test_a_narrow_network_trains_longer_from_scratch():
    case = Case("x.yml", 0.5, 1000, ())
    assert plan_iterations(case, FROM_NOTHING["uniform"], step_ratio=0.8).total == 1250
    assert plan_iterations(case, FROM_NOTHING["uniform"]).total == round(1000 / 0.75)


def test_finished_rows_are_kept_and_repeated_ones_come_out_alike(
    tmp_path, monkeypatch, noise_options, capsys
):
    monkeypatch.setitem(CASES, "dncnn_50", Case(str(noise_options), 0.5, 24, ("tiny",)))
    measured, rates = [], []
    monkeypatch.setattr(
        benchmarks.controls,
        "compare_steps",
        lambda *given: measured.append(compare_steps(*given)) or 0.9,
    )
    step = Compression.step
    monkeypatch.setattr(Compression, "step", lambda *given: rates.append(step(*given)["lr"]) or {})
    out = tmp_path / "controls.json"
    given = [
        "--cases",
        "dncnn_50",
        "--seeds",
        "1",
        "--set",
        "train.scheduler.type=cosine",
        "--out",
        str(out),
    ]
    assert main([*given, "--methods", "dhp", "magnitude"]) == 0
    first = json.loads(out.read_text())["rows"]
    assert main([*given, "--methods", "magnitude", "--again"]) == 0
    again = json.loads(out.read_text())["rows"]
    assert [row["method"] for row in again] == ["dhp", "magnitude"]
    assert again[1]["psnr_y_db"] == first[1]["psnr_y_db"]
    assert again[1]["widths"] == first[1]["widths"]
    assert (
        len(measured) == 3 * (1 + LOOKS) and min(measured) > 0
    )  # networks in search and after the cut can be stepped
    assert rates[-1] < 1e-5  # it falls to the end that was found, not to the one first guessed
    capsys.readouterr()
    other = [*given, "--methods", "magnitude", "--set", "train.scheduler.type=constant"]
    assert main(other) != 0 and "train.scheduler.type=cosine" in capsys.readouterr().err
    assert main([*given, "--methods", "magnitude", "uniform"]) == 0
    assert "('dncnn_50', 'magnitude', 1, 1.0): kept" in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 and rows[2]["iterations"] == {"dense": 0, "search": 0, "finetune": 27}
    assert "| dncnn_50 |" in controls_table(rows)
    plot_controls(tmp_path / "controls.png", rows)
    assert (tmp_path / "controls.png").stat().st_size > 5000


@pytest.mark.parametrize("method", ["dhp", "hsn", "magnitude", "uniform"])
def test_trained_weights_are_cut_and_teach(tmp_path, monkeypatch, noise_options, method):
    dense = _plain(noise_options, 8).network
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    monkeypatch.setitem(
        CASES, "dncnn_published_50", Case(str(noise_options), 0.5, 24, ("tiny",), trained=True)
    )
    teachers = []
    meet = Objective.meet_teacher
    monkeypatch.setattr(
        Objective, "meet_teacher", lambda own, file: meet(own, file) or teachers.append(own.teacher)
    )
    given = [
        "--cases",
        "dncnn_published_50",
        "--methods",
        method,
        "--seeds",
        "0",
        "--out",
        str(tmp_path / "out.json"),
    ]
    changes = [f"path.pretrain_network_g={tmp_path / 'dense.pth'}", "compress.distill.weight=1"]
    assert main([*given, "--set", *changes]) == 0
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["iterations"]["dense"] == 0 and (row["iterations"]["search"] > 0) == (
        method in ("dhp", "hsn")
    )
    assert all(
        torch.equal(value, teachers[-1].state_dict()[key])
        for key, value in dense.state_dict().items()
    )


def test_the_published_search_shrinks_in_the_time_it_has(tmp_path, monkeypatch, noise_options):
    monkeypatch.setitem(CASES, "dncnn_50", Case(str(noise_options), 0.5, 120, ("tiny",)))
    given = [
        "--cases",
        "dncnn_50",
        "--methods",
        "dhp_faithful",
        "--seeds",
        "0",
        "--out",
        str(tmp_path / "out.json"),
    ]
    assert main(given) == 0
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["iterations"]["dense"] == 0 and row["iterations"]["search"] == 36
    assert 0.4 < row["macs_ratio"] <= 0.5
    shrunk = [published(length) for length in (10, 1000)]
    moved = [
        one["compress.penalty"] * one["compress.latent_lr"] * one["compress.search_iter"]
        for one in shrunk
    ]
    assert moved == pytest.approx([SHRINKING] * 2)


@pytest.mark.parametrize("method", ["dhp", "uniform"])
def test_measuring_changes_nothing_of_the_training(monkeypatch, noise_options, method):
    case, place = Case(str(noise_options), 0.5, 24, ("tiny",)), Place(torch.device("cpu"))

    def score(compare):
        monkeypatch.setattr(
            benchmarks.controls, "compare_steps", lambda *given: compare(*given) and 0.9
        )
        return benchmarks.controls.train(case, method, 0, 1.0, [], place)["psnr_y_db"]

    assert score(compare_steps) == score(lambda *_: 0.9)


def test_steps_of_widths_are_those_of_the_file_but_for_even_ones_and_where_said(noise_options):
    case = Case(str(noise_options), 0.5, 24, ("tiny",))

    def round_to(method, *changes):
        entry = entry_of(case, method)
        options = benchmarks.controls._options(
            case, entry, 0, plan_iterations(case, entry), changes
        )
        return options.compress.round_to

    own = load_options(noise_options).compress.round_to
    assert (
        own > 1
        and [round_to(method) for method in ("dhp", "random", "uniform_stepped")] == [own] * 3
    )
    assert round_to("uniform") == 1 and round_to("uniform", "compress.round_to=2") == 2


def test_the_length_follows_the_mean_of_all_measurements(monkeypatch, noise_options, capsys):
    monkeypatch.setattr(benchmarks.controls, "compare_steps", lambda *_: next(ratios))
    case, place = Case(str(noise_options), 0.5, 24, ("tiny",)), Place(torch.device("cpu"))
    ratios = iter([0.4, 0.8] * (LOOKS // 2))
    row = benchmarks.controls.train(case, "uniform", 0, 1.0, [], place)
    assert (
        row["iterations"]["finetune"] == 40
        and row["step_ratio"] == 0.6
        and next(ratios, None) is None
    )
    assert row["step_ratios"] == [0.4, 0.8] * (LOOKS // 2)
    ratios = iter([0.1] * (LOOKS - 1) + [100.0])  # more was done by then than there was time for
    row = benchmarks.controls.train(case, "uniform", 0, 1.0, [], place)
    assert "uniform 0 cut: measured times jump" in capsys.readouterr().err
    assert row["iterations"]["finetune"] == round(240 * (LOOKS - 1) / LOOKS)


def test_a_wider_network_takes_more_steps_of_a_narrower_one(noise_options):
    batch = {"lq": torch.rand(2, 1, 24, 24), "gt": torch.rand(2, 1, 24, 24)}
    narrow, wide = (_plain(noise_options, width) for width in (8, 96))
    assert (
        compare_steps(narrow, wide, batch, rounds=5)
        < 1
        < compare_steps(wide, narrow, batch, rounds=5)
    )


def test_measuring_a_step_leaves_the_random_numbers_alone(noise_options):
    narrow, options = _plain(noise_options, 8), load_options(noise_options, ["compress=null"])
    expected = torch.random.get_rng_state()
    assert benchmarks.controls._step_ratio(lambda: narrow, options) > 0
    assert torch.equal(torch.random.get_rng_state(), expected)


def _plain(option_file, width):
    options = load_options(option_file, ["compress=null", f"network_g.num_feat={width}"])
    return Compression(options, Place(torch.device("cpu")), Path("dense.safetensors"))
