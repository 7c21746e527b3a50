"""OBS with a width search: channels and widths of a trained network, from forward passes alone.

    inputs of the search phase -> statistics of every layer -> order of the channels of each group
                               -> database of re-solved layers -> evolution of the widths

Meant for trained weights: they stand still during the search, and nothing is learned. The masks are
set when the search ends; the cut is then corrected as for every other method.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from dhp_sr.allocation.budget import Budget
from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import OBSSettings, Search, SearchSettings
from dhp_sr.search.obs.channel_orders import CHANNEL_ORDERS, OrderInputs
from dhp_sr.search.obs.database import WidthDatabase, output_loss
from dhp_sr.search.obs.evolution import WidthEvolution
from dhp_sr.search.obs.statistics import layer_statistics
from dhp_sr.search.width_prior import width_prior
from dhp_sr.utils.modules import StateTree, evaluating, stack_samples
from dhp_sr.utils.network_io import Example, inputs_of

BATCH_SIZE = 8
"""Samples of a forward pass."""

SCREENING_SHARE = 4
"""Offspring are screened on every fourth batch of the evaluation inputs."""


@final
class OBSSearch(Search):
    """Channels by OBS, widths by evolution on the distance from the dense network's output.

    Args:
        hyper: The network, with trained weights.
        settings: Budget and seed, and `OBSSettings` as its `method_options`.
    """

    trains_weights: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = True

    def __init__(self, hyper: HyperNet, settings: SearchSettings) -> None:
        super().__init__(hyper, settings)
        self._options = OBSSettings(**settings.method_options)
        self._samples: list[Tensor] = []
        """Inputs seen so far, one (C, H, W) each, on the CPU."""
        self._orders: list[Tensor] = []
        self._database: WidthDatabase | None = None

    def observe(self, inputs: Example) -> None:
        """Keep inputs until there are enough for the statistics and the evaluation."""
        # Of several inputs the further ones are fixed, those of the plan.
        image = inputs_of(inputs)[0]
        wanted = self._options.statistics_samples + self._options.evaluation_samples
        for sample in image[: max(0, wanted - len(self._samples))]:
            self._samples.append(sample.detach().cpu().clone())

    def state_dict(self) -> StateTree:
        """Return the inputs kept; all else follows from them."""
        return {"samples": list(self._samples)}

    def load_state_dict(self, state: StateTree) -> None:
        """Restore a state that `state_dict` returned."""
        self._samples = list(state["samples"])

    def scores(self) -> Tensor:
        """Return scores whose threshold 0 gives the widths found for the budget of the search."""
        return self.scores_for(self.settings.budget)

    @torch.no_grad()
    def scores_for(self, budget: Budget) -> Tensor:
        """Return 1 - rank / width for the widths found for a budget; -1 where a branch goes.

        Raises:
            ValueError: No inputs were observed.
            BudgetError: The budget cannot be met.
        """
        if not self._samples:
            raise ValueError("the search has seen no inputs; call observe with those of each step")
        with evaluating(self.hyper.network):
            evaluation = self._prepare()
            if self._options.widths is None:
                widths = self._search_widths(budget, evaluation)
            else:
                widths = self._given_widths(self._options.widths)
        scores = torch.zeros(self.hyper.plan.size)
        groups = self.hyper.plan.prunable
        for group, order, width in zip(groups, self._orders, widths, strict=True):
            if width == 0:
                scores[group.span] = -1
                continue
            # Half a rank of distance: the last channel kept lies above 0, the next one below.
            ranks = torch.arange(group.width) + 0.5
            scores[group.start + order] = 1 - ranks / width
        return scores

    def _prepare(self) -> list[Tensor]:
        """Orders and database from the first samples; return the evaluation batches."""
        # With few images, statistics and evaluation share them rather than starve either.
        num_statistics = min(self._options.statistics_samples, len(self._samples))
        statistics = self._samples[:num_statistics]
        evaluation = self._samples[num_statistics:] or self._samples
        if self._database is None:
            hyper = self.hyper
            dense = hyper.generate_with(torch.ones_like(hyper.mask))
            batches = self._batches(statistics)
            layers = layer_statistics(
                hyper.network, hyper.plan, dense, batches, self._options.ridge
            )
            order = CHANNEL_ORDERS[self._options.order]
            self._orders = order(OrderInputs(hyper, layers, batches, self.settings.seed))
            self._database = WidthDatabase(hyper, self._orders, layers)
        return self._batches(evaluation[: self._options.evaluation_samples])

    def _given_widths(self, given: Mapping[str, int]) -> list[int]:
        widths = []
        for group in self.hyper.plan.prunable:
            width = given.get(group.name)
            if width is None or width > group.width:
                raise ValueError(
                    f"`widths` of {group.name} (={width}) must be a number up to {group.width}"
                )
            widths.append(width)
        return widths

    def _batches(self, samples: Sequence[Tensor]) -> list[Tensor]:
        plan = self.hyper.plan
        batch_size = BATCH_SIZE
        if plan.further_inputs:
            # They are fixed, and made for batches of the example's size.
            batch_size = plan.example_shape[0]
        batches = stack_samples(samples, batch_size)
        return [batch.to(self.hyper.mask.device) for batch in batches]

    def _search_widths(self, budget: Budget, evaluation: list[Tensor]) -> list[int]:
        database = self._database
        groups = self.hyper.plan.prunable
        assert database is not None, "made by _prepare"
        dense_widths = [group.width for group in groups]
        targets = database.outputs(dense_widths, evaluation)
        # The database remembers solved layers; here whole choices of widths are remembered, for
        # mutations often come back to one that was tried before.
        known: dict[tuple[tuple[int, ...], bool], float] = {}

        def loss(widths: Sequence[int], complete: bool) -> float:
            key = (tuple(widths), complete)
            if key not in known:
                step = 1 if complete else SCREENING_SHARE
                outputs = database.outputs(widths, evaluation[::step])
                known[key] = output_loss(outputs, targets[::step])
            return known[key]

        evolution = WidthEvolution(self.hyper, self._orders, budget, loss, self.settings.seed)
        prior = width_prior(self.hyper, budget, cost_exponent=0.0)
        # Cost is about quadratic in the widths, so the square root of the ratio is a fair start.
        uniform = [budget.keep_ratio**0.5] * len(groups)
        starts = [uniform, [prior[group.name] for group in groups]]
        return evolution.run(starts, self._options.generations)
