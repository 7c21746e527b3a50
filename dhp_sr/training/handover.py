"""What one phase passes on to the next: the plain network, or the pruned models of all targets."""

from dataclasses import dataclass, field
from typing import TypedDict

from torch import Tensor, nn

from dhp_sr.training.optimizers import OptimizerState
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.modules import StateTree


class GroupWidths(TypedDict):
    """A channel group before and after pruning."""

    name: str
    before: int
    """Width."""
    after: int
    prunable: bool
    reason: str
    """Why it is not prunable; empty where it is."""


@dataclass
class PrunedModel:
    """The pruned network of a target."""

    masks: dict[str, Tensor]
    """Group name -> kept channels, bool of shape (width,), on the CPU."""
    achieved: dict[str, float]
    """Kept fractions of the dense network's costs: `macs_ratio`, `params_ratio`, ..."""
    groups: list[GroupWidths]
    """Name, width before and after, prunable, and reason of every channel group."""
    network: nn.Module
    """Freshly pruned, or as finetuning left it."""
    optimizer_state: OptimizerState
    """State of the search's optimizer for the kept weights; empty once finetuning has begun."""

    def describe(self) -> str:
        """Return the kept fractions for the log."""
        kept = []
        for kind in COST_KINDS.values():
            key = kind.ratio_key
            label = kind.label
            if kind.is_measured:
                # The log states the measurement rather than the prediction.
                key = kind.measured_ratio_key
                label = f"measured {label}"
            if key in self.achieved:
                kept.append(f"{self.achieved[key]:.2%} of the {label}")
        return ", ".join(kept)

    def state_dict(self) -> StateTree:
        """Return the content that `restore_pruned_model` needs."""
        return {
            "masks": self.masks,
            "achieved": self.achieved,
            "groups": self.groups,
            "optimizer_state": self.optimizer_state,
            "network": dict(self.network.state_dict()),
        }


@dataclass
class Handover:
    """Start of a phase: the plain network, or the pruned models."""

    network: nn.Module | None = None
    """The plain network that the search converts."""
    optimizer_state: OptimizerState = field(default_factory=dict)
    """State of the optimizer that trained `network`."""
    pruned_models: list[PrunedModel] = field(default_factory=list)
    """The models of all targets, once the network is pruned."""
