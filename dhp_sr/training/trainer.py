"""Trainer: a network on its way through the phases of a run, with its states and model files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.schema import Options
from dhp_sr.data.samples import Batch
from dhp_sr.tasks import task_of
from dhp_sr.tasks.base import NamedTestSet
from dhp_sr.training.checkpoint import (
    differences,
    fixed_options,
    load_state,
    random_state,
    save_state,
    set_random_state,
    with_new_options,
    without_free_options,
)
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.dry_run import (
    TRIED_SAMPLES,
    dry_run,
    random_state_kept,
    try_image_sizes,
    try_training_step,
)
from dhp_sr.training.handover import Handover
from dhp_sr.training.loss import TrainingLoss, with_precision
from dhp_sr.training.model_writer import ModelWriter, best_names
from dhp_sr.training.phase import Phase, RunResources
from dhp_sr.training.phases import PHASES, Dense
from dhp_sr.training.pruning import make_latency_benchmark
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.schedule import Schedule
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import StateTree
from dhp_sr.utils.strict_json import finite
from dhp_sr.zoo.model_zoo import resolve_model
from dhp_sr.zoo.networks import load_file
from dhp_sr.zoo.third_party import check_files


class Trainer:
    """Trains, searches, prunes and finetunes a network, step by step.

    Iterations are the number of steps taken before, so the first step is iteration 0.

    Attributes:
        phase: The phase that the network is in.
        schedule: Phases and learning rates of the run.
        best: File name of each best model -> when it was best, and how good.
    """

    def __init__(
        self, options: Options, context: DistributedContext, folder: RunFolder | None = None
    ) -> None:
        """Build the plain network, or load it from `path.pretrain_network_g`.

        Args:
            options: The run's options, paths resolved. `train.amp: auto` is decided here, where it
                was not decided before for a run that is resumed.
            context: Device and processes.
            folder: Where models and states are written; None writes none.

        Raises:
            UserError: The network cannot be built, or the weights do not fit it.
        """
        options = with_precision(options, context)
        self.options = options
        self.context = context
        self.folder = folder
        self.task = task_of(options)
        self.schedule = Schedule.from_options(options)
        self.best: dict[str, dict[str, float]] = {}

        network = self.task.build_network(options)
        if options.path.pretrain_network_g:
            load_file(network, resolve_model(options.path.pretrain_network_g))
        model_folder = None
        latency_table = None
        if folder is not None:
            model_folder = folder.models
            # Beside the results, not in a cache: times are part of what the run depended on.
            latency_table = folder.path / "latency_table.json"
        self.models = ModelWriter(options, model_folder, is_main=context.is_main)
        self.resources = RunResources(
            options=options,
            context=context,
            loss=TrainingLoss(options, context),
            models=self.models,
            latency_benchmark=make_latency_benchmark(network, options, context, latency_table),
        )
        self._phase_index = 0
        self.phase: Phase = Dense(self.resources, self.schedule.spans[0])
        self.phase.enter(Handover(network))
        if folder:
            # A third-party network may be one that files cannot describe; better known now.
            check_files(network)

    @property
    def network(self) -> nn.Module:
        """The network in training: plain, or converted during the search."""
        return self.phase.network

    def dry_run(self, batch: Batch, test_sets: Sequence[NamedTestSet]) -> None:
        """Surface errors of the later phases before training, see the module `dry_run`.

        Args:
            batch: The first training batch.
            test_sets: Test sets of the run's task, in the process that validates.

        Raises:
            UserError: The run would fail later.
        """
        networks = {"the network": self.network}
        if self.options.compress is not None:
            networks["the network with half of its channels cut"] = dry_run(
                self.network, self.options, self.context, self.resources.latency_benchmark
            )
        input_key, target_key = self.task.batch_keys
        images = self._to_device(batch[input_key][:TRIED_SAMPLES])
        target = self._to_device(batch[target_key][:TRIED_SAMPLES])
        for name, network in networks.items():
            with random_state_kept(self.context):
                try_training_step(network, name, images, target, self.resources.loss)
            for test_set in test_sets:
                shapes = self.task.input_shapes(network, test_set)
                try_image_sizes(network, name, shapes, test_set.name)

    def advance(self, iteration: int) -> list[Phase]:
        """Bring the network into the phase of step `iteration`.

        Several phases may begin at once, such as a search without dense training before it.

        Returns:
            The phases that were entered, in their order.
        """
        entered = []
        spans = self.schedule.spans
        # A loop, not a test: phases of no iterations are entered and left at once.
        while self._phase_index + 1 < len(spans):
            span = spans[self._phase_index + 1]
            if iteration < span.start:
                break
            # The old phase is left before the new one is made: it may write files that the new
            # one reads, such as the teacher.
            handover = self.phase.leave()
            self._phase_index += 1
            self.phase = PHASES[span.name](self.resources, span)
            self.phase.enter(handover)
            entered.append(self.phase)
        return entered

    def step(self, batch: Batch, iteration: int) -> dict[str, float]:
        """Take training step `iteration`.

        Args:
            batch: The two `batch_keys` of the task: images (N, C, h, w), and what the network's
                output is compared with.
            iteration: Steps taken before.

        Returns:
            `loss`, `lr`, and the figures of the search.

        Raises:
            UserError: The loss is not finite. The weights are those of the step before.
        """
        input_key, target_key = self.task.batch_keys
        images = self._to_device(batch[input_key])
        target = self._to_device(batch[target_key])
        taught = batch.get("taught")
        if taught is not None:
            taught = self._to_device(taught)
        # Set from the iteration at every step, never carried along: there is nothing to resume.
        rate = self.schedule.learning_rate(iteration)
        return self.phase.step(images, target, iteration, rate, taught)

    def validate(self, test_set: NamedTestSet, save_to: Path | None = None) -> dict[str, float]:
        """Score the network as it is now on a test set.

        Args:
            test_set: Test set of the run's task.
            save_to: Folder for the images that it makes; None keeps none.
        """
        network = self.phase.network_for_validation()
        return self.task.evaluate(network, test_set, self.context.device, save_to)

    def keep_if_best(self, iteration: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Write the network as the best model of its target if its score is the best so far.

        Args:
            iteration: Finished iterations.
            scores: Name of each test set -> its scores. The task's main score counts, as a mean
                over the sets.
        """
        name = best_names(self.options)[self.phase.span.target]
        key = self.task.main_score.key
        mean = self.task.mean_score(scores)
        # `best` is part of the training state: a resumed run must not replace a better model.
        if name in self.best and not self.task.is_better(mean, self.best[name][key]):
            return
        self.best[name] = {"iteration": iteration, key: mean}
        self.models.write(
            self.phase.network_for_validation(),
            name,
            scores=finite(scores),
            training={"iterations": iteration},
        )

    def write_final(self, target: int, **facts: object) -> None:
        """Write the final model of a target.

        Args:
            target: Index of the target, from 0.
            **facts: Further entries of its manifest, such as `scores`.
        """
        models = self.phase.pruned_models
        self.models.write_final(
            self.phase.final_networks()[target],
            target,
            models[target] if models else None,
            is_average=self.phase.average is not None,
            **facts,
        )

    def save(self, iteration: int, extra: StateTree | None = None) -> None:
        """Write the training state.

        Args:
            iteration: Finished iterations.
            extra: A tree of plain values that `resume` gives back.

        Raises:
            UserError: The run has no folder.
            OSError: The file cannot be written.
        """
        tree = {
            "iteration": iteration,
            "options": fixed_options(self.options, self.context.world_size),
            "trainer": self.state_dict(),
            "best": self.best,
            "extra": extra or {},
            "random": random_state(),
        }
        if self.folder is None:
            raise UserError("expected a folder for the run's files, got none: set run_folder")
        save_state(self.folder.states, iteration, tree)

    def resume(self, path: Path) -> StateTree:
        """Continue from a state file; to be called on a fresh trainer.

        Returns:
            The state, with `iteration` and `extra` as they were given to `save`.

        Raises:
            CheckpointError: The file is no training state, or damaged.
            UserError: It belongs to other options, all of which are named, or the dense network's
                file is lost.
        """
        tree = load_state(path)
        current = fixed_options(self.options, self.context.world_size)
        # The state may be from a version in which keys or values had other names.
        saved, _ = use_current_names(tree["options"])
        saved = with_new_options(saved, self.options)
        changes = differences(without_free_options(saved), current)
        if changes:
            raise UserError(
                f"{path}: the state belongs to other options; set them as they were, or start "
                "again without --auto_resume (this run is kept under another name):\n  "
                + "\n  ".join(changes)
            )
        if tree["trainer"]["phase"] > 0:
            # The results at the end need the file; its loss should not show only then.
            self.models.check_dense_file()
        self.load_state_dict(tree["trainer"])
        self.best = tree["best"]
        # Last, since building networks and phases draws random numbers that the saved run has not
        # drawn. From here on all generators continue as if it had never stopped.
        set_random_state(tree["random"])
        return tree

    def state_dict(self) -> StateTree:
        """Return the phase and its state as a tree of tensors and plain values."""
        return {"phase": self._phase_index, "state": self.phase.state_dict()}

    def load_state_dict(self, state: StateTree) -> None:
        """Enter the phase of a saved state; to be called on a fresh trainer."""
        plain = self.phase.network  # of the dense phase, which a fresh trainer is in
        self._phase_index = state["phase"]
        span = self.schedule.spans[self._phase_index]
        self.phase = PHASES[span.name](self.resources, span)
        self.phase.load_state_dict(state["state"], plain)

    def _to_device(self, tensor: Tensor) -> Tensor:
        return self.context.to_device(tensor, channels_last=self.options.train.channels_last)
