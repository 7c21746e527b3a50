"""Control: channels dropped at random, fixed before training."""

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import Search, SearchSettings


class Random(Search):
    """Random widths and random channels at the budget's cost."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        self._scores = self._draw()
        self.finish()

    def _draw(self) -> Tensor:
        """Uniform scores, tilted by one random exponent for each group, so that widths differ."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        parts = []
        for group in self.hyper.plan.prunable:
            exponent = 4 ** (2 * torch.rand((), generator=generator) - 1)
            parts.append(torch.rand(group.width, generator=generator) ** exponent)
        return torch.cat(parts)

    def scores(self) -> Tensor:
        """Return the drawn scores."""
        return self._scores
