"""What a network is made of: its trace, its channel groups, its cost, and smaller copies of it."""

from dhp_sr.structure.budget import Budget, BudgetError, BudgetReport
from dhp_sr.structure.cost import Cost, CostModel
from dhp_sr.structure.cut import CutError
from dhp_sr.structure.groups import ChannelPlan, Group, make_plan
from dhp_sr.structure.resize import resize
from dhp_sr.structure.stopwatch import Stopwatch
from dhp_sr.structure.trace import TraceError

__all__ = [
    "Budget",
    "BudgetError",
    "BudgetReport",
    "ChannelPlan",
    "Cost",
    "CostModel",
    "CutError",
    "Group",
    "Stopwatch",
    "TraceError",
    "make_plan",
    "resize",
]
