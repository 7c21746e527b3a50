"""Cases of the method comparison, and how long each method may train for equal time.

Time is processor time on a CPU, wall time on a graphics card; its unit is a training step of the
dense network. A step of the search is measured against it when the search begins, since a teacher
may take part in it. A step of the pruned network is measured several times from the cut on:
networks of equal multiply-adds differ by up to a third. The cut itself is timed too: with `obs` or
a correction it takes as long as hundreds of steps. What is left goes into finetuning.
"""

from dataclasses import dataclass

from dhp_sr.utils.errors import UserError

PAPER_SHRINKAGE = 0.8
"""Decrease of |z| over a search with preset `paper`: enough for half of N(0, 1) to reach zero."""
PAPER_LATENT_LR = 1e-3
"""Learning rate of the latents: ten times the paper's, for ten times shorter searches."""
RLFN_LENGTH = 8000
"""About an hour of one core with bf16 instructions: 30 minutes of two."""


@dataclass(frozen=True)
class Case:
    """A network, its data and a budget."""

    option_file: str
    """Name of a file in options/."""
    keep_ratio: float
    """Kept fraction of the multiply-adds."""
    length: int
    """Time of a run, in steps of the dense network."""
    test_sets: tuple[str, ...]
    """Test sets whose mean PSNR ranks the methods."""
    is_pretrained: bool = False
    """Whether all methods start from the weights that the option file names."""
    changes: tuple[str, ...] = ()
    """Changes of the option file, `section.key=value` each, the same for all methods."""


CORRECTED = (
    "compress.correction={}",
    "compress.search_iter=20",
    "compress.round_to=16",
    "compress.min_width=16",
    "datasets.train.batch_size_per_gpu=8",
)
"""Changes with which every method is corrected after the cut."""


CASES = {
    "edsr_50": Case("edsr_x4_cpu.yml", 0.5, 4500, ("Set14", "B100", "Urban100")),
    "edsr_30": Case("edsr_x4_cpu.yml", 0.3, 4500, ("Set14", "B100", "Urban100")),
    "dncnn_50": Case("dncnn_s25_cpu.yml", 0.5, 6000, ("BSD68",)),
    "dncnn_published_50": Case("dncnn_s25_published.yml", 0.5, 1000, ("BSD68",), True),
    # 10 minutes of one core with bf16 instructions; smaller batches make twice as many steps of it.
    "dncnn_corrected_50": Case("dncnn_s25_published.yml", 0.5, 1800, ("BSD68",), True, CORRECTED),
    "dncnn_corrected_30": Case("dncnn_s25_published.yml", 0.3, 1800, ("BSD68",), True, CORRECTED),
    "dncnn_published_30": Case("dncnn_s25_published.yml", 0.3, 900, ("BSD68",), True),
    "rlfn_published_50": Case(
        "rlfn_x4_published.yml", 0.5, RLFN_LENGTH, ("Set14", "B100", "Urban100"), True
    ),
    "rlfn_published_70": Case(
        "rlfn_x4_published.yml", 0.7, RLFN_LENGTH, ("Set14", "B100", "Urban100"), True
    ),
}


@dataclass(frozen=True)
class Entry:
    """A method and how it spends its time."""

    method: str
    """Value of `compress.method`, or `dense` for the unpruned network."""
    dense: float = 0.0
    """Fraction of the time for dense training before the search."""
    search: float = 0.0
    """Iterations of the search, as a fraction of those of the dense network in the whole time."""
    round_to: int | None = None
    """Widths are multiples of this; None: as in the option file."""
    preset: str = "default"
    """Value of `compress.preset`."""
    changes: tuple[str, ...] = ()
    """Changes of the option file for this method, `section.key=value` each."""


CUT_LATE = ("compress.correction={}", "compress.search_iter=20")
"""Changes for a network that is cut after most of its training."""

