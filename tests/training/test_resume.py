"""A resumed run ends exactly as one that was never interrupted."""

import errno
import os

import pytest
from runs import assert_same_run, assert_same_state, run, run_with_kills
from slow_rows import rows
from tiny_runs import DNCNN, EDSR, tiny_options

from dhp_sr.config import load_options
from dhp_sr.training import driver, run_folder
from dhp_sr.training.loop import Interrupted
from dhp_sr.utils.errors import UserError

PAPER = {"preset": "paper", "parametrization": "full", "dhp": {"penalty": 0.1}}
MUON_BF16 = {"amp": "bf16", "channels_last": True, "optim_g": {"type": "Muon", "lr": 1e-3}}
CASES = {
    "EDSR": {"compress": {"distill": {"weight": 0.5, "mix": 0.5}}},
    "DnCNN": {"network": DNCNN},
    "paper": {"compress": PAPER},
    "hsn": {"network": DNCNN, "compress": {"method": "hsn"}},
    "bf16": {"train": MUON_BF16},
    "random": {"compress": {"method": "random"}, "train": {"optim_g": {"type": "SGD", "lr": 1e-3}}},
}
EVERYWHERE = (2, 4, 5, 8, 9, 12)
"""Steps before which a run dies: it is resumed from nothing, dense, the search's first and a later
iteration, pruning, finetuning."""
LATER = (6, 9, 12)
"""Inside the search, at the cut, and in finetuning: where the other cases differ from EDSR."""


