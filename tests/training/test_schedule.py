import itertools
import math

import pytest
import torch

from dhp_sr.config.section import Scheduler
from dhp_sr.training.schedule import PhaseSpan, Schedule, learning_rate
from dhp_sr.utils.errors import UserError

COSINE = Scheduler(type="cosine", eta_min=0.2)
STEPS = Scheduler(type="multistep", milestones=[3, 5], gamma=0.1)
CONSTANT = Scheduler(type="constant")


def schedule(**changes) -> Schedule:
    given = {
        "total_iter": 20,
        "dense_iter": 5,
        "search_iter": 5,
        "has_search": True,
        "base_lr": 1.0,
        "scheduler": CONSTANT,
    }
    return Schedule(**{**given, **changes})


def rates(of, iterations):
    return [of.learning_rate(iteration) for iteration in iterations]


def test_phases_follow_each_other():
    names = [schedule().phase(iteration) for iteration in range(21)]
    assert names == ["dense"] * 5 + ["search"] * 5 + ["finetune"] * 11


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_targets": 3}, {"dense_iter": 0}, {"has_search": False, "dense_iter": 20}],
)
def test_spans_cover_the_run_and_agree_with_the_phases(changes):
    run = schedule(**changes)
    spans = run.spans
    assert spans[0].start == 0 and spans[-1].end == run.end
    for earlier, later in itertools.pairwise(spans):
        assert earlier.end == later.start
    for span in spans:
        for iteration in range(span.start, span.end):
            assert run.phase(iteration) == span.name
            assert run.target_index(iteration) == span.target


def test_a_run_without_search_is_dense():
    dense = schedule(dense_iter=20, search_iter=0, has_search=False)
    assert dense.spans == (PhaseSpan("dense", 0, 20),)
    assert {dense.phase(iteration) for iteration in range(21)} == {"dense"}


def test_a_run_may_begin_with_pruning():
    assert schedule(dense_iter=0, search_iter=0).phase(0) == "finetune"


def test_cosine_is_pytorchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.2)
    for step in range(20):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(COSINE, 1.0, step, 20) == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        reference.step()


def test_multistep_falls_at_the_milestones():
    found = [learning_rate(STEPS, 2.0, step, 20) for step in range(7)]
    assert found == pytest.approx([2, 2, 2, 0.2, 0.2, 0.02, 0.02])


def test_constant():
    assert learning_rate(CONSTANT, 0.3, 17, 20) == 0.3


def test_one_scheduler_spans_the_run():
    expected = 0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2
    assert schedule(scheduler=COSINE).learning_rate(10) == pytest.approx(expected)


def test_a_scheduler_of_its_own_before_pruning():
    split = schedule(search_scheduler=STEPS, scheduler=COSINE)
    assert rates(split, (4, 10, 15)) == pytest.approx([0.1, 1.0, 0.6])


def test_warm_up_at_the_start():
    warm = schedule(warmup_iter=4)
    assert rates(warm, (0, 2, 9, 10, 13)) == [0.25, 0.75, 1.0, 1.0, 1.0]


def test_warm_up_again_where_finetuning_starts_cold():
    warm = schedule(warmup_iter=4, rewarm=True)
    assert rates(warm, range(5)) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates(warm, (9, 10, 13)) == [1.0, 0.25, 1.0]


def test_phases_longer_than_the_run(make_options):
    with pytest.raises(UserError, match=r"dense_iter \(=4\).*search_iter \(=40\).*=12"):
        Schedule.from_options(make_options(compress={"search_iter": 40}))


@pytest.mark.parametrize(
    ("compress", "rewarm"),
    [
        (None, False),
        ({"parametrization": "full", "preset": "paper"}, True),
        ({"scheduler": {"type": "constant"}}, True),
    ],
)
def test_when_the_warm_up_is_repeated(make_options, compress, rewarm):
    assert Schedule.from_options(make_options(compress=compress)).rewarm == rewarm


@pytest.mark.parametrize("extra", [{}, {"scheduler": {"type": "cosine"}}])
def test_every_target_has_the_rates_of_a_single_run(make_options, extra):
    train = {"warmup_iter": 2}
    single = Schedule.from_options(make_options(compress=extra or None, train=train))
    targets = [{"macs": ratio} for ratio in (0.6, 0.4, 0.2)]
    several = Schedule.from_options(
        make_options(compress={"target": targets, **extra}, train=train)
    )
    assert (single.end, single.milestones) == (12, (12,))
    assert (several.end, several.milestones) == (20, (12, 16, 20))
    expected = rates(single, range(12))
    assert rates(several, range(20)) == [*expected, *expected[8:], *expected[8:]]
    assert [several.target_index(step) for step in range(7, 21)] == [0] * 5 + [1] * 4 + [2] * 5
    assert several.phase(20) == "finetune"