# Baselines of fixed widths train from scratch. obs_late cuts a network that has had most of the
# time, corrects it and finetunes. Magnitude prunes a network that was trained for 0.3
# of the time. The fractions of dhp were chosen after runs with 0.18 of the time before the cut,
# which left too few steps; those of magnitude, hsn and dhp_paper were tried in this way only.
FROM_SCRATCH = {
    "dense": Entry("dense", dense=1.0),
    "dhp": Entry("dhp", dense=0.03, search=0.04),
    "dhp_paper": Entry("dhp", search=0.3, preset="paper"),
    "hsn": Entry("hsn", dense=0.2, search=0.1),
    "magnitude": Entry("magnitude", dense=0.2, search=0.1),
    "obs_late": Entry("obs", dense=0.6, changes=CUT_LATE),
    "uniform": Entry("uniform", round_to=1),
    "uniform_stepped": Entry("uniform"),
    "random": Entry("random"),
    "prior_widths": Entry("prior_widths"),
}
"""Name of a method in the results -> its entry, for networks without trained weights."""

# Baselines and obs are cut at once. The fraction of dhp is that of the option file.
FROM_PRETRAINED = {
    "obs": Entry("obs"),
    "dense": Entry("dense", dense=1.0),
    "dhp": Entry("dhp", search=0.3),
    "hsn": Entry("hsn", search=0.3),
    "magnitude": Entry("magnitude"),
    "uniform": Entry("uniform", round_to=1),
    "uniform_stepped": Entry("uniform"),
    "random": Entry("random"),
    "prior_widths": Entry("prior_widths"),
}
"""Name of a method in the results -> its entry, for networks with trained weights."""


def find_entry(case: Case, method: str) -> Entry:
    """Entry of a method in a case.

    Raises:
        UserError: the method cannot start from trained weights.
    """
    entries = FROM_PRETRAINED if case.is_pretrained else FROM_SCRATCH
    if method not in entries:
        raise UserError(f"{method} draws its own weights; expected a case without trained ones")
    return entries[method]


@dataclass(frozen=True)
class Iterations:
    """Lengths of the phases, in iterations."""

    dense: int
    search: int
    finetune: int

    @property
    def total(self) -> int:
        """Iterations of all phases."""
        return self.dense + self.search + self.finetune


def plan_iterations(
    case: Case,
    entry: Entry,
    length: float = 1.0,
    *,
    search_ratio: float = 1.0,
    step_ratio: float | None = None,
    collect: int = 0,
    cut: float = 0.0,
) -> Iterations:
    """Lengths of the phases for which every method takes the same time.

    Args:
        case: time and budget.
        entry: the method.
        length: factor on the time.
        search_ratio: time of a step of the search, relative to the dense network.
        step_ratio: time of a step of the pruned network, relative to the dense network. Default,
            for the learning rate until the cut: the mean of the kept fraction and 1.
        collect: least length of the search: iterations whose inputs the cut is calculated from.
        cut: time of the cut, and of all else that happens once.
    """
    time = case.length * length
    if entry.method == "dense":
        return Iterations(round(time), 0, 0)
    if step_ratio is None:
        step_ratio = (1 + case.keep_ratio) / 2
    dense = round(entry.dense * time)
    search = max(round(entry.search * time), collect)
    remaining = time - dense - search * search_ratio - cut
    return Iterations(dense, search, round(remaining / step_ratio))


def paper_settings(iterations: int) -> dict[str, float | str]:
    """Settings of the published search (preset `paper`) in less time than its own.

    Args:
        iterations: length of the search; the network is trained in it, not before.
    """
    return {
        "compress.preset": "paper",
        "compress.parametrization": "full",
        "compress.dense_iter": 0,
        "compress.search_iter": iterations,
        "compress.dhp.latent_lr": PAPER_LATENT_LR,
        "compress.dhp.penalty": PAPER_SHRINKAGE / iterations / PAPER_LATENT_LR,
    }
