import math

import pytest

from dhp_sr.config.compress import Scheduler
from dhp_sr.training.schedule import Schedule, learning_rate
from dhp_sr.utils.errors import UserError

COSINE = Scheduler(type="cosine", eta_min=0.2)
STEPS = Scheduler(type="multistep", milestones=[3, 5], gamma=0.1)
CONSTANT = Scheduler(type="constant")


def schedule(**changes) -> Schedule:
    given = {
        "total_iter": 20,
        "dense_iter": 5,
        "search_iter": 5,
        "searches": True,
        "base_lr": 1.0,
        "late": CONSTANT,
    }
    return Schedule(**{**given, **changes})


def test_phases_follow_each_other():
    names = [schedule().phase(iteration) for iteration in range(21)]
    assert names == ["dense"] * 5 + ["search"] * 5 + ["finetune"] * 11


def test_a_run_without_search_is_dense():
    plain = schedule(dense_iter=20, search_iter=0, searches=False)
    assert {plain.phase(iteration) for iteration in range(21)} == {"dense"}


def test_a_run_may_begin_with_the_cut():
    assert schedule(dense_iter=0, search_iter=0).phase(0) == "finetune"


def test_cosine_is_pytorchs():
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.2)
    for step in range(20):
        assert learning_rate(COSINE, 1.0, step, 20) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-6
        )
        optimizer.step()
        reference.step()


def test_multistep_falls_at_the_milestones():
    rates = [learning_rate(STEPS, 2.0, step, 20) for step in range(7)]
    assert rates == pytest.approx([2, 2, 2, 0.2, 0.2, 0.02, 0.02])


def test_constant():
    assert learning_rate(CONSTANT, 0.3, 17, 20) == 0.3


def test_one_scheduler_spans_the_run():
    spanning = schedule(late=COSINE)
    assert spanning.learning_rate(10) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 2)) / 2)


def test_own_scheduler_before_the_cut_then_the_other_from_the_cut():
    split = schedule(early=STEPS, late=COSINE)
    assert split.learning_rate(4) == pytest.approx(0.1)
    assert split.learning_rate(10) == 1.0
    assert split.learning_rate(15) == pytest.approx(0.6)


def test_warm_up_at_the_start():
    warm = schedule(warmup_iter=4)
    assert [warm.learning_rate(iteration) for iteration in (0, 2, 9, 10, 13)] == [
        0.25,
        0.75,
        1.0,
        1.0,
        1.0,
    ]


def test_warm_up_again_where_the_optimizer_is_fresh():
    warm = schedule(warmup_iter=4, warms_again=True)
    assert [warm.learning_rate(iteration) for iteration in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [warm.learning_rate(iteration) for iteration in (9, 10, 13)] == [1.0, 0.25, 1.0]


def test_phases_longer_than_the_run(make_options):
    with pytest.raises(
        UserError, match=r"dense_iter \(=4\) \+ compress.search_iter \(=40\).*lengthen"
    ):
        Schedule.from_options(make_options(compress={"search_iter": 40}))


@pytest.mark.parametrize(
    ("compress", "again"),
    [
        ({}, False),
        ({"parametrization": "full", "preset": "paper"}, True),
        ({"scheduler": {"type": "constant"}}, True),
    ],
)
def test_moments_of_other_weights_cannot_be_carried(make_options, compress, again):
    assert Schedule.from_options(make_options(compress=compress or None)).warms_again == again
