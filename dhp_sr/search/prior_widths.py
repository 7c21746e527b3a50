"""Control: the widths that the preset `modern` makes for, fixed before training: all of it but its search."""

import torch
from torch import Tensor

from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import Search, SearchSettings
from dhp_sr.search.width_prior import lines


class OnLines(Search):
    """Every group at its line (`lines`), its first channels kept; the data have no say."""

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        self._lines = lines(hyper, settings.budget, settings.price_power)
        self.finish()

    def scores(self) -> Tensor:
        """Return 1 - rank / kept: all groups reach their lines at 0."""
        groups = self.hyper.plan.prunable
        return torch.cat(
            [
                1 - torch.arange(group.width) / (self._lines[group.name] * group.width)
                for group in groups
            ]
        )
