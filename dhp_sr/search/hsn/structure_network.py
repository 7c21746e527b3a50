"""Hyper-structure network: generates a logit for every prunable channel."""

from collections.abc import Sequence

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
