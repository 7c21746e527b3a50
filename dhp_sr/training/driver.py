"""Training driver: a run from options to results."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from dhp_sr.config import dump_options, resolve_paths, run_path
from dhp_sr.config.schema import Options
from dhp_sr.data.memory import check_shared_memory
from dhp_sr.data.sampler import make_first_batch
from dhp_sr.data.samples import Batch
from dhp_sr.reports.tables import text_table
from dhp_sr.tasks import task_of
from dhp_sr.training.checkpoint import CheckpointError, list_states
from dhp_sr.training.distributed import (
    DistributedContext,
    destroy_process_group,
    explain_lost_processes,
    init_distributed,
    is_restarted,
    launch_id,
)
from dhp_sr.training.loop import Interrupted, TrainingLoop
from dhp_sr.training.loss import with_precision
from dhp_sr.training.plan_summary import plan_for_training
from dhp_sr.training.results import write_pages, write_results
from dhp_sr.training.run_folder import RunFolder, environment, open_log
from dhp_sr.training.run_lock import LOCK_NAME, FolderInUseError
from dhp_sr.training.trainer import Trainer
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json, write_text
from dhp_sr.utils.modules import StateTree
from dhp_sr.utils.strict_json import JsonObject


def train(
    options: Options,
    *,
    root: Path,
    auto_resume: bool = False,
    launcher: Literal["none", "pytorch"] = "none",
    stop: Callable[[], bool] = lambda: False,
) -> JsonObject:
    """Run all phases and write `experiments/<name>/`.

    Args:
        options: A checked option file.
        root: The project's folder; relative paths are looked up from the working directory, then
            from here.
        auto_resume: Continue from the newest state of this run, if there is any. Without it an
            earlier run of the same name is renamed. Processes that torchrun starts again after a
            failure resume what it has begun in any case.
        launcher: `pytorch` when started by torchrun.
        stop: Called after every iteration; True saves the state and ends the run. See
            `loop.StopRequest` for what else it may do.

    Returns:
        The content of metrics.json; empty in processes that do not write.

    Raises:
        UserError: A mistake in options or files, or a diverged training.
        FolderInUseError: Another run writes to the folder.
        LostProcessError: A worker or another process of the run has ended.
        Interrupted: `stop` returned True, or Ctrl-C came after a state had been saved.
    """
    context = init_distributed(options.num_gpu, launcher)
    try:
        folder = RunFolder(run_path(options, root), task_of(options).scores)
        if is_restarted() and not auto_resume:
            auto_resume = context.broadcast(lambda: folder.launch() == launch_id())
        stored = folder.path / "options.yml" if auto_resume else None
        options = with_precision(resolve_paths(options, root), context, stored)
        with explain_lost_processes(context):
            run = _Run(options, context, folder, stop)
            try:
                return run.execute(auto_resume)
            finally:
                folder.close()
    finally:
        destroy_process_group()


def batch_of_workers(first_batch: Batch, options: Options) -> Batch:
    """Return a batch of the size that workers make: later ones may hold the teacher's outputs."""
    compress = options.compress
    if compress is None or compress.distill is None or not compress.distill.whole_images:
        return first_batch
    num, channels, height, width = first_batch["lq"].shape
    shape = (num, channels, height * options.scale, width * options.scale)
    return {**first_batch, "taught": torch.empty(shape)}


