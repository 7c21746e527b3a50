"""Budgets: the fraction of a network's cost to keep, and the report of how it was met."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.cost.model import CostModel
from dhp_sr.utils.cost_kinds import COST_KINDS, DEFAULT_ROUND_TO
from dhp_sr.utils.errors import UserError


class BudgetError(UserError):
    """No choice of widths meets the budget; the message says what prevents it."""


@dataclass(frozen=True)
class Budget:
    """Fraction of the dense network's cost to keep, and the widths that layers may take.

    Made once, by `from_target`, from the option file or the command line; the same object goes on
    to the search, the width solver and the report.
    """

    kind: str
    """Cost kind, a key of `COST_KINDS`."""
    keep_ratio: float
    """Kept fraction of the dense network's cost, in (0, 1]."""
    tolerance: float
    """Largest distance between the kept fraction reached and `keep_ratio`; of measured kinds
    (latency) as a fraction of `keep_ratio`."""
    round_to: int
    """Widths of layers are multiples of this, or the dense width."""
    min_width: int
    """Minimum number of channels of every layer of a prunable group."""
    remove_blocks: bool = False
    """Whether a removable group may have no channels at all: all of them score below 0."""

    @classmethod
    def from_target(
        cls,
        kind: str,
        keep_ratio: float,
        tolerance: float | None = None,
        round_to: int = DEFAULT_ROUND_TO,
        min_width: int | None = None,
        *,
        remove_blocks: bool = False,
    ) -> "Budget":
        """Make a budget from a target, with the default tolerance of its kind.

        Args:
            kind: A key of `COST_KINDS`.
            keep_ratio: Kept fraction, in (0, 1].
            tolerance: See the field; default: that of the kind.
            round_to: See the field.
            min_width: See the field; default: `round_to`.
            remove_blocks: See the field.

        Raises:
            BudgetError: An unknown kind, a fraction outside (0, 1], or widths below 1.
        """
        if kind not in COST_KINDS:
            known = ", ".join(COST_KINDS)
            raise BudgetError(f"expected a budget of kind {known}, got {kind!r}")
        if tolerance is None:
            tolerance = COST_KINDS[kind].tolerance
        # Layers narrower than `round_to` could not be multiples of it.
        if min_width is None:
            min_width = round_to
        return cls(kind, keep_ratio, tolerance, round_to, min_width, remove_blocks)

    def __post_init__(self) -> None:
        """Refuse widths below 1 and a fraction outside (0, 1]."""
        # Here rather than in `from_target`, so that no budget without meaning can exist.
        if self.round_to < 1 or self.min_width < 1:
            raise BudgetError(
                "round_to and min_width must be at least 1, got "
                f"{self.round_to} and {self.min_width}"
            )
        if not 0 < self.keep_ratio <= 1:
            raise BudgetError(
                f"the kept fraction of {self.kind} must lie in (0, 1], got {self.keep_ratio}"
            )

    @property
    def margin(self) -> float:
        """Largest distance from `keep_ratio`, as a fraction of the dense cost."""
        if COST_KINDS[self.kind].is_tolerance_relative:
            return self.tolerance * self.keep_ratio
        return self.tolerance


@dataclass(frozen=True)
class BudgetReport:
    """Report of a met budget.

    The kept fraction of each kind is an attribute as well: `report.macs_ratio`,
    `report.params_ratio`; nan where a kind is not known. `report.measured_latency_ratio` was
    measured on the cut network.
    """

    budget: Budget
    """The budget asked for."""
    ratios: Mapping[str, float]
    """Cost kind -> kept fraction of the dense network's cost, as counted or predicted from the
    widths."""
    widths: Mapping[str, int]
    """Kept channels of every prunable group."""
    measured_ratio: float = math.nan
    """Kept fraction measured on the cut network; nan for a budget that is counted."""

    @classmethod
    def from_mask(
        cls,
        plan: ChannelPlan,
        mask: Tensor,
        budget: Budget,
        costs: CostModel,
        measured_ratio: float = math.nan,
    ) -> "BudgetReport":
        """Report what a mask (plan.size,) keeps."""
        ratios = {kind: costs.ratio(mask, kind) for kind in costs.kinds}
        widths = {}
        for group in plan.prunable:
            widths[group.name] = int(mask[group.span].sum())
        return cls(budget, ratios, widths, measured_ratio)

    def achieved(self, kind: str) -> float:
        """Return the kept fraction of a kind, as measured for the budget's, else as counted."""
        if COST_KINDS[kind].is_measured and kind == self.budget.kind:
            return self.measured_ratio
        return self.ratios[kind]

    def __getattr__(self, name: str) -> float:
        """Return a kept fraction by the key that logs and files give it."""
        # Called only for names that are no field: a new cost kind needs no property here.
        for kind in COST_KINDS.values():
            if name == kind.ratio_key:
                return self.ratios.get(kind.name, math.nan)
            if name == kind.measured_ratio_key:
                # nan unless the budget is of this kind.
                return self.reported_ratios().get(name, math.nan)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def reported_ratios(self) -> dict[str, float]:
        """Return the kept fractions that logs and files state, by their keys there."""
        # In the order of the table, so that files of different runs have the same columns.
        reported = {}
        for kind in COST_KINDS.values():
            is_asked = kind.name == self.budget.kind
            if kind.name in self.ratios and (kind.is_always_reported or is_asked):
                reported[kind.ratio_key] = self.ratios[kind.name]
            if is_asked and kind.is_measured:
                reported[kind.measured_ratio_key] = self.measured_ratio
        return reported
