"""Who trains how long: the methods on equal terms, in processor time (on a graphics card, in time).

The unit is a training step of the dense network. A step of the search is measured against it when it begins, for a
teacher may take part in it, and a step of the cut network several times from the cut on: networks of equal
multiply-adds differ by up to a third, and what else the machine does moves that (docs/research). What a method does
not spend on dense training and search goes into finetuning.
"""

from dataclasses import dataclass

from dhp_sr.utils.errors import UserError


@dataclass(frozen=True)
class Case:
    """A network, its data and a budget."""

    option_file: str
    keep_ratio: float
    """Of the multiply-adds."""
    length: int
    """Time of a whole run, in iterations of the dense network."""
    test_sets: tuple[str, ...]
    """The mean over them is what counts."""
    trained: bool = False
    """Whether all methods start from trained weights, which the option file names, and cut these."""


CASES = {
    "edsr_50": Case("edsr_x4_cpu.yml", 0.5, 4500, ("Set14", "B100", "Urban100")),
    "edsr_30": Case("edsr_x4_cpu.yml", 0.3, 4500, ("Set14", "B100", "Urban100")),
    "dncnn_50": Case("dncnn_s25_cpu.yml", 0.5, 6000, ("BSD68",)),
    "dncnn_published_50": Case("dncnn_s25_published.yml", 0.5, 1000, ("BSD68",), trained=True),
}


@dataclass(frozen=True)
class Entry:
    """A method and how it spends its time."""

    method: str
    dense: float = 0.0
    """Fraction of the time for dense training before the search."""
    search: float = 0.0
    """Iterations of the search, as a fraction of those that the dense network could take in all the time."""
    round_to: int | None = None
    """Widths are multiples of this; None: of what the option file says."""
    preset: str = "default"
    """Of the method dhp."""


FROM_NOTHING = {
    "dense": Entry("dense", dense=1.0),
    "dhp": Entry("dhp", dense=0.03, search=0.04),
    "dhp_paper": Entry("dhp", search=0.3, preset="paper"),
    "hsn": Entry("hsn", dense=0.2, search=0.1),
    "magnitude": Entry("magnitude", dense=0.2, search=0.1),
    "uniform": Entry("uniform", round_to=1),
    "uniform_stepped": Entry("uniform"),
    "random": Entry("random"),
    "prior_widths": Entry("prior_widths"),
}
"""The controls of fixed widths train from scratch: even ones to the channel, even ones in the option file's steps,
widths drawn at random in them, and those that dhp makes for; magnitude prunes a network that it has trained for 0.3 of
the time, dense phase and search together, for it needs trained weights. dhp's shares were chosen after runs with 0.18
of the time before the cut, where steps were missing; those of magnitude, hsn and the published search (dhp_paper)
were not tried otherwise."""

FROM_TRAINED = {
    "dense": Entry("dense", dense=1.0),
    "dhp": Entry("dhp", search=0.3),
    "hsn": Entry("hsn", search=0.3),
    "magnitude": Entry("magnitude"),
    "uniform": Entry("uniform", round_to=1),
    "uniform_stepped": Entry("uniform"),
    "random": Entry("random"),
    "prior_widths": Entry("prior_widths"),
}
"""The controls cut at once: uniform and prior_widths the last channels of each group, magnitude the weakest, random any. dhp
has the 300 iterations of the option file; hsn's share was not tried otherwise."""


def entry_of(case: Case, method: str) -> Entry:
    """Return how a method spends its time in a case.

    Raises:
        UserError: the method cannot begin with trained weights.
    """
    if case.trained and method not in FROM_TRAINED:
        raise UserError(f"{method} draws its own weights; expected a case that begins from nothing")
    return (FROM_TRAINED if case.trained else FROM_NOTHING)[method]


@dataclass(frozen=True)
class Iterations:
    """The lengths of the phases."""

    dense: int
    search: int
    finetune: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.search + self.finetune


def plan_iterations(
    case: Case,
    entry: Entry,
    length: float = 1.0,
    *,
    search_ratio: float = 1.0,
    step_ratio: float | None = None,
) -> Iterations:
    """Return how long each phase is, so that every method takes the same time.

    Args:
        case: gives the time and the budget.
        entry: the method.
        length: factor on the time.
        search_ratio: time of a step of the search, in steps of the dense network.
        step_ratio: that of a step of the cut network; before it is known, the mean of the kept fraction and 1 is taken,
            by which the learning rate falls until the cut.
    """
    time = case.length * length
    if entry.method == "dense":
        return Iterations(round(time), 0, 0)
    dense, search = round(entry.dense * time), round(entry.search * time)
    left = time - dense - search * search_ratio
    return Iterations(dense, search, round(left / (step_ratio or (1 + case.keep_ratio) / 2)))
