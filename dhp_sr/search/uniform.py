"""Control: the same fraction of every group, fixed before training."""

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import Search, SearchSettings


class Uniform(Search):
    """A uniformly narrower network, trained from where the weights stand."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        self.finish()

    def scores(self) -> Tensor:
        """Return 1 - rank / width: every group loses the same fraction at any threshold."""
        return torch.cat(
            [1 - torch.arange(group.width) / group.width for group in self.hyper.plan.prunable]
        )
