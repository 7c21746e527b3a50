"""The steps of a run: training, logging, validation and states, from one iteration to the end."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Dataset

from dhp_sr.config.schema import Options
from dhp_sr.data.sampler import train_batches
from dhp_sr.data.samples import Batch
from dhp_sr.tasks.base import NamedTestSet
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.run_folder import RunFolder
from dhp_sr.training.run_logger import RunLogger, is_latent_sample_due
from dhp_sr.training.trainer import Trainer


class Interrupted(Exception):
    """The run was asked to stop; its state is saved."""


class StopRequest:
    """Request to end a run. This one never comes; `cli.process` has one that listens to signals."""

    def __call__(self) -> bool:
        """Return whether the run is to end after the step that was taken last."""
        return False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this context a request waits for the end of a step, whose state is saved.

        Elsewhere it raises `KeyboardInterrupt` at once: the last state is that of the last step.
        """
        yield


class TrainingLoop:
    """Steps of a run whose folder is open.

    Args:
        options: Options of the run.
        context: Context of this process.
        folder: Open in the process that writes.
        trainer: At the iteration that the loop starts from.
        train_set: As `Task.train_set` returns it.
        test_sets: Validated on; empty in processes that do not write.
        losses: Losses of the iterations before, for the log; added to.
        stop: Called after every iteration; True saves the state and ends the run. See
            `StopRequest` for what else it may do.
        logger: Logger of the run.
    """

    def __init__(
        self,
        options: Options,
        context: DistributedContext,
        folder: RunFolder,
        trainer: Trainer,
        *,
        train_set: Dataset,
        test_sets: Sequence[NamedTestSet],
        losses: list[float],
        stop: Callable[[], bool],
        logger: logging.Logger,
    ) -> None:
        self.options = options
        self.context = context
        self.folder = folder
        self.trainer = trainer
        self.schedule = trainer.schedule
        self.train_set = train_set
        self.test_sets = test_sets
        self.losses = losses
        self.stop = stop
        self._deferred = stop.deferred if isinstance(stop, StopRequest) else contextlib.nullcontext
        self.logger = logger

    def run(self, start: int) -> None:
        """Take all steps from `start` on, and enter the phases that begin on the way.

        Raises:
            UserError: The training diverged.
            Interrupted: `stop` returned True; the state is saved.
        """
        # Batches depend on the seed and the iteration alone, so a resumed run sees the images
        # that it would have seen without the interruption.
        data = self.options.train_data
        batches = train_batches(
            self.train_set,
            batch_size=data.batch_size_per_gpu,
            workers=data.num_worker_per_gpu,
            seed=self.options.manual_seed,
            start_iteration=start,
            world_size=self.context.world_size,
            rank=self.context.rank,
        )
        end = self.schedule.end
        settings = self.options.logger
        with contextlib.ExitStack() as stack:
            run_logger = None
            if self.context.is_main:
                run_logger = RunLogger(
                    self.folder,
                    self.losses,
                    total=end,
                    start=start,
                    print_freq=settings.print_freq,
                    loss_name=self.trainer.task.loss_name if settings.use_tb_logger else None,
                )
                stack.enter_context(run_logger)
            if self._advance(start):
                self._save(start)
            # A run that was killed while its results were written has no steps left.
            if start < end:
                # Before the first batch is made: workers copy the set with the outputs in it.
                self.trainer.resources.loss.teach_whole_images(self.train_set, self.folder.path)
            for iteration in range(start, end):
                with self._deferred():
                    with run_logger.waiting_for_data() if run_logger else contextlib.nullcontext():
                        batch = next(batches)
                    self._step(batch, iteration, run_logger)
                # The next phase is entered, and its state saved, before the next step: a run
                # that is killed there resumes behind the search or the cut, not before it.
                if self._advance(iteration + 1):
                    self._save(iteration + 1)

    def _step(self, batch: Batch, iteration: int, run_logger: RunLogger | None) -> None:
        """Take a step, and log, validate and save what is due after it.

        Raises:
            UserError: The training diverged.
            Interrupted: `stop` returned True; the state is saved.
        """
        end = self.schedule.end
        log = self.trainer.step(batch, iteration)
        finished = iteration + 1
        is_due = finished % self.options.logger.save_checkpoint_freq == 0 or finished == end
        if is_due or self._is_kept(finished):
            self.trainer.phase.check_weights(finished)
        if run_logger is not None:
            self.folder.check_lock()
            self._record(run_logger, finished, log)
        is_stopping = self.context.any_rank(self.stop())
        if is_stopping:
            self.trainer.phase.check_weights(finished)
        # Between phases a search may take minutes, in which the run may be stopped.
        if is_stopping or is_due or self._is_last_of_phase(finished):
            self._save(finished)
        if is_stopping and finished < end:
            raise Interrupted(f"stopped after iteration {finished} of {end}; the state is saved")

    def _is_last_of_phase(self, finished: int) -> bool:
        """Whether another phase takes the network over."""
        return any(finished == span.end for span in self.schedule.spans)

    def _is_kept(self, finished: int) -> bool:
        """Whether the network is scored now, or another phase takes it over."""
        return self._is_last_of_phase(finished) or finished % self.options.val.val_freq == 0

    def _record(self, run_logger: RunLogger, finished: int, log: dict[str, float]) -> None:
        """Log a step, sample the latents, and validate where it is due."""
        phase = self.trainer.phase
        run_logger.log_step(finished, phase.name, log, phase.ratios)
        if phase.search is not None and is_latent_sample_due(self.schedule, finished):
            run_logger.log_latents(finished, phase.search)
        # At a milestone a final network is complete, and the next phase replaces it.
        is_milestone = finished in self.schedule.milestones
        if is_milestone or finished % self.options.val.val_freq == 0:
            self._validate(run_logger, finished)

    def _validate(self, run_logger: RunLogger, finished: int) -> None:
        """Score the network on all test sets, and keep it if it is the best so far."""
        phase_name = self.trainer.phase.name
        scores = {}
        for test_set in self.test_sets:
            folder = None
            if self.options.val.save_img:
                folder = self.folder.visualization / test_set.name
            scores[test_set.name] = self.trainer.validate(test_set, folder)
            summary = self.trainer.task.summary(scores[test_set.name])
            run_logger.log_scores(
                finished, phase_name, test_set.name, scores[test_set.name], summary
            )
        # A dense network may score better than any pruned network, but it is not what a run with
        # a search is for: the best model is chosen in the last phase alone.
        if scores and phase_name == self.schedule.phase(self.schedule.end):
            self.trainer.keep_if_best(finished, scores)

    def _advance(self, finished: int) -> bool:
        """Enter the phases that begin now; return whether there were any."""
        entered = self.trainer.advance(finished)
        for phase in entered:
            self.logger.info("%d: phase %s begins", finished, phase.name)
            description = phase.describe_start()
            if description:
                self.logger.info("%d: %s", finished, description)
        return bool(entered)

    def _save(self, finished: int) -> None:
        """Write the training state; the length of the log goes along, for rewinding it."""
        if self.context.is_main:
            self.folder.check_lock()
            extra = {"log_bytes": self.folder.log_bytes(), "losses": self.losses}
            self.trainer.save(finished, extra)
