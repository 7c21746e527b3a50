"""Control: the L1 norm of the trained weights that produce a channel, cut in one step at the end of the search.

Reference: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017.
"""

import torch
from torch import Tensor

from dhp_sr.search.base import Search


class Magnitude(Search):
    """Magnitude pruning of the dense network that dense phase and search have trained."""

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Return the mean L1 norm of each channel's producing weights, relative to the mean of its group."""
        plan = self.hyper.plan
        scores, counts = torch.zeros(plan.size + 1), torch.zeros(plan.size + 1)
        weights = {**dict(self.hyper.network.named_buffers()), **self.hyper.generate()}
        kinds = {layer.weight: layer.kind for layer in plan.layers}
        for axis in plan.axes:
            if axis.tensor in kinds and axis.dim == (
                1 if kinds[axis.tensor] == "transposed conv" else 0
            ):
                norms = (
                    weights[axis.tensor]
                    .detach()
                    .float()
                    .cpu()
                    .abs()
                    .transpose(0, axis.dim)
                    .flatten(1)
                    .mean(1)
                )
                scores.index_add_(0, axis.index, norms / norms.mean())
                counts.index_add_(0, axis.index, torch.ones(len(axis.index)))
        return (scores / counts.clamp_min(1))[: plan.size]
