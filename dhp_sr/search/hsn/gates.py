"""Gates: a channel's logit, noise, and a hard decision with a soft slope.

    s = sigmoid((logit + offset + g) / temperature),   g ~ Gumbel(0, 1)
    v = 1 where s >= 1/2, else 0;   dv/dlogit := ds/dlogit

One Gumbel sample, not the difference of two, so a channel is kept with probability 1 - exp(-exp(logit + offset)).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MEDIAN = -math.log(math.log(2))
"""Of the Gumbel distribution: a channel whose logit + offset is above -MEDIAN is kept more often than not."""


class Draw(NamedTuple):
    """Gates of one step, flat like the plan."""

    score: Tensor
    """Logit + offset + noise: above 0 the gate is open."""
    value: Tensor
    """1 open, 0 closed; soft gates lie between."""
    slope: Tensor
    """d value / d logit."""


def keep_probability(shifted: Tensor) -> Tensor:
    """Return the probability that a channel is kept, of logit + offset."""
    return -torch.expm1(-shifted.exp())


def draw(
    shifted: Tensor, temperature: float, noise: torch.Generator, *, soft: bool = False
) -> Draw:
    """Draw gates.

    Args:
        shifted: (n,) logit + offset.
        temperature: the lower, the steeper the slope near the threshold and the flatter elsewhere.
        noise: gives the Gumbel samples.
        soft: whether the gates are s itself, instead of its rounded value.

    Reference: Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017; Bengio et al., Estimating or
        Propagating Gradients Through Stochastic Neurons, 2013 (the straight-through estimator).
    """
    score = shifted - torch.empty_like(shifted).exponential_(generator=noise).log()
    sigmoid = torch.sigmoid(score / temperature)
    value = sigmoid if soft else (score > 0).to(score.dtype)
    return Draw(score, value, sigmoid * (1 - sigmoid) / temperature)
