"""From fixed inputs to kept channels: the structure network, and the gates that its logits open.

Gates are straight-through Gumbel gates: a logit, noise, a hard decision, a soft gradient.

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
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

INPUT_SIZE = 64
HIDDEN_SIZE = 128


class StructureNetwork(nn.Module):
    """A bidirectional GRU with a step, and a linear head, for each group of channels.

        fixed inputs (L, 64) -> bidirectional GRU (L, 256) -> layer norm -> ReLU
                             -> head l -> logits (C_l,)

    The inputs are rows of an orthogonal matrix and never trained; they only tell the groups apart.
    Heads are bias-free, with Xavier initialization and weight normalization by row. All heads lie
    in a single matrix with a row per channel. Sizes and weight normalization are those of the
    authors' later code; those of the paper are not known.

    Args:
        widths: Channels of each group, in the order of the forward.
        seed: Seed of the inputs and the initial weights.

    Reference:
        Gao et al., Model Compression via Hyper-Structure Network, 2020.
    """

    inputs: Tensor
    layer_of_row: Tensor

    def __init__(self, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        # Random numbers of the training must not depend on the method.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inputs = nn.init.orthogonal_(torch.empty(len(widths), INPUT_SIZE))
            self.register_buffer("inputs", inputs)
            self.recurrent = nn.GRU(INPUT_SIZE, HIDDEN_SIZE, bidirectional=True)
            self.norm = nn.LayerNorm(2 * HIDDEN_SIZE)
            heads = []
            for width in widths:
                heads.append(nn.init.xavier_uniform_(torch.empty(width, 2 * HIDDEN_SIZE)))
        # Weight normalization: a row is length * direction / |direction|, equal to the initial row.
        self.direction = nn.Parameter(torch.cat(heads))
        self.length = nn.Parameter(self.direction.detach().norm(dim=1))
        layer_of_row = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("layer_of_row", layer_of_row, persistent=False)

    @property
    def heads(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Parameters of the heads: direction (channels, 256) and length (channels,) of each row."""
        return self.direction, self.length

    def states(self) -> Tensor:
        """Return the state of each group after GRU, norm and activation, shape (L, 256)."""
        outputs, _ = self.recurrent(self.inputs[:, None])
        return torch.relu(self.norm(outputs[:, 0]))

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of all channels, shape (channels,), from states of shape (L, 256)."""
        rows = self.direction * (self.length / self.direction.norm(dim=1))[:, None]
        return (rows * states[self.layer_of_row]).sum(1)


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
