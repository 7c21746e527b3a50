"""Phases of a run: dense training, search, and finetuning of each pruned model.

    plain network --(Dense)--> convert --(Search)--> prune --(Finetune)--> first pruned model
                                                       '-----(Finetune)--> second pruned model

Each phase owns the network that it trains, with its optimizer and its moving average. On leaving
it hands over what the next phase starts from. All phases share an interface, so nothing else in a
run has to know which of them it is in.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from dhp_sr.deploy import load_weights
from dhp_sr.hyper import HyperNet
from dhp_sr.search import Search as SearchMethod
from dhp_sr.training.handover import Handover, PrunedModel
from dhp_sr.training.optimizers import named_state, transfer_state
from dhp_sr.training.phase import Phase
from dhp_sr.training.pruning import (
    convert_network,
    make_budgets,
    prune_for_targets,
    restore_pruned_model,
    start_search,
)
from dhp_sr.training.schedule import PhaseName
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.modules import StateTree, stack_samples


class Dense(Phase):
    """Ordinary training of the plain network."""

    name = "dense"

    def enter(self, start: Handover) -> None:
        """Train the plain network; only a run that ends here keeps a moving average."""
        assert start.network is not None
        # An average is handed over at the end of a run. The search starts from the weights
        # themselves, because the state of the optimizer belongs to them.
        self._begin(start.network, keep_average=self.resources.options.compress is None)

    def leave(self) -> Handover:
        """Write the dense network, the origin and often the teacher of what follows."""
        self.resources.models.write_dense(self.network)
        self.resources.context.barrier()  # every process may read the file as the teacher
        return Handover(self.network, named_state(self.optimizer, self.network))


class Search(Phase):
    """Search for the channels to keep, on the converted network."""

    name = "search"
    network: HyperNet
    search: SearchMethod
    calibration: list[Tensor]
    """Inputs that the cut networks are corrected on, (C, H, W) each, on the CPU."""

    def enter(self, start: Handover) -> None:
        """Convert the plain network and start the search; the optimizer's state goes along."""
        assert start.network is not None
        resources = self.resources
        hyper = convert_network(start.network, resources.options, resources.context.device)
        self.search = start_search(hyper, resources.options, resources.latency_benchmark)
        self.calibration = []
        self._dense_values = dict(start.network.state_dict())
        self._begin(hyper, keep_average=False)
        if not self.search.trains_weights:
            # Frozen only now that the optimizer knows them: it keeps their state for finetuning.
            hyper.network.requires_grad_(False)
        resources.loss.load_teacher(resources.models.dense_file)
        transfer_state(start.optimizer_state, self.optimizer, hyper.network)

    def leave(self) -> Handover:
        """Prune the network once for every target."""
        compress = self.resources.options.compress
        assert compress is not None
        budgets = make_budgets(compress, self.network)
        batches = None
        reference = None
        if compress.correction is not None:
            device = self.resources.context.device
            batches = [batch.to(device) for batch in stack_samples(self.calibration)]
            values: Mapping[str, Tensor] = self._dense_values
            file = self.resources.models.dense_file
            if file is not None and file.is_file():
                # A resumed run has them in the file alone; without a folder none can be resumed.
                values = load_weights(file)
            reference = {name: value.to(device) for name, value in values.items()}
        models = prune_for_targets(
            self.network,
            self.search,
            self.optimizer,
            budgets,
            calibration=batches,
            reference=reference,
        )
        return Handover(pruned_models=models)

    def ratios(self) -> dict[str, float]:
        """Return the masked network's cost relative to the dense network."""
        return {kind.ratio_key: self.network.cost_ratio(kind.name) for kind in ALWAYS_REPORTED}

    def state_dict(self) -> StateTree:
        """Return the state of the phase, that of the search method included."""
        search = self.search.state_dict()
        return {**super().state_dict(), "search": search, "calibration": list(self.calibration)}

    def load_state_dict(self, state: StateTree, plain: nn.Module) -> None:
        """Enter the phase in a saved state, see `Phase.load_state_dict`."""
        super().load_state_dict(state, plain)
        # After the network: a search may look at its masks and latents.
        self.search.load_state_dict(state["search"])
        self.calibration = list(state["calibration"])

    def observe(self, images: Tensor) -> None:
        """Keep the inputs that the search and the correction need later."""
        compress = self.resources.options.compress
        assert compress is not None
        missing = 0
        if compress.correction is not None:
            missing = compress.correction.samples - len(self.calibration)
        if missing > 0 or self.search.needs_inputs:
            # Every process sees images of its own, but all must prune and correct alike: on the
            # whole batch, as a single process would.
            shared = self.resources.context.gather(images)
            self.search.observe(shared)
            self.calibration.extend(sample.clone() for sample in shared[: max(0, missing)])

    def prepare_step(self, iteration: int) -> None:
        """Let the search set masks and latents for the step."""
        # With frozen weights, norms must not change their statistics either.
        self.network.train(self.search.trains_weights)
        self.search.prepare(iteration - self.span.start)

    def update(self, iteration: int) -> dict[str, float]:
        """Update the weights, unless they are frozen, then the latents; return figures."""
        if self.search.trains_weights:
            self._step_optimizer()
        return self.search.step(iteration - self.span.start)

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters but the latents, which the search moves itself."""
        return list(self.network.network_parameters())


class Finetune(Phase):
    """Ordinary training of a pruned model."""

    name = "finetune"
    pruned_models: list[PrunedModel]

    @property
    def model(self) -> PrunedModel:
        """The pruned model that is trained."""
        return self.pruned_models[self.span.target]

    def enter(self, start: Handover) -> None:
        """Train the pruned model of this phase; the search's optimizer state goes along."""
        self.pruned_models = start.pruned_models
        self._begin(self.model.network, keep_average=True)
        transfer_state(self.model.optimizer_state, self.optimizer, self.network)
        self.model.optimizer_state = {}  # from now on it is the optimizer's
        self.resources.loss.load_teacher(self.resources.models.dense_file)

    def leave(self) -> Handover:
        """Write the final model of this target; other targets follow."""
        # The average replaces the trained network, which nobody needs any longer.
        self.model.network = self.network_for_validation()
        self.resources.models.write_final(
            self.model.network,
            self.span.target,
            self.model,
            is_average=self.average is not None,
        )
        return Handover(pruned_models=self.pruned_models)

    def final_networks(self) -> list[nn.Module]:
        """Return the network of every target: finished, in training, or freshly pruned."""
        networks = [model.network for model in self.pruned_models]
        networks[self.span.target] = self.network_for_validation()
        return networks

    def ratios(self) -> dict[str, float]:
        """Return the pruned network's cost relative to the dense network."""
        achieved = self.model.achieved
        return {kind.ratio_key: achieved.get(kind.ratio_key, 1.0) for kind in ALWAYS_REPORTED}

    def describe_start(self) -> str:
        """Return the kept fractions of the pruned model."""
        return f"cut to {self.model.describe()}"

    def state_dict(self) -> StateTree:
        """Return the state of the phase, all pruned models included."""
        models = [model.state_dict() for model in self.pruned_models]
        return {**super().state_dict(), "pruned_models": models}

    def restore_handover(self, state: StateTree, plain: nn.Module) -> Handover:
        """Rebuild all pruned models by pruning the converted network with the saved masks."""
        resources = self.resources
        hyper = convert_network(plain, resources.options, resources.context.device)
        models = [restore_pruned_model(hyper, model) for model in state["pruned_models"]]
        return Handover(pruned_models=models)


PHASES: dict[PhaseName, type[Phase]] = {phase.name: phase for phase in (Dense, Search, Finetune)}
"""Name of a phase -> its class."""