class _Run:
    """Data, trainer, folder and log of a run."""

    def __init__(
        self,
        options: Options,
        context: DistributedContext,
        folder: RunFolder,
        stop: Callable[[], bool],
    ) -> None:
        self.options = options
        self.context = context
        self.folder = folder
        self.stop = stop
        # All that can be wrong with data and network shows here. Nothing has been written by then,
        # so a mistake in the options costs no time and leaves an earlier run where it is.
        task = task_of(options)
        if "train" not in options.datasets:
            raise UserError(
                f"expected a section datasets.train, got only {', '.join(options.datasets)}"
            )
        self.train_set = task.train_set(options)
        data = options.train_data
        self.first_batch = make_first_batch(
            self.train_set, batch_size=data.batch_size_per_gpu, seed=options.manual_seed
        )
        check_shared_memory(
            batch_of_workers(self.first_batch, options),
            workers=data.num_worker_per_gpu,
            processes=int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size)),
        )
        # Only rank 0 validates: the other processes would read the same images in vain.
        self.test_sets = task.test_sets(options) if context.is_main else []
        self.trainer = Trainer(options, context, folder)
        task.check_data(self.trainer.network, self.train_set, self.test_sets)
        self.schedule = self.trainer.schedule

    def execute(self, auto_resume: bool) -> JsonObject:
        """Take all steps that are left, and write the results.

        Returns:
            The form of metrics.json; empty in processes that do not write.
        """
        state = self._resume() if auto_resume else None
        is_resumed = state is not None
        if state is None:
            # A resumed run has passed this, and its phase may have replaced the plain network.
            self.trainer.dry_run(self.first_batch, self.test_sets)
            state = {"iteration": 0, "extra": {}}
        start = state["iteration"]
        if is_resumed and start == self.schedule.end and self.folder.results() is not None:
            return self._keep_finished()

        # Rank 0 does it; from here on every process may expect the folder.
        log_bytes = state["extra"].get("log_bytes", 0)

        def open_folder() -> Path | None:
            earlier = self.folder.open(resume=is_resumed)
            # The tables go back to the iteration of the state, so that they end like those of an
            # uninterrupted run.
            self.folder.rewind(start, log_bytes)
            return earlier

        archived = self.context.broadcast(open_folder)
        log_file = self.folder.log if self.context.is_main else None
        with open_log(log_file, screen=self.context.is_main) as self.logger:
            if archived:
                self.logger.info("an earlier run of this name was renamed to %s", archived.name)
            if self.context.is_main:
                self._write_start(start, is_resumed=is_resumed)
            try:
                loop = TrainingLoop(
                    self.options,
                    self.context,
                    self.folder,
                    self.trainer,
                    train_set=self.train_set,
                    test_sets=self.test_sets,
                    losses=state["extra"].get("losses", []),
                    stop=self.stop,
                    logger=self.logger,
                )
                loop.run(start)
                return self._finish()
            except (UserError, Interrupted) as error:
                self.log_to_file(error)
                raise
            except KeyboardInterrupt:
                states = list_states(self.folder.states)
                if not states:
                    raise
                stopped = Interrupted(f"stopped; the state of iteration {states[-1][0]} is saved")
                self.log_to_file(stopped)
                raise stopped from None

    def log_to_file(self, error: Exception) -> None:
        """Write an error to the log file alone: on the screen the entry point shows it."""
        record = self.logger.makeRecord("dhp_sr", logging.ERROR, "", 0, str(error), (), None)
        for handler in self.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)

    def _resume(self) -> StateTree | None:
        """Resume from the newest state that can be read; None where there is no state."""
        paths = [path for _, path in reversed(list_states(self.folder.states))]
        for path in paths:
            try:
                return self.trainer.resume(path)
            except CheckpointError as error:
                # Starting from nothing instead would archive a run that somebody wants to resume.
                if path == paths[-1]:
                    raise UserError(
                        f"{error}; no older state is left: start again without --auto_resume"
                    ) from error
                warnings.warn(f"{error}; going back to the state before it", stacklevel=2)
        return None

    def _keep_finished(self) -> JsonObject:
        """Leave a finished run unchanged, but for pages that it was killed before writing."""
        if not self.context.is_main:
            return {}
        is_writable = True
        try:
            # A run that was killed while it wrote its pages left a lock and half a file.
            self.folder.open(resume=True)
        except FolderInUseError:
            raise
        except UserError:
            is_writable = False  # as in an archive; the results are there
        with open_log(None, screen=True) as logger:
            logger.info(
                "%s is finished, nothing was changed; score it on other images by test.py, "
                "or remove its metrics.json to have it scored again",
                self.folder.path,
            )
        # Pages may seem to be older than the results where a copy has not kept the times of files.
        if is_writable:
            write_pages(self.folder, only_missing=True)
        return self.folder.results() or {}

    def _write_start(self, start: int, *, is_resumed: bool) -> None:
        """Log how the run begins; a new run also writes options, environment and plan."""
        # A run without a dense phase has a state of iteration 0, with the network converted.
        if is_resumed:
            self.logger.info("resumed at iteration %d (phase %s)", start, self.trainer.phase.name)
            return
        write_text(self.folder.path / "options.yml", dump_options(self.options))
        write_json(self.folder.path / "environment.json", environment(self.context))
        schedule = self.schedule
        phases = f"dense {schedule.dense_iter}"
        if schedule.has_search:
            plan = plan_for_training(self.trainer.network, self.options, self.context)
            write_json(self.folder.path / "plan.json", plan)
            phases += f", search {schedule.search_iter}, finetune {schedule.finetune_iter}"
        if schedule.num_targets > 1:
            phases += f" for each of {schedule.num_targets} targets"
        precision = {"none": "float32", "bf16": "bf16"}
        self.logger.info(
            "%s: %s on %s in %s; iterations: %s",
            self.options.name,
            self.options.network_g.type,
            self.context.device,
            precision[self.options.train.amp],
            phases,
        )

    def _finish(self) -> JsonObject:
        """Write and log the results; empty in processes that do not write."""
        if not self.context.is_main:
            return {}
        self.folder.check_lock()
        metrics = write_results(self.trainer, self.folder, self.test_sets)
        self.logger.info("results\n%s", text_table(metrics))
        names = sorted(path.name for path in self.folder.path.iterdir() if path.name != LOCK_NAME)
        self.logger.info("written to %s: %s", self.folder.path, ", ".join(names))
        return metrics
