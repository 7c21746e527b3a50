"""Straight-through Gumbel gates: a channel's logit, noise, a hard decision, a soft gradient.

    s = sigmoid((logit + bias + g) / temperature),   g ~ Gumbel(0, 1)
    v = 1 if s >= 1/2 else 0;   dv/dlogit := ds/dlogit

This takes a single Gumbel sample, as the authors' code does, where the usual relaxation of a
Bernoulli variable takes the difference of two. So a channel is kept with probability
1 - exp(-exp(logit + bias)).

References:
    Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017.
    Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
    Computation, 2013 (the straight-through estimator).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

GUMBEL_MEDIAN = -math.log(math.log(2))
"""Median of the noise: a channel is kept more often than not if logit + bias + median > 0."""


class GateSample(NamedTuple):
    """One sample of the gates of all channels; each field has the shape (channels,)."""

    noisy_logits: Tensor
    """Logit + bias + noise; the gate is open above 0."""
    values: Tensor
    """1 open, 0 closed; soft gates are in between."""
    gradients: Tensor
    """d value / d logit."""


def keep_probability(biased_logits: Tensor) -> Tensor:
    """Return the probability that a channel is kept, given logit + bias."""
    return -torch.expm1(-biased_logits.exp())


def sample_gates(
    biased_logits: Tensor, temperature: float, generator: torch.Generator, *, soft: bool = False
) -> GateSample:
    """Sample gates.

    Args:
        biased_logits: (channels,) logit + bias.
        temperature: Positive. The lower it is, the steeper is the gradient near the threshold, and
            the flatter elsewhere.
        generator: Source of the Gumbel noise.
        soft: Whether the values are s itself instead of its rounded value.
    """
    # -log of an exponential variable has the Gumbel distribution, without the log(0) of the usual
    # -log(-log(uniform)).
    exponential = torch.empty_like(biased_logits).exponential_(generator=generator)
    noisy_logits = biased_logits - exponential.log()
    # Straight-through: values may be rounded, gradients are those of the sigmoid. Both are returned
    # instead of a graph, as the values pass through the latents of the hyper network.
    sigmoid = torch.sigmoid(noisy_logits / temperature)
    values = sigmoid if soft else (noisy_logits > 0).to(noisy_logits.dtype)
    return GateSample(noisy_logits, values, sigmoid * (1 - sigmoid) / temperature)
