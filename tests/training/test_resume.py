"""A resumed run ends exactly as one that was never interrupted."""

import os

import pytest
import torch
from runs import Killed, final_state, kill_before, run
from safetensors.torch import load_file

from dhp_sr.training.driver import Interrupted, train
from dhp_sr.utils.errors import UserError


def assert_same_run(left, right) -> None:
    for name in ("curves.csv", "validation.csv", "latents.csv", "widths.json", "widths.txt"):
        assert (left / name).read_text() == (right / name).read_text(), name
    for name in ("dense", "pruned", "best"):
        mine, other = (
            load_file(folder / "models" / f"{name}.safetensors") for folder in (left, right)
        )
        assert mine.keys() == other.keys() and all(
            torch.equal(mine[key], other[key]) for key in mine
        ), name
    (mine, plain), (other, other_plain) = (final_state(folder) for folder in (left, right))
    assert plain == other_plain
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


DNCNN = {"type": "HyperDnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4}
EDSR = {"type": "HyperEDSR", "num_feat": 8, "num_block": 1, "upscale": 2}


@pytest.fixture
def root(tmp_path):
    return tmp_path


CASES = {
    "EDSR": {"compress": {"distill": {"weight": 0.5, "mix": 0.5}}},
    "DnCNN": {"network": DNCNN},
    "paper": {"compress": {"preset": "paper", "parametrization": "full", "dhp": {"penalty": 0.1}}},
    "hsn": {"network": DNCNN, "compress": {"method": "hsn"}},
    "bf16": {
        "train": {"amp": "bf16", "channels_last": True, "optim_g": {"type": "Muon", "lr": 1e-3}}
    },
    "random": {"compress": {"method": "random"}, "train": {"optim_g": {"type": "SGD", "lr": 1e-3}}},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_in_every_phase(make_options, root, monkeypatch, case):
    options = make_options(name="whole", **CASES[case])
    whole = run(options, root)
    again = options.model_copy(update={"name": "killed"})
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    # Resumed from: nothing, dense, the search's first and a later iteration, the cut, finetuning.
    for iteration in (2, 4, 5, 8, 9, 12):
        with monkeypatch.context() as patch:
            kill_before(patch, iteration)
            with pytest.raises(Killed):
                run(again, root, auto_resume=True)
        os.chdir(elsewhere)
    resumed = run(again, root, auto_resume=True)
    experiments = root / "experiments"
    assert_same_run(experiments / "whole", experiments / "killed")
    assert [row["sets"] for row in whole["rows"]] == [row["sets"] for row in resumed["rows"]]
    log = (experiments / "killed" / "train.log").read_text()
    assert [log.count(f" {done}/12 ") for done in (2, 4, 6, 8, 10, 12)] == [1] * 6


@pytest.fixture(autouse=True)
def _come_back():
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.mark.parametrize("method", ["dhp", "hsn", "prior_widths", "magnitude", "random", "uniform"])
def test_the_search_goes_on_where_it_was(make_options, root, method):
    """Interrupted or not, the state inside the search is the same to the last bit."""
    options = make_options(
        compress={"method": method, "dense_iter": 2, "search_iter": 9}, name="whole"
    )
    again = options.model_copy(update={"name": "stopped"})
    for one, stops in ((options, (9,)), (again, (7, 9))):
        before = 0
        for stop in stops:
            asked = iter([False] * (stop - before - 1) + [True])
            with pytest.raises(Interrupted):
                run(one, root, auto_resume=True, stop=lambda asked=asked: next(asked))
            before = stop
    (mine, plain), (other, other_plain) = (
        final_state(root / "experiments" / name, 9) for name in ("whole", "stopped")
    )
    assert plain == other_plain
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def test_a_request_to_stop_saves_the_state(make_options, root):
    options = make_options()
    asked = iter([False] * 6 + [True])
    with pytest.raises(Interrupted, match="stopped after iteration 7 of 12"):
        run(options, root, stop=lambda: next(asked))
    assert (root / "experiments" / "tiny" / "training_states" / "7.state").exists()


def contents(folder):
    """Name -> bytes of every file, and when it was written."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_stays_as_it_is(make_options, root, capsys):
    options, folder = make_options(), root / "experiments" / "tiny"
    first = run(options, root)
    before = contents(folder)
    assert run(options, root, auto_resume=True) == first
    assert contents(folder) == before
    assert "tiny is finished, nothing was changed" in capsys.readouterr().err


def test_a_run_killed_before_its_page_gets_it(make_options, root):
    options, folder = make_options(), root / "experiments" / "tiny"
    run(options, root)
    before = contents(folder)
    (folder / "report.html").unlink()
    run(options, root, auto_resume=True)
    after = contents(folder)
    assert after[folder / "metrics.json"] == before[folder / "metrics.json"]
    assert after[folder / "report.html"][0] == before[folder / "report.html"][0]


def test_a_run_without_results_is_scored_again(make_options, root):
    options, folder = make_options(), root / "experiments" / "tiny"
    first = run(options, root)
    (folder / "metrics.json").unlink()
    second = run(options, root, auto_resume=True)
    assert [row["sets"] for row in first["rows"]] == [row["sets"] for row in second["rows"]]
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: expected the results .* remove it"):
        run(options, root, auto_resume=True)


def test_an_earlier_run_is_renamed_not_overwritten(make_options, root):
    options = make_options(compress={}, train={"total_iter": 1})
    run(options, root)
    (root / "experiments" / "tiny" / "mine.txt").write_text("keep")
    run(options, root)
    assert not (root / "experiments" / "tiny" / "mine.txt").exists()
    (earlier,) = (root / "experiments").glob("tiny_archived_*")
    assert (earlier / "mine.txt").read_text() == "keep"
    said = f"an earlier run of this name was renamed to {earlier.name}\n"
    assert said in (root / "experiments" / "tiny" / "train.log").read_text()
    assert "an earlier run" not in (earlier / "train.log").read_text()


def test_a_state_of_other_options(make_options, root):
    run(make_options(), root)
    other = make_options(network={**EDSR, "num_feat": 12}, manual_seed=6)
    with pytest.raises(
        UserError, match=r"(?s)manual_seed: the state has 5.*num_feat: the state has 8, .* 12"
    ):
        run(other, root, auto_resume=True)


def test_a_broken_state_is_named_and_the_one_before_it_taken(make_options, root):
    options, folder = make_options(), root / "experiments" / "tiny" / "training_states"
    straight = run(options, root)
    (folder / "13.state").write_bytes(b"\x80\x04pickle")
    (folder / "14.state").mkdir()
    with pytest.warns(UserWarning, match=r"13\.state: expected a training state .* going back"):
        again = run(options, root, auto_resume=True)
    assert [row["sets"] for row in again["rows"]] == [row["sets"] for row in straight["rows"]]


def test_no_state_that_can_be_read(make_options, root):
    options = make_options(compress={}, train={"total_iter": 1})
    run(options, root)
    (root / "experiments" / "tiny" / "training_states" / "1.state").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"1\.state: expected .* no older state is left: start again"
    ):
        run(options, root, auto_resume=True)


def test_a_run_without_states_is_renamed_not_resumed(make_options, root):
    options = make_options(compress={}, train={"total_iter": 1})
    run(options, root)
    (root / "experiments" / "tiny" / "training_states" / "1.state").unlink()
    run(options, root, auto_resume=True)
    (kept,) = (root / "experiments").glob("tiny_archived_*")
    assert (kept / "models" / "dense.safetensors").exists()


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_lost_dense_network_shows_at_once(make_options, root, content):
    options = make_options()
    run(options, root)
    dense = root / "experiments" / "tiny" / "models" / "dense.safetensors"
    dense.unlink() if content is None else dense.write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)dense\.safetensors: .*put it back, or start again"):
        run(options, root, auto_resume=True)


def test_a_table_that_somebody_changed(make_options, root):
    options = make_options(compress={}, train={"total_iter": 1})
    run(options, root)
    (root / "experiments" / "tiny" / "metrics.json").unlink()
    (root / "experiments" / "tiny" / "curves.csv").write_text("iteration\nmine,1\n")
    with pytest.raises(
        UserError, match=r"curves\.csv: expected rows that begin with the iteration, found 'mine,1"
    ):
        run(options, root, auto_resume=True)


def test_the_precision_is_decided_once_and_kept(make_options, tmp_path, monkeypatch):
    options = make_options()
    assert options.train.amp == "auto"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : avx512_bf16\n")
    monkeypatch.setattr("dhp_sr.utils.devices.CPUINFO", cpuinfo)
    stop = iter([False, False, True]).__next__
    with pytest.raises(Interrupted):
        train(options, root=tmp_path, stop=stop)
    stored = next(tmp_path.rglob("options.yml")).read_text()
    assert "amp: bf16" in stored
    cpuinfo.write_text("flags : none of them\n")  # resumed on a slower machine
    assert train(options, root=tmp_path, auto_resume=True)
    assert next(tmp_path.rglob("options.yml")).read_text() == stored
