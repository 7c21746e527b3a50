"""models/latents.py: what a search leaves behind of its course."""

from itertools import pairwise

import pytest
from runs import run

from dhp_sr.reports.run import read_run
from dhp_sr.training.latent_log import SAMPLES, is_due
from dhp_sr.training.schedule import Schedule


def schedule(dense, search, searches=True):
    from dhp_sr.config.compress import Scheduler

    total = dense + search + 100
    return Schedule(total, dense, search, searches, 1e-3, Scheduler(type="cosine"))


@pytest.mark.parametrize("length", [1, 7, 40, 41, 1000, 9999])
def test_samples_are_few_even_and_end_with_the_search(length):
    due = [done for done in range(length + 300) if is_due(schedule(100, length), done)]
    assert 0 < len(due) <= SAMPLES + 1 and due[-1] == 100 + length and due[0] > 100
    assert len({later - earlier for earlier, later in pairwise(due[:-1])}) <= 1


def test_without_a_search_there_are_none():
    assert not any(is_due(schedule(100, 0, searches=False), done) for done in range(200))


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_latents_end_where_the_cut_is(make_options, tmp_path, preset):
    form = {"parametrization": "full", "dhp": {"penalty": 0.1}} if preset == "paper" else {}
    run(
        make_options(
            compress={"preset": preset, "search_iter": 20, **form}, train={"total_iter": 30}
        ),
        tmp_path,
    )
    found = read_run(tmp_path / "experiments" / "tiny")
    groups = {group["name"]: group for group in found.widths["groups"] if group["prunable"]}
    assert {latents.group for latents in found.latents} == set(groups)
    for latents in found.latents:
        group = groups[latents.group]
        assert latents.iterations == tuple(range(5, 25)) and latents.values.shape == (
            group["before"],
            20,
        )
        assert (latents.values >= 0).all()
        if preset == "default":
            assert (latents.values[:, -1] > 0).sum() == group["after"] and (
                latents.values[:, 0] == 1
            ).all()


def test_controls_of_fixed_widths_give_their_masks(make_options, tmp_path):
    run(make_options(compress={"method": "uniform"}), tmp_path)
    found = read_run(tmp_path / "experiments" / "tiny")
    after = {group["name"]: group["after"] for group in found.widths["groups"]}
    for latents in found.latents:
        assert set(latents.values.flat) <= {0.0, 1.0}
        assert (latents.values.sum(axis=0) == after[latents.group]).all()
