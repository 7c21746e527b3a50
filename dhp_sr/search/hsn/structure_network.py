"""The hyper-structure network: it puts out one logit for every channel that may be cut."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

INPUTS, HIDDEN = 64, 128


class StructureNetwork(nn.Module):
    """One step of a bidirectional GRU for each group of channels, and a head for each.

        fixed inputs (L, 64) -> GRU in both directions (L, 256) -> layer norm -> ReLU -> head l -> logits (C_l,)

    The inputs are rows of an orthogonal matrix and are never trained: they only tell the groups apart. The heads are
    bias-free, drawn by Xavier's rule, with weight normalization row by row; all of them lie in one matrix, a row for
    each channel. Sizes, and weight normalization, are those of the authors' later code; the paper's own are not known.

    Args:
        widths: channels of each group, in the order of the forward.
        seed: of the inputs and of the initial weights.

    Reference: Gao et al., Model Compression via Hyper-Structure Network, 2020.
    """

    inputs: Tensor
    layer: Tensor

    def __init__(self, widths: Sequence[int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.register_buffer("inputs", nn.init.orthogonal_(torch.empty(len(widths), INPUTS)))
            self.recurrent = nn.GRU(INPUTS, HIDDEN, bidirectional=True)
            self.norm = nn.LayerNorm(2 * HIDDEN)
            heads = [nn.init.xavier_uniform_(torch.empty(width, 2 * HIDDEN)) for width in widths]
        self.direction = nn.Parameter(torch.cat(heads))
        self.length = nn.Parameter(self.direction.detach().norm(dim=1))
        layer = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("layer", layer, persistent=False)

    @property
    def heads(self) -> tuple[nn.Parameter, nn.Parameter]:
        """The parameters of the heads: a row and its length for each channel."""
        return self.direction, self.length

    def states(self) -> Tensor:
        """Return what the recurrent part says of each group, shape (L, 256)."""
        sequence, _ = self.recurrent(self.inputs[:, None])
        return torch.relu(self.norm(sequence[:, 0]))

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of all channels, shape (sum of widths,), of the states (L, 256)."""
        rows = self.direction * (self.length / self.direction.norm(dim=1))[:, None]
        return (rows * states[self.layer]).sum(1)