@pytest.fixture(autouse=True)
def _restore_working_directory():
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.mark.parametrize("case", rows(CASES, ["EDSR", "hsn", "bf16"]))
def test_killed_in_every_phase(make_options, tmp_path, monkeypatch, case):
    options = make_options(name="whole", **CASES[case])
    whole = run(options, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    killed = run_with_kills(
        options.model_copy(update={"name": "killed"}),
        tmp_path,
        monkeypatch,
        EVERYWHERE if case == "EDSR" else LATER,
    )
    experiments = tmp_path / "experiments"
    assert_same_run(experiments / "whole", experiments / "killed")
    assert [row["sets"] for row in whole["rows"]] == [row["sets"] for row in killed["rows"]]
    log = (experiments / "killed" / "train.log").read_text()
    assert [log.count(f" {step}/12 ") for step in (2, 4, 6, 8, 10, 12)] == [1] * 6


def stop_after(options, root, step, before=0):
    """Stop a run after a step, counted from 1, having resumed it at another."""
    answers = iter([False] * (step - before - 1) + [True])
    with pytest.raises(Interrupted, match=f"{step} of "):
        run(options, root, auto_resume=True, stop=lambda: next(answers))


@pytest.mark.parametrize("method", ["dhp", "hsn", "prior_widths", "magnitude", "random", "uniform"])
def test_the_search_goes_on_where_it_was(make_options, tmp_path, method):
    """Interrupted or not, the state inside the search is the same to the last bit."""
    compress = {"method": method, "dense_iter": 2, "search_iter": 9}
    options = make_options(compress=compress, name="whole")
    stop_after(options, tmp_path, 9)
    again = options.model_copy(update={"name": "stopped"})
    stop_after(again, tmp_path, 7)
    stop_after(again, tmp_path, 9, before=7)
    experiments = tmp_path / "experiments"
    assert_same_state(experiments / "whole", experiments / "stopped", 9)


def test_a_resumed_run_keeps_its_precision(make_options, tmp_path, monkeypatch):
    """Resumed where `auto` would decide otherwise, a run goes on in the precision it began with."""
    monkeypatch.setattr("dhp_sr.utils.devices.has_fast_bf16", lambda device: True)
    options = make_options(train={"total_iter": 4}, compress={})
    stop_after(options, tmp_path, 2)
    monkeypatch.setattr("dhp_sr.utils.devices.has_fast_bf16", lambda device: False)
    run(options, tmp_path, auto_resume=True)
    stored = load_options(tmp_path / "experiments" / "tiny" / "options.yml")
    assert stored.train.amp == "bf16"


def contents(folder):
    """Path -> bytes of every file, and when it was written."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished_files(image_folder, tmp_path_factory):
    """Root of a finished run, its options and results; tests restore what they change."""
    root = tmp_path_factory.mktemp("finished")
    options = tiny_options(image_folder, root)
    return root, options, run(options, root, pages=True)


@pytest.fixture
def finished(finished_files):
    root, options, metrics = finished_files
    folder = root / "experiments" / "tiny"
    before = contents(folder)
    yield root, options, metrics, folder
    for path in set(contents(folder)) - set(before):
        path.unlink()
    for path, (data, written) in before.items():
        path.write_bytes(data)
        os.utime(path, ns=(written, written))


def sets_of(metrics):
    return [row["sets"] for row in metrics["rows"]]


def test_a_finished_run_is_left_unchanged(finished, capsys):
    root, options, metrics, folder = finished
    before = contents(folder)
    assert run(options, root, auto_resume=True) == metrics
    assert contents(folder) == before
    assert "tiny is finished" in capsys.readouterr().err


def test_a_run_killed_before_its_page_gets_it(finished):
    root, options, _, folder = finished
    before = contents(folder)
    (folder / "report.html").unlink()
    run(options, root, auto_resume=True, pages=True)
    after = contents(folder)
    assert after[folder / "metrics.json"] == before[folder / "metrics.json"]
    assert after[folder / "report.html"][0] == before[folder / "report.html"][0]


def test_a_finished_run_in_a_read_only_folder_is_left_unchanged(finished, monkeypatch):
    """Copies do not always keep the times of files, so its page may seem to be older."""
    root, options, metrics, folder = finished
    os.utime(folder / "report.html", (0, 0))
    before = contents(folder)

    def refuse(*arguments, **settings):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(run_folder.RunLock, "acquire", refuse)
    monkeypatch.setattr(driver, "write_pages", refuse)
    assert driver.train(options, root=root, auto_resume=True) == metrics
    assert contents(folder) == before


def test_a_run_without_results_is_scored_again(finished):
    root, options, metrics, folder = finished
    (folder / "metrics.json").unlink()
    assert sets_of(run(options, root, auto_resume=True)) == sets_of(metrics)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        run(options, root, auto_resume=True)


def test_a_state_of_other_options_names_them(finished, make_options):
    root, options, _, _ = finished
    network = options.network_g.model_validate({**EDSR, "num_feat": 12})
    other = options.model_copy(update={"network_g": network, "manual_seed": 6})
    with pytest.raises(UserError, match=r"(?s)manual_seed: .*5.*6.*num_feat: .*8.*12"):
        run(other, root, auto_resume=True)


def test_a_broken_state_is_named_and_the_one_before_it_taken(finished):
    root, options, metrics, folder = finished
    (folder / "training_states" / "13.state").write_bytes(b"\x80\x04pickle")
    (folder / "training_states" / "14.state").mkdir()
    with pytest.warns(UserWarning, match=r"13\.state"):
        assert sets_of(run(options, root, auto_resume=True)) == sets_of(metrics)
    (folder / "training_states" / "14.state").rmdir()


@pytest.mark.parametrize("position", [0.3, 0.9])
def test_a_flipped_bit_in_the_newest_state_costs_the_steps_since_the_one_before(finished, position):
    root, options, metrics, folder = finished
    newest = folder / "training_states" / "12.state"
    content = bytearray(newest.read_bytes())
    content[int(position * len(content))] ^= 4
    newest.write_bytes(content)
    (folder / "metrics.json").unlink()
    with pytest.warns(UserWarning, match=r"12\.state.*state before it"):
        assert sets_of(run(options, root, auto_resume=True)) == sets_of(metrics)


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_lost_dense_network_shows_at_once(finished, content):
    root, options, _, folder = finished
    dense = folder / "models" / "dense.safetensors"
    dense.unlink()
    if content is not None:
        dense.write_bytes(content)
    with pytest.raises(UserError, match=r"dense\.safetensors"):
        run(options, root, auto_resume=True)


def test_an_earlier_run_is_renamed_not_overwritten(make_options, tmp_path):
    options = make_options(compress={}, train={"total_iter": 1})
    folder = tmp_path / "experiments" / "tiny"
    run(options, tmp_path)
    (folder / "mine.txt").write_text("keep")
    run(options, tmp_path)
    assert not (folder / "mine.txt").exists()
    (archived,) = folder.parent.glob("tiny_archived_*")
    assert (archived / "mine.txt").read_text() == "keep"
    assert archived.name in (folder / "train.log").read_text()
    assert archived.name not in (archived / "train.log").read_text()

    # Without a state there is nothing to resume: --auto_resume renames as well.
    (folder / "training_states" / "1.state").unlink()
    run(options, tmp_path, auto_resume=True)
    assert len(list(folder.parent.glob("tiny_archived_*"))) == 2


def test_states_and_tables_that_cannot_be_read(make_options, tmp_path):
    options = make_options(compress={}, train={"total_iter": 1})
    folder = tmp_path / "experiments" / "tiny"
    run(options, tmp_path)
    (folder / "metrics.json").unlink()
    (folder / "curves.csv").write_text("iteration\nmine,1\n")
    with pytest.raises(UserError, match=r"curves\.csv.*mine,1"):
        run(options, tmp_path, auto_resume=True)
    (folder / "curves.csv").write_bytes(b"iteration\n\xff1,1\n")
    with pytest.raises(UserError, match=r"curves\.csv: expected a table"):
        run(options, tmp_path, auto_resume=True)
    (folder / "curves.csv").unlink()
    automatic = make_options(compress={}, train={"total_iter": 1, "amp": "auto"})
    for damaged in (b"", b"[1]", b"train: {amp: 3}\n", b"\xff\xfe"):
        (folder / "options.yml").write_bytes(damaged)
        with pytest.raises(UserError, match=r"options\.yml"):
            run(automatic, tmp_path, auto_resume=True)
    (folder / "options.yml").unlink()
    (folder / "training_states" / "1.state").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.state.*--auto_resume"):
        run(options, tmp_path, auto_resume=True)
