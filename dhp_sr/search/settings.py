"""Settings of a search, as the engine takes them.

The settings of single methods have no defaults here. These are stated once, beside the
documentation of each key, in the sections of the methods in `compress` of an option file
(`dhp_sr.config.compress`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dhp_sr.allocation.budget import Budget


@dataclass(frozen=True)
class SearchSettings:
    """Settings that every method takes."""

    budget: Budget
    iterations: int
    """Length of the search."""
    seed: int = 0
    """Seed of everything random in the search; that of the training is another."""
    preset: str = "default"
    """Method dhp: `default` or `paper`."""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the settings class of the method (`DHPSettings`, `HSNSettings`), by name."""


@dataclass(frozen=True)
class DHPSettings:
    """Settings of method `dhp`, both presets, and of the baseline `prior_widths`."""

    cost_exponent: float
    """Preset `default`, `prior_widths`: exponent of the width prior, in [0, 1]."""
    penalty: float
    """Preset `paper`: lambda of the l1 penalty, not negative."""
    latent_lr: float
    """Preset `paper`: learning rate of the latents."""


@dataclass(frozen=True)
class HSNSettings:
    """Settings of method `hsn`."""

    lr: float
    """Learning rate of AdamW for the structure network."""
    weight_decay: float
    """Weight decay of AdamW."""
    temperature: float
    """Temperature of the gates' sigmoid."""
    logit_bias: float
    """Added to every logit."""
    penalty: float | None
    """Fixed weight of the cost regularizer; None: found by `gradient_balance`."""
    gradient_balance: float
    """Norm of the regularizer's gradient on the logits, relative to that of the loss."""
    target_ramp: float
    """Fraction of the search in which the target falls linearly from 1 to the budget."""
    cost_regularizer: str
    """Key of `hsn.objective.COST_REGULARIZERS`."""
    cost_gates: str
    """`mask` or `sampled`: the channels whose cost is regularized."""
    task_gates: str
    """`hard` or `soft` gates in the forward."""
    layer_scaling: str
    """`loss`, `cost` or `none`: the gradient that the learned factors of the layers multiply."""
    scaling_lr: float
    """Step size of these factors."""


@dataclass(frozen=True)
class OBSSettings:
    """Settings of method `obs`."""

    statistics_samples: int
    """Inputs whose layer statistics decide about channels and re-solved weights."""
    evaluation_samples: int
    """Further inputs, on which the loss of a choice of widths is measured."""
    generations: int
    """Choices of widths tried for each budget."""
    ridge: float
    """Added to the diagonal of every covariance, relative to its mean."""
    order: str = "obs"
    """Key of `obs.channel_orders.CHANNEL_ORDERS`: which channels of a group are kept."""
    widths: Mapping[str, int] | None = None
    """Group name -> width, where the widths are given; None: they are searched."""
