"""Facts of every cost kind, shared by options, engine, training and reports.

To add a kind that can be counted: a row here, and how it is counted in `cost.counted`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CostKind:
    """A quantity of which a budget can be a fraction."""

    name: str
    """Key in option files, keyword of `HyperNet.prune_to`, attribute of `Cost`."""
    label: str
    """Name in log lines, tables and plots."""
    unit: str
    """Unit of a value; behind it in tables."""
    divisor: float
    """Values are divided by this in tables."""
    prefix: str
    """SI prefix of `divisor`."""
    tolerance: float
    """Default of `Budget.tolerance`."""
    is_tolerance_relative: bool = False
    """Whether a tolerance is a fraction of the kept fraction asked for, rather than of the dense
    cost."""
    is_measured: bool = False
    """Whether the cost is measured on a device; other kinds are counted from the widths alone."""
    is_always_reported: bool = False
    """Whether logs and reports state it whatever the budget is."""

    @property
    def ratio_key(self) -> str:
        """Key of the kept fraction in logs and files."""
        return f"{self.name}_ratio"

    @property
    def measured_ratio_key(self) -> str:
        """Key of the kept fraction that was measured on the cut network."""
        return f"measured_{self.name}_ratio"


DEFAULT_ROUND_TO = 8
"""Widths are multiples of it where nothing else is stated, and no time is measured."""

COST_KINDS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind("macs", "MACs", "MACs", 1e9, "G", tolerance=0.01, is_always_reported=True),
        CostKind(
            "params", "parameters", "parameters", 1e6, "M", tolerance=0.01, is_always_reported=True
        ),
        CostKind("activations", "activations", "activations", 1e6, "M", tolerance=0.01),
        CostKind(
            "latency",
            "latency",
            "ms",
            1.0,
            "",
            # Measured times scatter by some percent even on a quiet machine.
            tolerance=0.05,
            is_tolerance_relative=True,
            is_measured=True,
        ),
    )
}
"""Name -> facts."""

ALWAYS_REPORTED = tuple(kind for kind in COST_KINDS.values() if kind.is_always_reported)
"""The kinds that logs and reports state whatever the budget is."""


def reported_kinds(budget_kind: str) -> tuple[CostKind, ...]:
    """Return the kinds that a run with a budget of this kind reports."""
    return tuple(
        kind for kind in COST_KINDS.values() if kind.is_always_reported or kind.name == budget_kind
    )
