"""The latents of a search, sampled while it runs."""

import itertools
import types
from itertools import pairwise

import pytest
from runs import run

from dhp_sr.config.section import Scheduler
from dhp_sr.reports.run import read_run
from dhp_sr.training import run_logger
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.run_logger import LATENT_SAMPLES, _open_events, is_latent_sample_due
from dhp_sr.training.schedule import Schedule


def schedule(dense, search, has_search=True):
    total = dense + search + 100
    return Schedule(total, dense, search, has_search, 1e-3, Scheduler(type="cosine"))


@pytest.mark.parametrize("length", [1, 7, 40, 41, 1000, 9999])
def test_samples_are_few_even_and_end_with_the_search(length):
    span = schedule(100, length)
    due = [step for step in range(length + 300) if is_latent_sample_due(span, step)]
    assert 0 < len(due) <= LATENT_SAMPLES + 1
    assert due[0] > 100 and due[-1] == 100 + length
    assert len({later - earlier for earlier, later in pairwise(due[:-1])}) <= 1


def test_without_a_search_there_are_none():
    dense = schedule(100, 0, has_search=False)
    assert not any(is_latent_sample_due(dense, step) for step in range(200))


@pytest.mark.parametrize("start", [0, 2])
def test_events_of_a_killed_run_do_not_show(tmp_path, start):
    """Not even those of a run that is resumed from the state of its start."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, value in ((1, 7.0), (start + 1, 9.0)):
        writer = _open_events(RunFolder(tmp_path), first - 1)
        for step in range(first, 6):
            writer.add_scalar("loss", value, step)
        writer.close()
        # Files are named after seconds, and read in the order of their names.
        for number, file in enumerate(sorted((tmp_path / "tb").glob("events*"))):
            file.rename(file.with_name(f"events.out.tfevents.{number}"))
    events = accumulators.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [7.0] * start + [9.0] * (5 - start)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_latents_end_where_the_cut_is(make_options, tmp_path, preset):
    form = {"parametrization": "full", "dhp": {"penalty": 0.1}} if preset == "paper" else {}
    compress = {"preset": preset, "search_iter": 20, **form}
    run(make_options(compress=compress, train={"total_iter": 25}), tmp_path)
    report = read_run(tmp_path / "experiments" / "tiny")
    groups = {group["name"]: group for group in report.widths["groups"] if group["prunable"]}
    assert {latents.group for latents in report.latents} == set(groups)
    for latents in report.latents:
        group = groups[latents.group]
        assert latents.iterations == tuple(range(5, 25))
        assert latents.values.shape == (group["before"], 20)
        assert (latents.values >= 0).all()
        if preset == "default":
            assert (latents.values[:, 0] == 1).all()
            assert (latents.values[:, -1] > 0).sum() == group["after"]


def test_baselines_of_fixed_widths_log_their_masks(make_options, tmp_path):
    run(make_options(compress={"method": "uniform"}), tmp_path)
    report = read_run(tmp_path / "experiments" / "tiny")
    after = {group["name"]: group["after"] for group in report.widths["groups"]}
    assert report.latents
    for latents in report.latents:
        assert set(latents.values.flat) <= {0.0, 1.0}
        assert (latents.values.sum(axis=0) == after[latents.group]).all()


def test_the_share_of_the_time_that_is_waited_for_data(make_options, tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(run_logger, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    run(make_options(train={"total_iter": 8}, logger={"print_freq": 4}), tmp_path)
    log = (tmp_path / "experiments" / "tiny" / "train.log").read_text()
    # A tick for each look at the clock: two around each of four batches, one at the row.
    assert log.count("(data 44.4% of the time)") == 2
