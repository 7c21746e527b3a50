"""Interleaved timing: which passes are timed, and in which order."""

import torch

from dhp_sr.utils.timing import relative_speeds, time_interleaved

CPU = torch.device("cpu")


class CountingClock:
    """A clock that stands still but for the passes of the calls it is given to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.seconds

    def call(self, name: str, first_s: float, then_s: float) -> None:
        """Take longer when another call came before."""
        is_repeated = self.order[-1:] == [name]
        self.order.append(name)
        self.seconds += then_s if is_repeated else first_s


def test_each_call_runs_once_per_round_after_untimed_rounds() -> None:
    clock = CountingClock()
    calls = {"a": lambda: clock.call("a", 2, 1), "b": lambda: clock.call("b", 4, 3)}
    times = time_interleaved(calls, CPU, 3, warm_up=1, clock=clock)
    assert clock.order == ["a", "b"] * 4
    assert times == {"a": [2000, 2000, 2000], "b": [4000, 4000, 4000]}


def test_lead_in_leaves_out_what_the_calls_before_cost() -> None:
    clock = CountingClock()
    calls = {"a": lambda: clock.call("a", 2, 1), "b": lambda: clock.call("b", 4, 3)}
    times = time_interleaved(calls, CPU, 2, warm_up=0, lead_in=2, clock=clock)
    assert clock.order == ["a", "a", "a", "b", "b", "b"] * 2
    assert times == {"a": [1000, 1000], "b": [3000, 3000]}


def test_speeds_are_compared_within_rounds():
    # From the third round on the machine is three times as slow, and for a single call in between.
    times = {"a": [1.0, 1.0, 3.0, 3.0, 3.0], "b": [0.5, 0.5, 1.5, 9.0, 1.5]}
    assert relative_speeds(times, "a") == {"a": 1.0, "b": 2.0}
